// Sends the requests of the first page to the server that sent the page, and shows what came back.
// What a request is stands in the data attributes of its row; without this file the rows are curl commands.

const WRITTEN_ORIGIN = "http://127.0.0.1:8080"; // as the commands in index.html have it
const PREVIEW_BYTES = 640;

const FIELD_NAMES = new Map([
  ["etag", "ETag"],
  ["www-authenticate", "WWW-Authenticate"],
]);

const count = new Intl.NumberFormat("en");
const announcement = document.querySelector("[data-announcement]");

/** The name of a field as RFCs write it; fetch gives lower case. */
function formatName(name) {
  return FIELD_NAMES.get(name) ?? name.replace(/(^|-)[a-z]/g, (letter) => letter.toUpperCase());
}

function formatBytes(size) {
  return `${count.format(size)} ${size === 1 ? "byte" : "bytes"} of body`;
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** Sends the request that the row describes. Rejects when the server does not answer. */
async function send({ method, target, range, validator }) {
  const url = new URL(target, document.baseURI);
  const fields = {};
  if (range) {
    fields["Range"] = range;
  }
  if (validator) {
    const first = await fetch(url, { method: "HEAD", cache: "no-store" });
    fields[validator] = first.headers.get("ETag") ?? '"none"';
  }
  // The answer has to come from the server, never from the cache of the browser.
  const start = performance.now();
  const response = await fetch(url, { method, headers: fields, cache: "no-store" });
  const body = new Uint8Array(await response.arrayBuffer());
  return { method, url, fields, response, body, elapsed: performance.now() - start };
}

function formatRequest({ method, url, fields }) {
  const lines = Object.entries(fields).map(([name, value]) => `${name}: ${value}`);
  return [`${method} ${url.pathname}${url.search}`, ...lines].join("\n");
}

function formatAnswer({ response }) {
  const lines = [...response.headers].map(([name, value]) => `${formatName(name)}: ${value}`);
  return [`${response.status} ${response.statusText}`.trim(), ...lines].join("\n");
}

function formatSummary({ response, body, elapsed }, expected) {
  const parts = [`${formatBytes(body.length)}, ${count.format(Math.max(1, Math.round(elapsed)))} ms`];
  if (response.redirected) {
    const { pathname, search } = new URL(response.url);
    parts.push(`redirected to ${pathname}${search}`);
  }
  if (expected && response.status !== Number(expected)) {
    parts.push(`expected ${expected}`);
  }
  return parts.join("; ");
}

function addBlock(place, title, text) {
  place.append(make("h4", "", title), make("pre", "", text));
}

/** Shows the exchange in place of what stood there; gives one line to announce. */
function showExchange(result, exchange, expected) {
  const { response, body } = exchange;
  const status = `${response.status} ${response.statusText}`.trim();
  const summary = formatSummary(exchange, expected);
  const line = make("p", "summary", "");
  const badge = make("strong", "status", status);
  badge.dataset.kind = Math.floor(response.status / 100);
  line.append(badge, " ", summary);
  const heads = make("div", "", "");
  addBlock(heads, "Request", formatRequest(exchange));
  addBlock(heads, "Answer", formatAnswer(exchange));
  const parts = make("div", "parts", "");
  parts.append(heads);
  if (body.length > 0) {
    const content = make("div", "", "");
    const text = new TextDecoder().decode(body.subarray(0, PREVIEW_BYTES)).trim();
    addBlock(content, body.length > PREVIEW_BYTES ? "Body, its beginning" : "Body", text);
    parts.append(content);
  }
  result.replaceChildren(line, parts);
  return `${status}, ${summary}.`;
}

/** Sends one row, shows the answer below it and notes on the row whether it was the expected one. */
async function run(row) {
  const { expect: expected } = row.dataset;
  const result = row.querySelector(".result") ?? row.appendChild(make("div", "result", ""));
  row.setAttribute("aria-busy", "true");
  try {
    const exchange = await send(row.dataset);
    row.dataset.outcome = !expected || exchange.response.status === Number(expected) ? "expected" : "other";
    return showExchange(result, exchange, expected);
  } catch {
    const text = "No answer. Is the server still running?";
    result.replaceChildren(make("p", "summary", text));
    row.dataset.outcome = "none";
    return text;
  } finally {
    row.removeAttribute("aria-busy");
  }
}

/** Sends all rows, one after the other, and announces only how many gave the expected answer. */
async function runAll(rows) {
  announcement.textContent = "Sending …";
  for (const row of rows) {
    await run(row);
  }
  const good = rows.filter((row) => row.dataset.outcome === "expected").length;
  announcement.textContent =
    good === rows.length ? `All ${good} answers as expected.` : `${good} of ${rows.length} answers as expected.`;
}

function addButton(place, text, label, onClick) {
  const button = make("button", "", text);
  button.type = "button";
  button.setAttribute("aria-label", label);
  button.addEventListener("click", onClick);
  place.append(button);
}

function prepare(row) {
  const title = row.querySelector("h3").textContent;
  const command = row.querySelector(".command");
  const code = command.querySelector("code");
  code.textContent = code.textContent.replaceAll(WRITTEN_ORIGIN, location.origin);
  const buttons = make("div", "buttons", "");
  // Browsers offer the clipboard to localhost and to https only.
  if (navigator.clipboard) {
    addButton(buttons, "Copy", `Copy the command: ${title}`, async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        announcement.textContent = `${title}: command copied.`;
      } catch {
        announcement.textContent = "The browser did not allow copying.";
      }
    });
  }
  addButton(buttons, "Send", `Send: ${title}`, async () => {
    announcement.textContent = `${title}: ${await run(row)}`;
  });
  command.append(buttons);
}

const rows = [...document.querySelectorAll(".exchange")];
rows.forEach(prepare);
document.querySelector("[data-send-all]").addEventListener("click", () => runAll(rows));
for (const element of document.querySelectorAll("[data-needs-script]")) {
  element.hidden = false;
}
