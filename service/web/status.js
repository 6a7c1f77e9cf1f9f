// The server's load, latency and calibration watch, requested every two seconds while the page is visible.

import { Refusal, status } from "./api.js";
import { byId, element, short } from "./elements.js";
import { watchFigures, watchLevel } from "./watch.js";

const EVERY_MS = 2000;

export class Live {
  // `onModels` receives the models at every request, `onRefused` the error if the status is not available.
  constructor({ onModels, onRefused }) {
    this.onModels = onModels;
    this.onRefused = onRefused;
    this.chosen = "";
    this.timer = 0;
    this.round = 0;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stop() : this.start()));
  }

  async start() {
    this.stop();
    const round = this.round;
    const again = await this.update(round);
    if (again && round === this.round && !document.hidden) {
      this.timer = setTimeout(() => this.start(), EVERY_MS);
    }
  }

  stop() {
    this.round += 1;
    clearTimeout(this.timer);
  }

  // Shows the status once; returns whether to continue.
  async update(round) {
    try {
      const { models } = await status();
      if (round === this.round) {
        this.onModels(models);
        this.show(models);
      }
      return true;
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) {
        throw refusal;
      }
      if (round !== this.round) {
        return false;
      }
      if (refusal.status === 0 || refusal.status >= 429) {
        this.showError(refusal.message);
        return true;
      }
      byId("live").hidden = true;
      this.onRefused(refusal);
      return false;
    }
  }

  show(models) {
    const model = models.find(({ name }) => name === this.chosen) ?? models[0];
    if (!model) {
      this.showError("The server has no model.");
      return;
    }
    const { p50, p99, count } = model.latency_ms;
    byId("live").hidden = false;
    byId("figures").replaceChildren(
      figure("State", model.ready ? "ready" : "not ready", model.ready ? "good" : "bad"),
      figure("Queued", `${model.queued}`),
      figure("In progress", `${model.admitted_images} of ${model.max_images}`),
      figure("Latency, median", milliseconds(p50)),
      figure("99 %", milliseconds(p99)),
      figure("Last minute", `${count} ${count === 1 ? "request" : "requests"}`),
      figure("Calibration", ...watchLevel(model.calibration_watch)),
      figure("Version", model.version),
    );
    byId("watch").hidden = !model.calibration_watch;
    byId("watch-figures").replaceChildren(...watchFigures(model.calibration_watch));
    byId("takes").textContent =
      ` The network (${model.network}) has an input of ${model.width} × ${model.height} pixels and ${model.classes} classes.`;
  }

  showError(message) {
    byId("live").hidden = false;
    byId("figures").replaceChildren(figure("State", message, "bad"));
    byId("watch").hidden = true;
  }
}

function figure(name, value, kind = "") {
  return element("div", {}, element("dt", {}, name), element("dd", kind ? { class: kind } : {}, value));
}

function milliseconds(value) {
  return value === null ? "–" : `${short(value)} ms`;
}
