// What is said about one image: waiting, judged or refused.

import { chart, columnName, departures, legend, placeName, table } from "./chart.js";
import { drawing, element, percent, short } from "./elements.js";

const SMALL = 96; // images up to this many pixels across are enlarged without blurring

const SIGNS = {
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
    this.said = element("p", { class: "said" }, "Waiting…");
    this.body = element("div", { class: "body" });
    const texts = element("div", { class: "texts" }, this.heading, this.said, this.body);
    this.item = element("li", { class: "card waiting", tabindex: "-1" }, ...(this.address ? [picture(this.address)] : []), texts);
  }

  wait() {
    this.become("waiting", "Waiting…");
  }

  judged(answer, model) {
    const [result] = answer.results;
    const state = result.flagged ? "flagged" : "trusted";
    this.become(state, result.flagged ? "Flagged: do not trust the class" : "Not flagged");
    this.body.append(
      element("p", { class: "class" }, element("span", {}, "Class"), " ", element("strong", {}, result.class_name)),
      numbers(answer, result, model),
    );
    if (result.path) {
      this.item.append(pathOf(result.path, result.flagged));
    }
    return `${this.name}: ${result.class_name}, ${result.flagged ? "flagged" : "not flagged"}`;
  }

  refused(refusal, retry) {
    this.become("refused", refusal.message);
    this.status = refusal.status;
    if (refusal.detail) {
      this.body.append(element("p", { class: "detail" }, refusal.detail));
    }
    if (refusal.again) {
      const button = element("button", { type: "button", class: "quiet" }, "Try again");
      button.addEventListener("click", () => {
        this.item.focus(); // the button goes
        retry();
      });
      this.body.append(button);
    }
    return `${this.name}: ${refusal.message} ${refusal.detail}`;
  }

  become(state, words) {
    this.state = state;
    this.status = 0;
    this.item.className = `card ${state}`;
    this.said.replaceChildren(...(SIGNS[state] ? [sign(state)] : []), words);
    this.body.replaceChildren();
    this.item.querySelector(".path")?.remove();
  }

  remove() {
    this.item.remove();
    URL.revokeObjectURL(this.address);
  }
}

function sign(state) {
  return drawing("svg", { class: "sign", viewBox: "0 0 16 16", "aria-hidden": "true" }, drawing("path", { d: SIGNS[state] }));
}

function picture(address) {
  const shown = element("img", { src: address, alt: "", class: "thumb" });
  shown.addEventListener("load", () => {
    shown.classList.toggle("small", Math.max(shown.naturalWidth, shown.naturalHeight) <= SMALL);
  });
  shown.addEventListener("error", () => {
    shown.replaceWith(element("span", { class: "thumb none", "aria-hidden": "true" }, "?"));
  });
  return shown;
}

function numbers(answer, result, model) {
  const entry = (name, value, note = "") =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value, note ? element("small", {}, note) : null));
  const votes = Object.entries(result.votes).map(([name, vote]) => entry(`Vote, ${name.replaceAll("_", " ")}`, short(vote)));
  return element(
    "dl",
    { class: "numbers" },
    entry("Probability", percent(result.probability)),
    entry("Score", short(result.score), `flagged from ${short(answer.threshold)}`),
    entry("p-value", short(result.p_value), `flagged up to ${short(answer.fpr)}`),
    ...votes,
    ...(model ? [entry("Model", model)] : []),
  );
}

function pathOf(path, flagged) {
  const columns = path.statistics[0].map((_, column) => column);
  return element(
    "div",
    { class: "path" },
    element("h4", {}, "Its path through the network"),
    element("p", { class: "whole" }, wholeWords(path, flagged)),
    element("div", { class: "charts" }, ...columns.map((column) => chart(path, column))),
    legend(),
    element(
      "details",
      {},
      element("summary", {}, "The numbers"),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Statistics of every block" }, table(path)),
    ),
  );
}

function wholeWords(path, flagged) {
  const places = departures(path);
  const points = path.statistics.length * path.statistics[0].length;
  // The band spans the 5 % to the 95 % quantile, so a tenth of natural values lie outside it.
  const usual = points / 10;
  const unlike = flagged ? places.length <= usual : places.length > usual;
  const together = unlike ? ` It is ${flagged ? "flagged" : "not flagged"} all the same: the detector weighs all values together.` : "";
  if (places.length === 0) {
    return `It stays within the natural band at every block.${together}`;
  }
  const [first] = places;
  const step = `${columnName(first.column)} is ${short(first.value)}, ${first.above ? "above" : "below"} ${short(first.edge)}`;
  return (
    `It leaves the natural band at ${placeName(path, first.block)}: ${step}. ` +
    `${places.length} of its ${points} values ${places.length === 1 ? "is" : "are"} outside; ` +
    `of a natural image's, about ${short(usual)}.${together}`
  );
}
