// Precision of flags and share of missed images, as tables.

import { element, percent } from "./elements.js";

// "81 % (62 % to 93 %) of 27"
export function rateText(rate) {
  return rate ? `${percent(rate.rate)} (${percent(rate.low)} to ${percent(rate.high)}) of ${rate.count}` : "–";
}

// The rates of every model that has reviews.
export function rateTables(rates) {
  const models = Object.entries(rates);
  if (models.length === 0) {
    return [element("p", {}, "No reviews yet.")];
  }
  return models.map(([name, figures]) =>
    element(
      "div",
      { class: "rates" },
      element("h3", {}, name),
      element("p", {}, "Correct flags: ", element("strong", {}, rateText(figures.precision.all))),
      element("p", {}, "Missed in the random sample: ", element("strong", {}, rateText(figures.missed))),
      element("p", { class: "note" }, clients(figures.clients)),
      rateTable("Correct flags by class and component", ["Group", "Correct flags"], groups(figures.precision)),
      rateTable(
        "By day",
        ["Day", "Correct flags", "Missed"],
        figures.days.map(({ day, precision, missed }) => [day, rateText(precision), rateText(missed)]).reverse(),
      ),
    ),
  );
}

function clients(decisions) {
  const reports = Object.entries(decisions).map(([decision, count]) => `${count} × ${decision.replaceAll("_", " ")}`);
  return reports.length ? `Reports of clients: ${reports.join(", ")}.` : "No reports of clients.";
}

function groups(precision) {
  return Object.entries(precision)
    .filter(([group]) => group !== "all")
    .map(([group, rate]) => [group.replace(":", ": ").replaceAll("_", " "), rateText(rate)]);
}

function rateTable(title, heads, rows) {
  if (rows.length === 0) {
    return null;
  }
  return element(
    "details",
    {},
    element("summary", {}, title),
    dataTable(title, heads, rows),
  );
}

// A table whose first column has the names of the rows.
export function dataTable(title, heads, rows) {
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
      element(
        "tbody",
        {},
        ...rows.map(([name, ...cells]) =>
          element("tr", {}, element("th", { scope: "row" }, name), ...cells.map((cell) => element("td", {}, cell))),
        ),
      ),
    ),
  );
}
