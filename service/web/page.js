// The page: one card per image, at most four requests at a time.

import { Refusal, example, exampleNames, modelDescriptions, predict } from "./api.js";
import { Card } from "./card.js";
import { byId, element } from "./elements.js";
import { showKeyForm, wireKeyForm } from "./key-form.js";
import { Live } from "./status.js";

const MAX_IN_FLIGHT = 4;
const MAX_IMAGES = 500;

const waiting = [];
const cards = new Map(); // card → image
let inFlight = 0;
let models = [];
let components = new Map(); // model → name of a component → {title, description}

const live = new Live({ onModels: updateModels, onRefused: showProblem });

// Images

function add(images) {
  const added = images.slice(0, MAX_IMAGES);
  if (added.length === 0) {
    return;
  }
  const newCards = added.map(({ name, image }) => new Card(name, image));
  newCards.forEach((card, i) => cards.set(card, added[i].image));
  byId("cards").prepend(...newCards.map((card) => card.item));
  waiting.push(...newCards);
  updateSummary(images.length - added.length);
  work();
}

function addFiles(files) {
  add([...files].map((file) => ({ name: file.name, image: file })));
}

async function work() {
  while (waiting.length > 0 && inFlight < MAX_IN_FLIGHT) {
    inFlight += 1;
    score(waiting.shift()).finally(() => {
      inFlight -= 1;
      work();
      if (inFlight === 0 && !byId("live").hidden) {
        live.start(); // show the load of these images
      }
    });
  }
}

async function score(card) {
  if (!cards.has(card)) {
    return; // cleared in the meantime
  }
  const model = byId("model").value;
  try {
    const response = await predict(routeOf(model), cards.get(card));
    const descriptions = components.get(response.model) ?? new Map();
    announce(card.showVerdict(response, { model: models.length > 1 ? model : "", descriptions }));
  } catch (refusal) {
    announce(card.showRefusal(asRefusal(refusal), () => retry([card])));
    showProblem(refusal);
  }
  updateSummary();
}

function asRefusal(problem) {
  if (problem instanceof Refusal) {
    return problem;
  }
  return new Refusal("The server's response cannot be read.", { detail: String(problem), again: true });
}

function routeOf(model) {
  const first = !model || model === models[0]?.name;
  return first ? "v1/predict" : `v1/models/${encodeURIComponent(model)}/predict`;
}

function retry(some) {
  for (const card of some) {
    card.wait();
  }
  waiting.push(...some);
  updateSummary();
  work();
}

// Summary and announcements for screen readers

function updateSummary(left = 0) {
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
    ...(left ? [`${left} more were ignored: the limit is ${MAX_IMAGES} at once`] : []),
  ];
  byId("summary").textContent = cards.size ? parts.join(" · ") : "No images yet.";
  byId("clear").hidden = cards.size === 0;
}

function announce(text) {
  byId("news").textContent = text;
}

function clear() {
  waiting.length = 0;
  for (const card of cards.keys()) {
    card.remove();
  }
  cards.clear();
  updateSummary();
  announce("Cleared.");
  byId("files").focus();
}

// Models

function updateModels(current) {
  const names = current.map(({ name }) => name);
  const changed = (field) => current.map((each) => each[field]).join("\n") !== models.map((each) => each[field]).join("\n");
  if (changed("version")) {
    updateComponents();
  }
  if (changed("name")) {
    const chosen = byId("model").value;
    byId("model").replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    byId("model").value = names.includes(chosen) ? chosen : (names[0] ?? "");
    byId("model-choice").hidden = names.length < 2;
    live.chosen = byId("model").value;
  }
  models = current;
}

async function updateComponents() {
  try {
    const described = (await modelDescriptions()).models;
    components = new Map(described.map((model) => [model.name, new Map(model.components.map((each) => [each.name, each]))]));
  } catch (refusal) {
    showProblem(refusal); // the cards then show the names of the components
  }
}

// The key

function showProblem(refusal) {
  if (refusal.status === 401) {
    showKeyForm(refusal.message);
  }
}

function useKey() {
  announce("The key is in use.");
  byId("files").focus();
  start();
  retry([...cards.keys()].filter((card) => card.status === 401));
}

// Examples

async function loadExamples() {
  let names;
  try {
    names = await exampleNames();
  } catch (refusal) {
    showProblem(refusal);
    return;
  }
  byId("example-list").replaceChildren(...names.map((name, index) => exampleButton(name, index)));
  byId("examples").hidden = names.length === 0;
  byId("all-examples").onclick = () => addExamples(names.map((name, index) => ({ name, index })));
}

function exampleButton(name, index) {
  const picture = element("img", { alt: "", class: "thumb" });
  const button = element("button", { type: "button", "aria-label": `Score ${name}` }, picture, element("span", {}, name));
  button.addEventListener("click", () => addExamples([{ name, index }]));
  example(index).then(
    (image) => {
      picture.addEventListener("load", () => {
        picture.classList.toggle("small", picture.naturalWidth <= 96);
        URL.revokeObjectURL(picture.src);
      });
      picture.src = URL.createObjectURL(image);
    },
    () => picture.remove(),
  );
  return element("li", {}, button);
}

async function addExamples(some) {
  const images = await Promise.allSettled(some.map(({ index }) => example(index)));
  const loaded = some.flatMap(({ name }, i) => (images[i].status === "fulfilled" ? [{ name, image: images[i].value }] : []));
  if (loaded.length < some.length) {
    announce("Some examples could not be loaded.");
    showProblem(images.find(({ status }) => status === "rejected").reason);
  }
  add(loaded);
}

// Events

function start() {
  live.start();
  loadExamples();
}

function wire() {
  const drop = byId("drop");
  byId("files").addEventListener("change", ({ target }) => {
    addFiles(target.files);
    target.value = ""; // so that the same file is a change again
  });
  document.addEventListener("paste", ({ clipboardData }) => addFiles(clipboardData?.files ?? []));
  // On the whole page, because the browser would open a file dropped outside the box.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", ({ relatedTarget }) => relatedTarget ?? drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    addFiles(event.dataTransfer?.files ?? []);
  });
  byId("clear").addEventListener("click", clear);
  wireKeyForm(useKey);
  byId("model").addEventListener("change", ({ target }) => {
    live.chosen = target.value;
    live.show(models);
  });
}

wire();
start();
