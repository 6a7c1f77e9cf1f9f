// Calls to the server. What it refuses comes back as a Refusal, whose message and detail are in words.

const KEY = "plumbline-key";

export class Refusal extends Error {
  constructor(message, { detail = "", status = 0, again = false } = {}) {
    super(message);
    this.detail = detail;
    this.status = status;
    this.again = again; // whether the same request may succeed later
  }
}

export function key() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function keepKey(value) {
  if (value) {
    sessionStorage.setItem(KEY, value);
  } else {
    sessionStorage.removeItem(KEY);
  }
}

// One verdict: {model, threshold, fpr, results: [...]}. `route` is the place to ask, `image` a Blob.
export async function predict(route, image) {
  let body;
  try {
    body = await image.arrayBuffer();
  } catch {
    throw new Refusal("This file cannot be read.", { detail: "A folder? Drop the images that are in it." });
  }
  const answer = await call(`${route}?path=true`, {
    method: "POST",
    body,
    headers: { "Content-Type": "application/octet-stream" },
  });
  return answer.json();
}

export async function status() {
  return (await call("v1/status")).json();
}

export async function exampleNames() {
  return (await call("examples")).json();
}

export async function example(index) {
  return (await call(`examples/${index}`)).blob();
}

async function call(address, { headers = {}, ...options } = {}) {
  let answer;
  try {
    const known = key() ? { "X-API-Key": key() } : {};
    answer = await fetch(address, { ...options, headers: { ...headers, ...known }, cache: "no-cache" });
  } catch {
    throw new Refusal("The server does not answer.", {
      detail: options.body
        ? "It has stopped or cannot be reached, or the file is far too large for it."
        : "It has stopped or cannot be reached.",
      again: true,
    });
  }
  if (!answer.ok) {
    throw await refusal(answer);
  }
  return answer;
}

async function refusal(answer) {
  const status = answer.status;
  const detail = await saying(answer);
  const seconds = answer.headers.get("Retry-After");
  const later = seconds ? `Try again in ${seconds} s.` : "Try again later.";
  const again = [401, 408, 429, 503].includes(status) || status >= 500;
  return new Refusal(words(status, later), { detail, status, again });
}

function words(status, later) {
  switch (status) {
    case 401:
      return key() ? "The server does not know this API key." : "The server asks for an API key.";
    case 408:
      return "The image did not arrive in time.";
    case 413:
      return "The file is too large for this server.";
    case 422:
      return "This image cannot be judged.";
    case 429:
      return `The server is full. ${later}`;
    case 503:
      return `The server is not ready. ${later}`;
    default:
      return `The server refused with status ${status}.`;
  }
}

async function saying(answer) {
  try {
    const { error } = await answer.json();
    const message = typeof error === "string" ? error : error?.message;
    return message ? `The server says: ${message}.` : "";
  } catch {
    return ""; // a proxy in front may answer with a page of its own
  }
}
