// The page: images in, cards out, at most four requests at a time.

import { Refusal, example, exampleNames, keepKey, key, predict } from "./api.js";
import { Card } from "./card.js";
import { byId, element } from "./elements.js";
import { Live } from "./status.js";

const IN_FLIGHT = 4;
const MOST_AT_ONCE = 500;

const waiting = [];
const cards = new Map(); // card → what to judge
let inFlight = 0;
let models = [];

const live = new Live({ onModels: know, onRefused: whyNot });

// Images

function take(images) {
  const taken = images.slice(0, MOST_AT_ONCE);
  if (taken.length === 0) {
    return;
  }
  const made = taken.map(({ name, image }) => new Card(name, image));
  made.forEach((card, i) => cards.set(card, taken[i].image));
  byId("cards").prepend(...made.map((card) => card.item));
  waiting.push(...made);
  summarise(images.length - taken.length);
  work();
}

function takeFiles(files) {
  take([...files].map((file) => ({ name: file.name, image: file })));
}

async function work() {
  while (waiting.length > 0 && inFlight < IN_FLIGHT) {
    inFlight += 1;
    judge(waiting.shift()).finally(() => {
      inFlight -= 1;
      work();
      if (inFlight === 0 && !byId("live").hidden) {
        live.start(); // what these images cost is of interest now
      }
    });
  }
}

async function judge(card) {
  if (!cards.has(card)) {
    return; // cleared meanwhile
  }
  const model = byId("model").value;
  try {
    const answer = await predict(routeOf(model), cards.get(card));
    tell(card.judged(answer, models.length > 1 ? model : ""));
  } catch (refusal) {
    tell(card.refused(inWords(refusal), () => again([card])));
    if (refusal.status === 401) {
      askForKey(refusal.message);
    }
  }
  summarise();
}

function inWords(problem) {
  if (problem instanceof Refusal) {
    return problem;
  }
  return new Refusal("The server's answer cannot be read.", { detail: String(problem), again: true });
}

function routeOf(model) {
  const first = !model || model === models[0]?.name;
  return first ? "v1/predict" : `v1/models/${encodeURIComponent(model)}/predict`;
}

function again(some) {
  for (const card of some) {
    card.wait();
  }
  waiting.push(...some);
  summarise();
  work();
}

// What has come out

function summarise(left = 0) {
  const count = { waiting: 0, flagged: 0, trusted: 0, refused: 0 };
  for (const card of cards.keys()) {
    count[card.state] += 1;
  }
  const parts = [
    `${cards.size} ${cards.size === 1 ? "image" : "images"}`,
    `${count.flagged} flagged`,
    `${count.trusted} not flagged`,
    ...(count.refused ? [`${count.refused} refused`] : []),
    ...(count.waiting ? [`${count.waiting} waiting`] : []),
    ...(left ? [`${left} more were left out: ${MOST_AT_ONCE} at once`] : []),
  ];
  byId("summary").textContent = cards.size ? parts.join(" · ") : "Nothing judged yet.";
  byId("clear").hidden = cards.size === 0;
}

function tell(news) {
  byId("news").textContent = news;
}

function clear() {
  waiting.length = 0;
  for (const card of cards.keys()) {
    card.remove();
  }
  cards.clear();
  summarise();
  tell("Cleared.");
  byId("files").focus();
}

// Models

function know(known) {
  const names = known.map(({ name }) => name);
  if (names.join("\n") !== models.map(({ name }) => name).join("\n")) {
    const chosen = byId("model").value;
    byId("model").replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    byId("model").value = names.includes(chosen) ? chosen : (names[0] ?? "");
    byId("model-choice").hidden = names.length < 2;
    live.chosen = byId("model").value;
  }
  models = known;
}

// The key

function whyNot(refusal) {
  if (refusal.status === 401) {
    askForKey(refusal.message);
  }
}

function askForKey(message) {
  byId("key-message").textContent = message;
  byId("key-section").hidden = false;
  byId("key-forget").hidden = !key();
}

function useKey(event) {
  event.preventDefault();
  const typed = byId("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(typed)) {
    askForKey("A key has letters, digits and signs of plain ASCII, and no spaces. This one has others.");
    return;
  }
  keepKey(typed);
  byId("key").value = "";
  byId("key-section").hidden = true;
  tell("The key is used from now on.");
  byId("files").focus();
  start();
  again([...cards.keys()].filter((card) => card.status === 401));
}

function forgetKey() {
  keepKey("");
  askForKey("The key is forgotten.");
  byId("key").focus();
}

// Examples

async function offerExamples() {
  let names;
  try {
    names = await exampleNames();
  } catch (refusal) {
    whyNot(refusal);
    return;
  }
  byId("example-list").replaceChildren(...names.map((name, index) => exampleButton(name, index)));
  byId("examples").hidden = names.length === 0;
  byId("all-examples").onclick = () => takeExamples(names.map((name, index) => ({ name, index })));
}

function exampleButton(name, index) {
  const shown = element("img", { alt: "", class: "thumb" });
  const button = element("button", { type: "button", "aria-label": `Judge ${name}` }, shown, element("span", {}, name));
  button.addEventListener("click", () => takeExamples([{ name, index }]));
  example(index).then(
    (image) => {
      shown.addEventListener("load", () => {
        shown.classList.toggle("small", shown.naturalWidth <= 96);
        URL.revokeObjectURL(shown.src);
      });
      shown.src = URL.createObjectURL(image);
    },
    () => shown.remove(),
  );
  return element("li", {}, button);
}

async function takeExamples(some) {
  const images = await Promise.allSettled(some.map(({ index }) => example(index)));
  const got = some.flatMap(({ name }, i) => (images[i].status === "fulfilled" ? [{ name, image: images[i].value }] : []));
  if (got.length < some.length) {
    tell("Some examples could not be fetched.");
    whyNot(images.find(({ status }) => status === "rejected").reason);
  }
  take(got);
}

// The ways in

function start() {
  live.start();
  offerExamples();
}

function wire() {
  const drop = byId("drop");
  byId("files").addEventListener("change", ({ target }) => {
    takeFiles(target.files);
    target.value = ""; // the same file again is a change again
  });
  document.addEventListener("paste", ({ clipboardData }) => takeFiles(clipboardData?.files ?? []));
  // Anywhere on the page, since a file dropped beside the box would otherwise replace the page.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", ({ relatedTarget }) => relatedTarget ?? drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    takeFiles(event.dataTransfer?.files ?? []);
  });
  byId("clear").addEventListener("click", clear);
  byId("key-form").addEventListener("submit", useKey);
  byId("key-forget").addEventListener("click", forgetKey);
  byId("model").addEventListener("change", ({ target }) => {
    live.chosen = target.value;
    live.show(models);
  });
}

wire();
start();
