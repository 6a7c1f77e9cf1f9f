// The review page: stored verdicts, newest first, each with two buttons.

import { Refusal, decide, reviewPath, reviewPicture, reviews } from "./api.js";
import { pathOf } from "./card.js";
import { byId, element, short } from "./elements.js";
import { showKeyForm, wireKeyForm } from "./key-form.js";
import { rateTables } from "./rates.js";

const NAMES = {
  false_alarm: "False alarm",
  correct_flag: "Correct flag",
  missed: "Missed",
  correct_pass: "Correct pass",
};
const FILTERS = ["of", "model", "class", "key", "session"];

let last = null; // id of the oldest verdict on the page
let round = 0;

async function load({ more = false } = {}) {
  round += 1;
  const current = round;
  const filter = Object.fromEntries(FILTERS.map((name) => [name, byId(`filter-${name}`).value.trim()]).filter(([, value]) => value));
  if (byId("filter-unreviewed").checked) {
    filter.unreviewed = "true";
  }
  if (more && last !== null) {
    filter.before = `${last}`;
  }
  const answer = await tried(() => reviews(filter));
  if (!answer || current !== round) {
    return;
  }
  const { verdicts, rates } = answer;
  const cards = verdicts.map(card);
  if (more) {
    byId("cards").append(...cards);
  } else {
    byId("cards").replaceChildren(...cards);
  }
  last = verdicts.at(-1)?.id ?? last;
  byId("more").hidden = verdicts.length === 0;
  byId("summary").textContent = byId("cards").children.length === 0 ? "No images." : "";
  byId("rates").replaceChildren(...rateTables(rates));
}

function card(verdict) {
  const picture = element("span", { class: "thumb none", "aria-hidden": "true" }, "–");
  const state = element("p", { class: "verdict" }, decisionText(verdict));
  const label = element("input", { type: "text", maxlength: "200", "aria-label": `Label of image ${verdict.id}` });
  label.value = verdict.decision_label ?? "";
  const decisions = verdict.flagged ? ["false_alarm", "correct_flag"] : ["missed", "correct_pass"];
  const buttons = decisions.map((decision) => {
    const button = element("button", { type: "button" }, NAMES[decision]);
    button.addEventListener("click", async () => {
      const review = { decision, label: label.value.trim() || null };
      if (await tried(() => decide(verdict.id, review))) {
        state.textContent = decisionText({ ...verdict, decision, decision_label: review.label });
        item.classList.add("reviewed");
        announce(`Image ${verdict.id}: ${NAMES[decision]}.`);
        showRates();
        next(item)?.querySelector("button")?.focus();
      }
    });
    return button;
  });
  const item = element(
    "li",
    { class: `card ${verdict.flagged ? "flagged" : "trusted"}${verdict.decision ? " reviewed" : ""}`, tabindex: "-1" },
    picture,
    element(
      "div",
      { class: "texts" },
      element("h3", {}, verdict.class_name),
      state,
      facts(verdict),
      element("div", { class: "choice" }, ...buttons, element("label", {}, "Label ", label)),
      verdict.image ? pathDetails(verdict) : null,
    ),
  );
  if (verdict.image) {
    showPicture(verdict, picture);
  }
  return item;
}

async function showRates() {
  const answer = await tried(() => reviews({ limit: 1 }));
  if (answer) {
    byId("rates").replaceChildren(...rateTables(answer.rates));
  }
}

function decisionText({ flagged, decision, decision_label: label, client_decision: reported, client_label: named }) {
  const parts = [flagged ? "Flagged" : "Not flagged", decision ? NAMES[decision] : "no decision"];
  const client = reported ? ` (client: ${NAMES[reported]}${named ? `, ${named}` : ""})` : "";
  return parts.join(": ") + (label ? `, ${label}` : "") + client;
}

function facts(verdict) {
  const entries = {
    Time: new Date(1000 * verdict.time).toLocaleString(),
    "p-value": short(verdict.p_value),
    Score: short(verdict.score),
    ...Object.fromEntries(Object.entries(verdict.part_p_values).map(([name, value]) => [`p-value, ${name}`, short(value)])),
    ...(verdict.main_part ? { "Main part": verdict.main_part } : {}),
    "Main component": verdict.main_component?.replaceAll("_", " ") ?? "–",
    Model: `${verdict.model}, ${verdict.version}`,
    Key: verdict.key ?? "–",
    Session: verdict.session ?? "–",
    Request: `${verdict.request}, image ${verdict.place}`,
  };
  const rows = Object.entries(entries).map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value)),
  );
  return element("dl", { class: "numbers" }, ...rows);
}

function pathDetails(verdict) {
  const details = element("details", {}, element("summary", {}, "Path and components"));
  details.addEventListener("toggle", async () => {
    if (!details.open || details.children.length > 1) {
      return;
    }
    const scored = await tried(() => reviewPath(verdict.id));
    if (scored) {
      const components = Object.entries(verdict.components).map(([name, value]) =>
        element("div", {}, element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, short(value))),
      );
      details.append(
        element("div", { class: "components" }, element("dl", {}, ...components)),
        scored.version === verdict.version ? "" : element("p", { class: "note" }, `Path by version ${scored.version}.`),
        pathOf(scored.path, verdict.flagged),
      );
    }
  });
  return details;
}

async function showPicture(verdict, place) {
  try {
    const address = URL.createObjectURL(await reviewPicture(verdict.id));
    const picture = element("img", { src: address, alt: `Image ${verdict.id}`, class: "thumb" });
    picture.addEventListener("load", () => {
      picture.classList.toggle("small", Math.max(picture.naturalWidth, picture.naturalHeight) <= 96);
      URL.revokeObjectURL(address);
    });
    place.replaceWith(picture);
  } catch (refusal) {
    if (!(refusal instanceof Refusal)) {
      throw refusal;
    }
    place.textContent = "?"; // deleted since
  }
}

function next(item) {
  let other = item.nextElementSibling;
  while (other?.classList.contains("reviewed")) {
    other = other.nextElementSibling;
  }
  return other;
}

// The result of `work`, or null after a message.
async function tried(work) {
  try {
    return await work();
  } catch (refusal) {
    if (!(refusal instanceof Refusal)) {
      throw refusal;
    }
    if (refusal.status === 401) {
      showKeyForm(refusal.message);
    } else {
      byId("summary").textContent = refusal.status === 404 ? "The server has no store, or the image was deleted." : `${refusal.message} ${refusal.detail}`;
    }
    return null;
  }
}

function announce(text) {
  byId("news").textContent = text;
}

// Other pages link to the images of a session.
for (const [name, value] of new URLSearchParams(location.search)) {
  if (FILTERS.includes(name)) {
    byId(`filter-${name}`).value = value;
  }
}
wireKeyForm(() => load());
byId("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  load();
});
byId("more").addEventListener("click", () => load({ more: true }));
load();
