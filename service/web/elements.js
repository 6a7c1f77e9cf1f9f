// Elements of the page and of drawings. Text becomes text, never markup, wherever it comes from.

export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function drawing(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function byId(id) {
  return document.getElementById(id);
}

// Three significant digits, without trailing zeros; a power of ten where the number is very small or large.
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
