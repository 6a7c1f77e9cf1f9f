// Charts of one image's path through the blocks of the network, over the band of natural images.

import { drawing, element, short } from "./elements.js";

const WIDTH = 360;
const HEIGHT = 200;
const LEFT = 50;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 36;
const LOG_FROM = 10; // a logarithmic axis if the largest value is this multiple of the smallest

// Names of the columns of a path's statistics.
export function columnName(column) {
  if (column === 0) {
    return "‖r‖²/d";
  }
  return column === 1 ? "cos(r, 1)" : `cosine ${column}`;
}

function columnTitle(column) {
  if (column === 0) {
    return "Length of the step, ‖r‖²/d";
  }
  return column === 1 ? "Direction of the step, cos(r, 1)" : `Direction of the step, cosine ${column}`;
}

// Every value outside the band, block by block: [{block, column, value, edge, above}].
export function departures(path) {
  return path.statistics.flatMap((row, block) =>
    row.flatMap((value, column) => {
      const [low, high] = [path.low[block][column], path.high[block][column]];
      if (value >= low && value <= high) {
        return [];
      }
      return [{ block, column, value, edge: value > high ? high : low, above: value > high }];
    }),
  );
}

export function placeName(path, block) {
  return `block ${block + 1} (${path.branches[block]})`;
}

export function columnSummary(path, column) {
  const places = departures(path).filter((place) => place.column === column);
  if (places.length === 0) {
    return "Inside the band at every block.";
  }
  const [first] = places;
  const where = `Leaves the band at ${placeName(path, first.block)}, ${first.above ? "above" : "below"} it`;
  const which = places.length > 1 ? `: ${ranges(places.map((place) => place.block + 1))}` : "";
  return `${where}; outside at ${places.length} of ${path.branches.length} blocks${which}.`;
}

// [1, 2, 3, 7] as "1–3, 7".
function ranges(numbers) {
  const runs = [];
  for (const number of numbers) {
    const run = runs.at(-1);
    if (run && run.last === number - 1) {
      run.last = number;
    } else {
      runs.push({ first: number, last: number });
    }
  }
  return runs.map(({ first, last }) => (first === last ? `${first}` : `${first}–${last}`)).join(", ");
}

export function chart(path, column) {
  const of = (rows) => rows.map((row) => row[column]);
  const [values, low, median, high] = [path.statistics, path.low, path.median, path.high].map(of);
  const scale = verticalScale([...values, ...low, ...high]);
  const blocks = values.length;
  const x = (block) =>
    blocks === 1 ? (LEFT + WIDTH - RIGHT) / 2 : LEFT + 8 + (block * (WIDTH - LEFT - RIGHT - 16)) / (blocks - 1);
  const summary = columnSummary(path, column);
  const outside = departures(path).filter((place) => place.column === column);
  const picture = drawing(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${columnTitle(column)}, block by block. ${summary}` },
    ...grid(scale, blocks, x),
    band(low, high, scale, x),
    drawing("polyline", { class: "median", points: points(median, scale, x) }),
    outside.length === 0
      ? null
      : drawing("line", { class: "leaves", x1: x(outside[0].block), x2: x(outside[0].block), y1: TOP, y2: HEIGHT - BOTTOM }),
    drawing("polyline", { class: "image-path", points: points(values, scale, x) }),
    ...values.map((value, block) => mark(path, column, block, x(block), scale.y(value), blocks)),
  );
  return element(
    "figure",
    {},
    element("figcaption", {}, element("strong", {}, columnTitle(column)), scale.log ? " (log scale)" : ""),
    picture,
    element("p", { class: "summary" }, summary),
  );
}

function verticalScale(values) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const log = least > 0 && most / least > LOG_FROM;
  const [from, to] = log ? [Math.log10(least), Math.log10(most)] : [least, most];
  const room = (to - from || Math.abs(to) || 1) * 0.06;
  const [bottom, top] = [from - room, to + room];
  const height = HEIGHT - TOP - BOTTOM;
  const y = (value) => TOP + (height * (top - (log ? Math.log10(value) : value))) / (top - bottom);
  return { log, y, ticks: log ? powers(bottom, top) : steps(bottom, top) };
}

function steps(bottom, top) {
  const rough = (top - bottom) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.ceil(bottom / step);
  const ticks = Array.from({ length: Math.floor(top / step) - first + 1 }, (_, i) => (first + i) * step);
  return ticks.map((tick) => Number(tick.toPrecision(12)));
}

function powers(bottom, top) {
  const factors = top - bottom < 2 ? [1, 2, 5] : [1];
  const ticks = [];
  const every = Math.max(1, Math.ceil((top - bottom) / 5));
  for (let power = Math.floor(bottom); power <= top; power += every) {
    ticks.push(...factors.map((factor) => Number(`${factor}e${power}`)));
  }
  return ticks.filter((tick) => Math.log10(tick) >= bottom && Math.log10(tick) <= top);
}

function grid(scale, blocks, x) {
  const across = scale.ticks.flatMap((tick) => [
    drawing("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: scale.y(tick), y2: scale.y(tick) }),
    drawing("text", { class: "tick", x: LEFT - 6, y: scale.y(tick) + 4, "text-anchor": "end" }, short(tick)),
  ]);
  const every = Math.ceil(blocks / 12);
  const below = Array.from({ length: Math.ceil(blocks / every) }, (_, i) => i * every).map((block) =>
    drawing("text", { class: "tick", x: x(block), y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, String(block + 1)),
  );
  const name = drawing("text", { class: "tick", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "block");
  return [...across, ...below, name];
}

function band(low, high, scale, x) {
  // The band of a network with one block is as wide as its mark.
  const reach = low.length === 1 ? 16 : 0;
  const along = (edge, side) => edge.map((value, block) => `${x(block) + side * reach},${scale.y(value)}`);
  const corners = reach
    ? [...along(high, -1), ...along(high, 1), ...along(low, 1), ...along(low, -1)]
    : [...along(high, 0), ...along(low, 0).reverse()];
  return drawing("polygon", { class: "band", points: corners.join(" ") });
}

function points(values, scale, x) {
  return values.map((value, block) => `${x(block)},${scale.y(value)}`).join(" ");
}

// A dot inside the band, a larger diamond outside it.
function mark(path, column, block, x, y, blocks) {
  const value = path.statistics[block][column];
  const [low, high] = [path.low[block][column], path.high[block][column]];
  const inside = value >= low && value <= high;
  const size = blocks > 30 ? 0.6 : 1;
  const shape = inside
    ? drawing("circle", { cx: x, cy: y, r: 3.2 * size })
    : drawing("path", { d: `M${x} ${y - 6.5 * size}l${5.5 * size} ${6.5 * size}l${-5.5 * size} ${6.5 * size}l${-5.5 * size} ${-6.5 * size}z` });
  shape.setAttribute("class", inside ? "mark inside" : "mark outside");
  const text = `${placeName(path, block)}: ${short(value)}, band ${short(low)} to ${short(high)}`;
  shape.append(drawing("title", {}, inside ? text : `${text} (outside)`));
  return shape;
}

export function legend() {
  const entry = (label, ...shapes) =>
    element("span", {}, drawing("svg", { viewBox: "0 0 26 14", "aria-hidden": "true" }, ...shapes), label);
  return element(
    "p",
    { class: "legend" },
    entry("this image", drawing("line", { class: "image-path", x1: 0, x2: 26, y1: 7, y2: 7 }), drawing("circle", { class: "mark inside", cx: 13, cy: 7, r: 3.2 })),
    entry("outside the band", drawing("path", { class: "mark outside", d: "M13 0.5l5.5 6.5l-5.5 6.5l-5.5 -6.5z" })),
    entry("90 % of natural images", drawing("rect", { class: "band", x: 0, y: 1, width: 26, height: 12 })),
    entry("their median", drawing("line", { class: "median", x1: 0, x2: 26, y1: 7, y2: 7 })),
  );
}

// The same numbers as a table, for screen readers and for exact values.
export function table(path) {
  const columns = path.statistics[0].map((_, column) => column);
  const head = element(
    "tr",
    {},
    element("th", { scope: "col" }, "Block"),
    ...columns.flatMap((column) => [
      element("th", { scope: "col" }, columnName(column)),
      element("th", { scope: "col" }, "natural band"),
    ]),
  );
  const rows = path.branches.map((_, block) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, `${block + 1} ${path.branches[block]}`),
      ...columns.flatMap((column) => cells(path, block, column)),
    ),
  );
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
}

function cells(path, block, column) {
  const value = path.statistics[block][column];
  const [low, high] = [path.low[block][column], path.high[block][column]];
  const outside = value < low || value > high;
  return [
    element("td", outside ? { class: "out" } : {}, outside ? `${short(value)} ◆` : short(value)),
    element("td", {}, `${short(low)} to ${short(high)}`),
  ];
}
