// The card of one image: waiting, with a verdict, or refused.

import { chart, columnName, departures, legend, placeName, table } from "./chart.js";
import { drawing, element, percent, short } from "./elements.js";

const SMALL = 96; // images up to this many pixels across are enlarged without blurring

const ICONS = {
  flagged: "M3 1.5v13M3 2.5h9l-2.4 3 2.4 3H3",
  trusted: "M2.5 8.5l3.5 4 7.5-9",
  refused: "M3.5 3.5l9 9M12.5 3.5l-9 9",
};

export class Card {
  constructor(name, image) {
    this.name = name;
    this.state = "waiting"; // then flagged, trusted or refused
    this.status = 0;
    this.address = image ? URL.createObjectURL(image) : "";
    this.heading = element("h3", {}, name);
    this.verdict = element("p", { class: "verdict" }, "Waiting…");
    this.body = element("div", { class: "body" });
    const texts = element("div", { class: "texts" }, this.heading, this.verdict, this.body);
    this.item = element("li", { class: "card waiting", tabindex: "-1" }, ...(this.address ? [thumbnail(this.address)] : []), texts);
  }

  wait() {
    this.become("waiting", "Waiting…");
  }

  // Shows a verdict; returns it in one sentence.
  showVerdict(response, { model, descriptions }) {
    const [result] = response.results;
    this.become(
      result.flagged ? "flagged" : "trusted",
      result.flagged ? "Flagged: do not trust the class" : "Not flagged",
    );
    const parts = [
      element("p", { class: "class" }, element("span", {}, "Class"), " ", element("strong", {}, result.class_name)),
      result.flagged && result.main_component
        ? element("p", { class: "mainly" }, ...mainly(result, descriptions))
        : null,
      numbers(response, result, model),
      components(result, descriptions),
    ];
    this.body.append(...parts.filter((part) => part !== null));
    if (result.path) {
      this.item.append(pathOf(result.path, result.flagged));
    }
    return `${this.name}: ${result.class_name}, ${result.flagged ? "flagged" : "not flagged"}`;
  }

  // Shows an error; returns it in one sentence.
  showRefusal(refusal, retry) {
    this.become("refused", refusal.message);
    this.status = refusal.status;
    if (refusal.detail) {
      this.body.append(element("p", { class: "detail" }, refusal.detail));
    }
    if (refusal.again) {
      const button = element("button", { type: "button", class: "quiet" }, "Try again");
      button.addEventListener("click", () => {
        this.item.focus(); // the button disappears
        retry();
      });
      this.body.append(button);
    }
    return `${this.name}: ${refusal.message} ${refusal.detail}`;
  }

  become(state, text) {
    this.state = state;
    this.status = 0;
    this.item.className = `card ${state}`;
    this.verdict.replaceChildren(...(ICONS[state] ? [icon(state)] : []), text);
    this.body.replaceChildren();
    this.item.querySelector(".path")?.remove();
  }

  remove() {
    this.item.remove();
    URL.revokeObjectURL(this.address);
  }
}

function icon(state) {
  return drawing("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" }, drawing("path", { d: ICONS[state] }));
}

function thumbnail(address) {
  const picture = element("img", { src: address, alt: "", class: "thumb" });
  picture.addEventListener("load", () => {
    picture.classList.toggle("small", Math.max(picture.naturalWidth, picture.naturalHeight) <= SMALL);
  });
  picture.addEventListener("error", () => {
    picture.replaceWith(element("span", { class: "thumb none", "aria-hidden": "true" }, "?"));
  });
  return picture;
}

function mainly(result, descriptions) {
  const component = element("strong", {}, componentTitle(result.main_component, descriptions));
  return result.main_part
    ? ["Flagged mainly as ", element("strong", {}, result.main_part), ", by ", component]
    : ["Flagged mainly by ", component];
}

function numbers(response, result, model) {
  const entry = (name, value, note = "") =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value, note ? element("small", {}, note) : null));
  return element(
    "dl",
    { class: "numbers" },
    entry("Probability", percent(result.probability)),
    entry("Score", short(result.score), `flagged from ${short(response.threshold)}`),
    entry("p-value", short(result.p_value), `flagged up to ${short(response.fpr)}`),
    ...Object.entries(result.part_p_values ?? {}).map(([name, value]) => entry(`p-value, ${name}`, short(value))),
    ...(model ? [entry("Model", model)] : []),
  );
}

// The parts of the score; `descriptions` maps a component's name to {title, description}.
function components(result, descriptions) {
  const rows = Object.entries(result.components).map(([name, value]) => {
    const main = name === result.main_component;
    return element(
      "div",
      main ? { class: "main" } : {},
      element("dt", {}, componentTitle(name, descriptions), main ? element("em", {}, " contributes most") : null),
      element("dd", {}, short(value), element("small", {}, descriptions.get(name)?.description ?? "")),
    );
  });
  if (rows.length === 0) {
    return null;
  }
  const heading = element("h4", {}, "Components of the score", element("small", {}, " larger = less natural"));
  return element("div", { class: "components" }, heading, element("dl", {}, ...rows));
}

function componentTitle(name, descriptions) {
  return descriptions.get(name)?.title ?? name.replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase());
}

export function pathOf(path, flagged) {
  const columns = path.statistics[0].map((_, column) => column);
  return element(
    "div",
    { class: "path" },
    element("h4", {}, "Path through the network"),
    element("p", {}, pathSummary(path, flagged)),
    element("div", { class: "charts" }, ...columns.map((column) => chart(path, column))),
    legend(),
    element(
      "details",
      {},
      element("summary", {}, "Statistics of every block"),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Statistics of every block" }, table(path)),
    ),
  );
}

function pathSummary(path, flagged) {
  const places = departures(path);
  const count = path.statistics.length * path.statistics[0].length;
  // The band spans the 5 % to the 95 % quantile, so a tenth of the values of a natural image are outside.
  const expected = count / 10;
  const unlike = flagged ? places.length <= expected : places.length > expected;
  const note = unlike ? ` It is ${flagged ? "flagged" : "not flagged"} because the detector combines all components.` : "";
  if (places.length === 0) {
    return `The path stays in the natural band at every block.${note}`;
  }
  const [first] = places;
  const step = `${columnName(first.column)} is ${short(first.value)}, ${first.above ? "above" : "below"} ${short(first.edge)}`;
  return (
    `The path leaves the natural band at ${placeName(path, first.block)}: ${step}. ` +
    `${places.length} of ${count} values ${places.length === 1 ? "is" : "are"} outside the band; ` +
    `about ${short(expected)} are expected for a natural image.${note}`
  );
}
