// The API's description in Swagger UI, with a form for the API key if the server needs one.

/* global SwaggerUIBundle */

const KEY = "plumbline-key"; // the page at / uses the same name

function withKey(headers) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...headers, "X-API-Key": key } : headers;
}

async function render() {
  const form = document.getElementById("key-form");
  const response = await fetch("openapi.json", { headers: withKey({}) });
  form.hidden = response.ok;
  if (!response.ok) {
    document.getElementById("message").textContent =
      response.status === 401 ? "The server needs an API key." : `The server responded with status ${response.status}.`;
    return;
  }
  SwaggerUIBundle({
    spec: await response.json(),
    dom_id: "#swagger-ui",
    deepLinking: true,
    validatorUrl: null, // it would send the description to another server
    requestInterceptor: (request) => {
      request.headers = withKey(request.headers);
      return request;
    },
  });
}

document.getElementById("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, document.getElementById("key").value.trim());
  render();
});

render();
