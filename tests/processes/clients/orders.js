// node orders.js CA PORT: orders through node's https client, with connections that are kept; prints one JSON array.
"use strict";
const fs = require("fs");
const https = require("https");

const [ca, port] = process.argv.slice(2);
const agent = new https.Agent({ ca: fs.readFileSync(ca), keepAlive: true, maxSockets: 2 });

function ask(method, path, headers, body) {
  return new Promise((resolve, reject) => {
    const options = { host: "localhost", port, method, path, headers, agent };
    const request = https.request(options, (response) => {
      let text = "";
      response.on("data", (chunk) => (text += chunk));
      response.on("end", () => resolve([response.statusCode, JSON.parse(text), response.headers.location, request.reusedSocket]));
    });
    request.on("error", reject);
    request.end(body);
  });
}

async function order(serial, headers) {
  const body = JSON.stringify({ timeoutInSeconds: 14, parameters: [{ password: "s3cr3t-пароль" }] });
  const posted = await ask("POST", `/api/v1/equipment/cpe/${serial}`, { "Content-Type": "application/json", ...headers }, body);
  const told = await ask("GET", posted[2], { Prefer: "wait=20" });
  return { posted: posted[0], told: told.slice(0, 2), reused: told[3] };
}

(async () => {
  const results = [];
  for (let number = 0; number < 5; number++) results.push(await order(`NODE${1000 + number}`, {}));
  results.push(await order("NODE2000", { "Transfer-Encoding": "chunked" }));
  results.push(await order("NODE2001", { Expect: "100-continue" }));
  const missing = await ask("GET", "/nowhere", {});
  console.log(JSON.stringify({ results, missing: missing.slice(0, 2) }));
  agent.destroy();
})();
