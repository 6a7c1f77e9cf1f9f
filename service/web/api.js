// Calls to the server. An error response becomes a Refusal with a message for people.

const KEY = "plumbline-key";

export class Refusal extends Error {
  constructor(message, { detail = "", status = 0, again = false } = {}) {
    super(message);
    this.detail = detail;
    this.status = status;
    this.again = again; // whether a retry may succeed
  }
}

export function key() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function storeKey(value) {
  if (value) {
    sessionStorage.setItem(KEY, value);
  } else {
    sessionStorage.removeItem(KEY);
  }
}

// The response to one image, a Blob: {model, threshold, fpr, results: [verdict]}.
export async function predict(route, image) {
  let body;
  try {
    body = await image.arrayBuffer();
  } catch {
    throw new Refusal("This file cannot be read.", { detail: "If it is a folder, drop the images inside it." });
  }
  const response = await call(`${route}?path=true`, {
    method: "POST",
    body,
    headers: { "Content-Type": "application/octet-stream" },
  });
  return response.json();
}

export async function status() {
  return (await call("v1/status")).json();
}

// The served models: {models: [{name, components: [{name, title, description}], …}]}.
export async function modelDescriptions() {
  return (await call("v1/models")).json();
}

export async function exampleNames() {
  return (await call("examples")).json();
}

export async function example(index) {
  return (await call(`examples/${index}`)).blob();
}

// Requests to the admin port, for its pages.

export async function operations() {
  return (await call("admin/status")).json();
}

// Stored verdicts: {verdicts: [{id, …}], rates}; `filter` has the query's parameters.
export async function reviews(filter) {
  return (await call(`admin/reviews?${new URLSearchParams(filter)}`)).json();
}

export async function reviewPicture(id) {
  return (await call(`admin/reviews/${id}/image`)).blob();
}

// The verdict of the current version, with the path.
export async function reviewPath(id) {
  return (await call(`admin/reviews/${id}/path`)).json();
}

export async function decide(id, review) {
  const options = { method: "POST", body: JSON.stringify(review), headers: { "Content-Type": "application/json" } };
  return (await call(`admin/reviews/${id}`, options)).json();
}

async function call(address, { headers = {}, ...options } = {}) {
  let response;
  try {
    const credentials = key() ? { "X-API-Key": key() } : {};
    response = await fetch(address, { ...options, headers: { ...headers, ...credentials }, cache: "no-cache" });
  } catch {
    throw new Refusal("The server does not respond.", {
      detail: options.body
        ? "It has stopped or is not reachable, or the file is far too large."
        : "It has stopped or is not reachable.",
      again: true,
    });
  }
  if (!response.ok) {
    throw await refusal(response);
  }
  return response;
}

async function refusal(response) {
  const status = response.status;
  const detail = await serverMessage(response);
  const seconds = response.headers.get("Retry-After");
  const later = seconds ? `Try again in ${seconds} s.` : "Try again later.";
  const again = [401, 408, 429, 503].includes(status) || status >= 500;
  return new Refusal(statusMessage(status, later), { detail, status, again });
}

function statusMessage(status, later) {
  switch (status) {
    case 401:
      return key() ? "This API key is not valid." : "The server needs an API key.";
    case 408:
      return "The image did not arrive in time.";
    case 413:
      return "The file is too large for this server.";
    case 422:
      return "This image cannot be scored.";
    case 429:
      return `The server is at its capacity. ${later}`;
    case 503:
      return `The server is not ready. ${later}`;
    default:
      return `The server responded with status ${status}.`;
  }
}

async function serverMessage(response) {
  try {
    const { error } = await response.json();
    const message = typeof error === "string" ? error : error?.message;
    return message ? `Server message: ${message}.` : "";
  } catch {
    return ""; // a proxy may respond with a page of its own
  }
}
