// HTML and SVG elements. Text is inserted as text, never as markup.

export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function drawing(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

export function byId(id) {
  return document.getElementById(id);
}

// Three significant digits without trailing zeros; a power of ten for very small or large numbers.
export function short(number) {
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) {
    const [digits, power] = number.toExponential(1).split("e");
    return `${Number(digits)}·10${superscript(Number(power))}`;
  }
  return String(Number(number.toPrecision(3)));
}

function superscript(power) {
  return String(power).replace("-", "⁻").replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);
}

export function percent(share) {
  if (share > 0.999 && share < 1) {
    return "over 99.9 %";
  }
  return `${short(share * 100)} %`;
}
