// The operations page: problems first, then the figures, requested every five seconds.

import { Refusal, operations } from "./api.js";
import { byId, element, percent, short } from "./elements.js";
import { showKeyForm, wireKeyForm } from "./key-form.js";
import { dataTable, rateTables } from "./rates.js";
import { watchFigures, watchLevel } from "./watch.js";

const EVERY_MS = 5000;
const MAX_SESSIONS = 20;
const EVENTS = {
  flags: "warning: more flags than the calibration allows",
  distribution: "warning: the distribution of the p-values differs",
  page: "page: about twice as many flags as calibrated",
  page_end: "end of the page: the flag rate is normal again",
  query_attack: "query attack",
};

let timer = 0;

async function update() {
  clearTimeout(timer);
  try {
    show(await operations());
  } catch (refusal) {
    if (!(refusal instanceof Refusal)) {
      throw refusal;
    }
    headline([refusal.message]);
    if (refusal.status === 401) {
      showKeyForm(refusal.message);
      return;
    }
  }
  if (!document.hidden) {
    timer = setTimeout(update, EVERY_MS);
  }
}

function show(status) {
  const { sessions } = status;
  const attacks = (sessions ?? []).filter(({ rules, dismissed }) => Object.keys(rules).length > 0 && !dismissed);
  headline([...problems(status), ...attacks.map(({ session, keys }) => `Query attack: session ${session} of ${keys.join(", ")}.`)]);
  byId("sessions").replaceChildren(sessionTable(sessions));
  byId("models").replaceChildren(...status.models.map(model));
  const { store } = status;
  byId("reviews").replaceChildren(...(store ? [storeText(store), ...rateTables(store.rates)] : [offText()]));
  byId("events").replaceChildren(...events(store?.events ?? []));
}

// Problems that an operator has to inspect.
function problems({ ready, failed, draining, models, store }) {
  const found = [];
  if (failed) {
    found.push(`The process will end: ${failed}.`);
  } else if (draining) {
    found.push("The server is shutting down.");
  } else if (!ready) {
    found.push("The server is not ready.");
  }
  for (const { name, stalled, queued, max_batch_size: batch, calibration_watch: watch } of models) {
    if (stalled) {
      found.push(`${name}: the inference thread is stalled.`);
    }
    if (queued > 2 * batch) {
      found.push(`${name}: ${queued} images are queued.`);
    }
    for (const [series, { level }] of Object.entries(watch?.series ?? {})) {
      if (level !== "ok") {
        found.push(`${name}, ${series}: ${level === "page" ? "flags have doubled" : "images do not match the calibration"}.`);
      }
    }
  }
  if (store?.dropped > 0) {
    found.push(`${store.dropped} verdicts were not stored.`);
  }
  return found;
}

function headline(found) {
  const good = found.length === 0;
  byId("headline").textContent = good ? "Nothing needs attention" : `${found.length} ${found.length === 1 ? "problem needs" : "problems need"} attention`;
  byId("headline").className = good ? "good" : "bad";
  byId("problems").replaceChildren(...found.map((text) => element("li", {}, text)));
}

function model(status) {
  const { p50, p99, count } = status.latency_ms;
  const watch = status.calibration_watch;
  const figures = {
    State: status.ready ? "ready" : "not ready",
    Version: status.version,
    Queued: `${status.queued}`,
    "In progress": `${status.admitted_images} of ${status.max_images}`,
    "Latency, median": p50 === null ? "–" : `${short(p50)} ms`,
    "Latency, 99 %": p99 === null ? "–" : `${short(p99)} ms`,
    "Last minute": `${count} requests`,
    Calibration: watchLevel(watch)[0],
  };
  const series = Object.entries(watch?.series ?? {}).map(([name, each]) => [
    name, each.level, `${each.images}`, percent(each.recent_rate),
  ]);
  return element(
    "section",
    { class: "panel" },
    element("h2", {}, status.name),
    element(
      "dl",
      { class: "numbers" },
      ...Object.entries(figures).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
    ),
    element("div", { class: "charts" }, ...watchFigures(watch)),
    series.length ? dataTable(`Series of ${status.name}`, ["Series", "Level", "Images", "Flagged recently"], series) : null,
  );
}

function sessionTable(sessions) {
  if (!sessions?.length) {
    return element("p", {}, sessions ? "No sessions of similar queries." : "The recognition of query attacks is off.");
  }
  const rows = sessions.slice(0, MAX_SESSIONS).map((each) => [
    element("a", { href: `review?${new URLSearchParams({ session: each.session })}` }, each.session),
    each.keys.join(", "),
    Object.keys(each.rules).join(", ") || "–",
    `${each.members}`,
    percent(each.flagged),
    each.dismissed ? "dismissed" : "",
  ]);
  return dataTable("Sessions of similar queries", ["Session", "Keys", "Rules", "Images", "Flagged", "State"], rows);
}

function storeText({ verdicts, bytes }) {
  return element("p", {}, `${verdicts} verdicts in the store, ${short(bytes / 1e6)} MB. `, element("a", { href: "review" }, "Review"));
}

function offText() {
  return element("p", {}, "The server stores no verdicts; start it with --store FILE.");
}

function events(list) {
  if (list.length === 0) {
    return [element("li", {}, "None.")];
  }
  return list.map(({ time, kind, model: name, fields }) => {
    const text = EVENTS[fields.change ?? kind] ?? kind.replaceAll("_", " ");
    const more = kind === "query_attack" ? `${fields.members} similar images` : [fields.outcome, fields.version].filter(Boolean).join(", version ");
    const where = [name, fields.series ?? fields.session].filter(Boolean).join(", ");
    return element("li", {}, `${new Date(1000 * time).toLocaleString()}${where ? `, ${where}` : ""}: ${text}${more ? `: ${more}` : ""}`);
  });
}

document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : update()));
wireKeyForm(update);
update();
