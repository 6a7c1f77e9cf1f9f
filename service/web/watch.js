// The calibration watch of one model: flag rates with the band of a match, p-values, warnings and pages.

import { drawing, element, percent, short } from "./elements.js";

const WIDTH = 360;
const HEIGHT = 150;
const LEFT = 44;
const BOTTOM = 22;
const TOP = 8;

const CHANGES = {
  flags: "warning: more flags than the calibration allows",
  distribution: "warning: the distribution of the p-values differs",
  page: "page: about twice as many flags as calibrated",
  page_end: "the flag rate is normal again",
};

// Text and kind of the figure in the status line.
export function watchLevel(watch) {
  const texts = { ok: ["images match", "good"], warning: ["images differ", "bad"], page: ["flags doubled", "bad"] };
  return watch ? texts[watch.level] : ["no images yet", ""];
}

// The figures of a watch; none before its first image.
export function watchFigures(watch) {
  return watch ? [rates(watch), histogram(watch), alarms(watch.alarms)] : [];
}

function rates({ block, block_rates, band, images, flagged, recent_rate }) {
  const top = 1.15 * Math.max(band.high, ...block_rates);
  const y = (rate) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - rate / top);
  const step = (WIDTH - LEFT) / Math.max(block_rates.length, 12);
  const x = (place) => LEFT + (place + 0.5) * step;
  const outside = block_rates.filter((rate) => rate < band.low || rate > band.high).length;
  const summary =
    `${flagged} of ${images} images flagged; ${percent(recent_rate)} recently. ` +
    (block_rates.length === 0
      ? `The first point appears after ${block} images.`
      : `${outside} of ${block_rates.length} points outside the band.`);
  return picture(
    `Share of flags per ${block} images`,
    summary,
    drawing("rect", { class: "band", x: LEFT, y: y(band.high), width: WIDTH - LEFT, height: y(band.low) - y(band.high) }),
    ...axis([0, band.high], y, (rate) => percent(rate)),
    drawing("polyline", { class: "image-path", points: block_rates.map((rate, i) => `${x(i)},${y(rate)}`).join(" ") }),
    ...block_rates.map((rate, i) => mark(x(i), y(rate), rate >= band.low && rate <= band.high, percent(rate))),
  );
}

function mark(x, y, inside, text) {
  const shape = drawing("circle", { class: inside ? "mark inside" : "mark outside", cx: x, cy: y, r: inside ? 2.5 : 4 });
  shape.append(drawing("title", {}, text));
  return shape;
}

function histogram({ histogram: counts, images }) {
  const expected = images / counts.length;
  const top = 1.15 * Math.max(expected, ...counts);
  const y = (count) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - count / top);
  const width = (WIDTH - LEFT) / counts.length;
  const most = counts.indexOf(Math.max(...counts));
  const summary =
    `Most p-values are between ${short(most / counts.length)} and ${short((most + 1) / counts.length)}: ${counts[most]}; ` +
    `${short(expected)} are expected in each interval.`;
  return picture(
    "p-values",
    summary,
    ...counts.map((count, i) =>
      drawing("rect", { class: "bar", x: LEFT + i * width + 1, y: y(count), width: width - 2, height: y(0) - y(count) }),
    ),
    ...axis([0, expected], y, short),
    drawing("line", { class: "median", x1: LEFT, x2: WIDTH, y1: y(expected), y2: y(expected) }),
    drawing("text", { class: "tick", x: LEFT, y: HEIGHT - 6 }, "0"),
    drawing("text", { class: "tick", x: WIDTH, y: HEIGHT - 6, "text-anchor": "end" }, "1"),
  );
}

function axis(values, y, text) {
  return values.flatMap((value) => [
    drawing("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value) }),
    drawing("text", { class: "tick", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, text(value)),
  ]);
}

function picture(title, summary, ...shapes) {
  const options = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${summary}` };
  return element(
    "figure",
    {},
    element("figcaption", {}, element("strong", {}, title)),
    drawing("svg", options, ...shapes),
    element("p", { class: "summary" }, summary),
  );
}

function alarms(list) {
  if (list.length === 0) {
    return element("p", { class: "summary" }, "No warnings.");
  }
  const lines = list.map(({ time, change, images }) =>
    element("li", {}, `${new Date(time).toLocaleString()}, image ${images}: ${CHANGES[change]}`),
  );
  return element("ol", { class: "alarms" }, ...lines.reverse());
}
