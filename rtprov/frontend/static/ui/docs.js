// The page /docs: the API's description, to read and to try. A token that is entered here stays in
// this page's memory, and is gone when the page is closed.

const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function followColorScheme() {
  document.documentElement.classList.toggle("dark-mode", prefersDark.matches);
}

followColorScheme();
prefersDark.addEventListener("change", followColorScheme);

globalThis.SwaggerUIBundle({
  url: "/openapi.json",
  domNode: document.getElementById("reference"),
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: false,
  queryConfigEnabled: false, // no other document by a crafted link
  requestSnippetsEnabled: true,
  requestSnippets: { generators: { curl_bash: { title: "curl", syntax: "bash" } } },
  tryItOutEnabled: true,
  validatorUrl: null, // it would be another host
});
