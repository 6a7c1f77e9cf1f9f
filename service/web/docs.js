// The API's description, drawn by Swagger UI; it asks for a key where the server does, and sends it along.

/* global SwaggerUIBundle */

const KEY = "plumbline-key"; // the page at / keeps it under the same name

function withKey(headers) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...headers, "X-API-Key": key } : headers;
}

async function draw() {
  const form = document.getElementById("key-form");
  const answer = await fetch("openapi.json", { headers: withKey({}) });
  form.hidden = answer.ok;
  if (!answer.ok) {
    document.getElementById("message").textContent =
      answer.status === 401 ? "The server asks for an API key." : `The server refused with status ${answer.status}.`;
    return;
  }
  SwaggerUIBundle({
    spec: await answer.json(),
    dom_id: "#swagger-ui",
    deepLinking: true,
    validatorUrl: null, // it would send the description to a stranger
    requestInterceptor: (request) => {
      request.headers = withKey(request.headers);
      return request;
    },
  });
}

document.getElementById("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, document.getElementById("key").value.trim());
  draw();
});

draw();
