// The API page: what /openapi.json describes, with a form to try every operation.

import { call, parseJson, showJson } from "./api.js";
import { copyable, el } from "./dom.js";
import { componentName, examples, limits, operations, properties, resolve, typeParts } from "./openapi.js";
import { duration } from "./time.js";

const PATIENCE_MS = 65_000; // a search may wait for 60 s
const SHOWN_CHARS = 200_000;

const at = (id) => document.getElementById(id);

async function start() {
  try {
    render(await call("/openapi.json"));
  } catch (error) {
    at("problem").textContent = `/openapi.json cannot be shown: ${error.message}`;
    at("problem").hidden = false;
    throw error;
  }
  if (location.hash) at(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

function render(spec) {
  const { title = "API", version, description } = spec.info ?? {};
  at("title").textContent = version ? `${title} ${version}` : title;
  at("intro").append(prose(description));
  const all = operations(spec);
  at("operations").append(...all.map((one) => operationNode(spec, one)));
  const schemas = Object.entries(spec.components?.schemas ?? {});
  at("schemas-title").hidden = schemas.length === 0;
  at("schemas").append(...schemas.map(([name, schema]) => schemaNode(spec, name, schema)));
  at("contents").append(...contents(all, schemas.map(([name]) => name)));
}

function contents(all, schemas) {
  const tags = [...new Set(all.map((one) => one.tag))];
  const nodes = tags.flatMap((tag) => [
    el("h2", {}, tag || "Operations"),
    ...all.filter((one) => one.tag === tag).map((one) => el("a", { href: `#${one.id}` }, methodNode(one.method), el("span", {}, one.path))),
  ]);
  if (schemas.length) nodes.push(el("h2", {}, "Schemas"), ...schemas.map((name) => el("a", { href: `#schema-${name}` }, name)));
  return nodes;
}

function methodNode(method) {
  return el("span", { class: "method", "data-method": method }, method);
}

/** Paragraphs, lists of "- " lines and `code`; anything else of Markdown stays as it is written. */
function prose(text) {
  const blocks = (text ?? "").trim().split(/\n\s*\n/).filter(Boolean);
  return el("div", { class: "prose" }, ...blocks.map((block) => {
    const lines = block.split("\n").map((line) => line.trim());
    if (lines.every((line) => /^[-*] /.test(line))) return el("ul", {}, ...lines.map((line) => el("li", {}, ...inline(line.slice(2)))));
    return el("p", {}, ...inline(lines.join(" ")));
  }));
}

function inline(text) {
  return (text ?? "").split(/(`[^`]+`)/).map((part) => (/^`.+`$/.test(part) ? el("code", {}, part.slice(1, -1)) : part));
}

function typeNode(schema) {
  return el("span", {}, ...typeParts(schema).map((part) => (part.component ? el("a", { href: `#schema-${part.component}` }, part.component) : part)));
}

// ── one operation ────────────────────────────────────────────────────────

function operationNode(spec, one) {
  const { operation, parameters } = one;
  const body = operation.requestBody ? resolve(spec, operation.requestBody) : null;
  return el(
    "section",
    { class: "operation", id: one.id, "data-testid": "operation", "aria-labelledby": `${one.id}-title` },
    el(
      "h3",
      { id: `${one.id}-title` },
      methodNode(one.method),
      el("code", { class: operation.deprecated ? "deprecated" : null }, one.path),
      operation.summary ? el("span", { class: "summary" }, operation.summary) : null,
    ),
    operation.description ? prose(operation.description) : null,
    parameters.length ? [el("h4", {}, "Parameters"), grid(parameters.map((each) => parameterRow(spec, each)))] : null,
    body ? bodyNodes(spec, body) : null,
    el("h4", {}, "Responses"),
    grid(Object.entries(operation.responses ?? {}).map(([status, each]) => responseRow(spec, status, resolve(spec, each)))),
    tryNode(spec, one, body),
  );
}

function grid(rows) {
  return el("table", { class: "grid" }, el("tbody", {}, ...rows));
}

function row(name, kind, ...about) {
  return el("tr", {}, el("th", { scope: "row", class: "name" }, name), el("td", { class: "kind" }, kind), el("td", {}, ...about));
}

function requiredNote(required) {
  return required ? el("span", { class: "required" }, "required") : null;
}

function about(schema, description) {
  const words = limits(schema);
  return [...inline(description ?? ""), words.length ? el("span", { class: "limits" }, words.join(", ")) : null];
}

function parameterRow(spec, parameter) {
  const name = [el("code", {}, parameter.name), requiredNote(parameter.required)];
  const kind = [typeNode(parameter.schema), el("span", { class: "limits" }, `in ${parameter.in}`)];
  return row(name, kind, ...about(resolve(spec, parameter.schema), parameter.description ?? parameter.schema?.description));
}

function bodyNodes(spec, body) {
  return Object.entries(body.content ?? {}).flatMap(([mediaType, media]) => [
    el("h4", {}, `Request body, ${mediaType}${body.required ? "" : ", optional"}`),
    body.description ? prose(body.description) : null,
    componentName(media.schema) ? el("p", {}, typeNode(media.schema)) : null,
    propertiesNode(spec, media.schema) ?? (componentName(media.schema) ? null : el("p", {}, typeNode(media.schema))),
  ]);
}

function responseRow(spec, status, response) {
  const media = Object.entries(response.content ?? {});
  const kind = media.flatMap(([mediaType, { schema }]) => [schema ? typeNode(schema) : null, el("span", { class: "limits" }, mediaType)]);
  const written = media.filter(([, one]) => one.example !== undefined || one.examples);
  const shown = written.flatMap(([, one]) => examples(spec, one)).map(({ name, value }) =>
    el("details", {}, el("summary", {}, name), el("pre", {}, asText(value))),
  );
  const spelt = media.filter(([, { schema }]) => schema && !componentName(schema) && properties(spec, schema).length > 0);
  const fields = spelt.map(([, { schema }]) => el("details", {}, el("summary", {}, "fields"), propertiesNode(spec, schema)));
  return row(el("span", { class: "status-code" }, status), kind, ...inline(response.description ?? ""), ...fields, ...shown);
}

function asText(value) {
  return typeof value === "string" ? value : showJson(value, 2);
}

// ── schemas ──────────────────────────────────────────────────────────────

function propertiesNode(spec, reference) {
  const all = properties(spec, reference);
  if (all.length === 0) return null;
  return grid(all.map(({ name, schema, required }) => {
    const words = about(schema, schema.description ?? resolve(spec, schema).description);
    return row([el("code", {}, name), requiredNote(required)], typeNode(schema), ...words);
  }));
}

function schemaNode(spec, name, schema) {
  const shown = (schema.examples ?? (schema.example === undefined ? [] : [schema.example])).slice(0, 3);
  return el(
    "section",
    { class: "schema", id: `schema-${name}`, "data-testid": "schema" },
    el("h3", {}, el("code", {}, name)),
    schema.description ? prose(schema.description) : null,
    propertiesNode(spec, schema) ?? el("p", { class: "muted" }, typeNode(schema)),
    ...shown.map((value) => el("details", {}, el("summary", {}, "example"), el("pre", {}, asText(value)))),
  );
}

// ── try it ───────────────────────────────────────────────────────────────

function tryNode(spec, one, body) {
  const inputs = one.parameters.filter(({ in: place }) => place !== "cookie").map((parameter) => ({ parameter, input: inputFor(spec, parameter) }));
  const [mediaType, media] = Object.entries(body?.content ?? {})[0] ?? [];
  const written = media ? examples(spec, media) : [];
  const textarea = media ? el("textarea", { name: "body", spellcheck: "false" }) : null;
  if (textarea) textarea.value = asText(written[0].value);
  const outcome = el("p", { class: "outcome", role: "status" });
  const shown = el("div", {});
  const request = () => buildRequest(one, inputs, mediaType, textarea?.value);
  const form = el(
    "form",
    { class: "try", "data-testid": "try" },
    ...inputs.map(({ parameter, input }) => el("label", {}, `${parameter.name} (${parameter.in}${parameter.required ? ", required" : ""})`, input)),
    written.length > 1 ? el("label", {}, "Example", chooser(written, textarea)) : null,
    textarea ? el("label", {}, `Body (${mediaType})`, textarea) : null,
    el("div", { class: "try-actions" }, el("button", { type: "submit", class: "primary" }, "Send"), outcome),
    shown,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(request(), outcome, shown);
  });
  textarea?.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  return el("details", { "data-testid": "try-it" }, el("summary", {}, "Try it"), form);
}

function inputFor(spec, parameter) {
  const schema = resolve(spec, parameter.schema);
  const choices = schema.enum ?? (schema.type === "boolean" ? ["true", "false"] : null);
  const named = { name: parameter.name, required: parameter.required };
  if (choices) {
    const optional = parameter.required ? [] : [el("option", { value: "" }, "")];
    return el("select", named, ...optional, ...choices.map((choice) => el("option", {}, String(choice))));
  }
  const example = parameter.example ?? (parameter.examples || schema.examples ? examples(spec, parameter)[0].value : undefined);
  return el("input", { ...named, type: "text", spellcheck: "false", value: example, placeholder: schema.default });
}

function chooser(written, textarea) {
  const select = el("select", {}, ...written.map(({ name }, index) => el("option", { value: index }, name)));
  select.addEventListener("change", () => (textarea.value = asText(written[Number(select.value)].value)));
  return select;
}

function buildRequest(one, inputs, mediaType, text) {
  const query = new URLSearchParams();
  const headers = {};
  let path = one.path;
  for (const { parameter, input } of inputs) {
    const { name, in: place } = parameter;
    if (place === "path") path = path.replace(`{${name}}`, () => encodeURIComponent(input.value));
    else if (input.value === "") continue;
    else if (place === "query") query.append(name, input.value);
    else headers[name] = input.value;
  }
  const hasBody = text !== undefined && text.trim() !== "";
  if (hasBody) headers["content-type"] = mediaType;
  return { url: query.size ? `${path}?${query}` : path, method: one.method.toUpperCase(), headers, body: hasBody ? text : undefined };
}

async function send({ url, ...request }, outcome, shown) {
  outcome.removeAttribute("data-level");
  outcome.textContent = "Sending…";
  shown.replaceChildren();
  const began = performance.now();
  try {
    const response = await fetch(url, { ...request, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    const text = await response.text();
    outcome.dataset.level = response.ok ? "ok" : "none";
    outcome.textContent = `${response.status} ${response.statusText} · ${duration(Math.round(performance.now() - began))}`;
    shown.append(el("pre", { class: "wrap", "data-testid": "response", tabindex: "0" }, indented(text).slice(0, SHOWN_CHARS)));
  } catch (error) {
    outcome.dataset.level = "none";
    outcome.textContent = `no answer: ${error.message}`;
  }
  shown.append(el("h4", {}, "The same with curl"), el("p", { class: "small" }, copyable(curl({ url, ...request }), { name: "the command" })));
}

function indented(text) {
  try {
    return showJson(parseJson(text), 2);
  } catch {
    return text;
  }
}

function curl({ url, method, headers, body }) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = ["curl", ...(method === "GET" ? [] : [`-X ${method}`]), quoted(new URL(url, location.href).href)];
  for (const [name, value] of Object.entries(headers)) parts.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (body !== undefined) parts.push(`--data-raw ${quoted(compact(body))}`);
  return parts.join(" ");
}

function compact(body) {
  try {
    return showJson(parseJson(body));
  } catch {
    return body;
  }
}

start();
