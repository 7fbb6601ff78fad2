// One stored document, in a sheet beside the page.

import { call, documentPath, showJson } from "./api.js";
import { copyable, el, marked } from "./dom.js";
import { ageNode, clockNode, duration } from "./time.js";

const SHOWN_ABOVE = new Set(["id", "title", "text", "metadata"]);
const RFC_3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d/;

export class DocumentSheet {
  #dialog = document.getElementById("document");
  #title = document.getElementById("document-title");
  #body = document.getElementById("document-body");
  #running = null;

  constructor() {
    document.getElementById("document-close").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("click", (event) => {
      if (event.target === this.#dialog) this.#dialog.close(); // the backdrop
    });
    this.#dialog.addEventListener("close", () => this.#running?.abort());
  }

  /** hit: what was found of it, to be shown inside the whole text; null where it is opened for itself. */
  async open(id, hit = null) {
    this.#running?.abort();
    const running = (this.#running = new AbortController());
    this.#title.textContent = id;
    this.#body.replaceChildren(el("p", { class: "muted" }, "Loading…"));
    if (!this.#dialog.open) this.#dialog.showModal();
    this.#title.focus();
    try {
      const stored = await call(documentPath(id), { signal: running.signal });
      if (!running.signal.aborted) this.#show(stored, hit);
    } catch (error) {
      if (!running.signal.aborted) this.#fail(id, error);
    }
  }

  #fail(id, error) {
    const status = error.status ? `${error.status} ` : "";
    this.#body.replaceChildren(el("p", { class: "banner bad", role: "alert" }, el("b", {}, status), error.message), idLine(id));
  }

  #show(stored, hit) {
    this.#title.textContent = stored.title || stored.id;
    const rows = facts(stored).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, factValue(name, value))));
    this.#body.replaceChildren(
      idLine(stored.id),
      ...journey(stored),
      ...metadata(stored.metadata),
      el("h3", {}, "Text"),
      el("div", { class: "whole-text" }, ...wholeText(stored.text ?? "", hit?.chunks ?? [])),
      el("h3", {}, "Offsets and times"),
      el("dl", { class: "facts-list" }, ...rows),
      el("p", { class: "small" }, el("a", { href: documentPath(stored.id), target: "_blank", rel: "noopener" }, "as JSON")),
    );
    this.#body.scrollTop = 0;
  }
}

function idLine(id) {
  return el("p", { class: "id-line" }, copyable(id, { name: "the document id" }));
}

/** From the source event to the first query that could return it. */
function journey({ event_time, indexed_time }) {
  if (!event_time || !indexed_time) return [];
  const took = duration(Math.max(0, Date.parse(indexed_time) - Date.parse(event_time)));
  return [
    el(
      "div",
      { class: "journey" },
      el("div", {}, el("span", { class: "muted small" }, "changed ", ageNode(event_time)), clockNode(event_time)),
      el("div", { class: "journey-took" }, el("span", {}, took)),
      el("div", {}, el("span", { class: "muted small" }, "searchable"), clockNode(indexed_time)),
    ),
  ];
}

function metadata(fields) {
  const tags = Object.entries(fields ?? {}).map(([field, value]) =>
    el("li", {}, el("span", { class: "tag" }, el("span", { class: "tag-field" }, field), ` ${plain(value)}`)),
  );
  return tags.length ? [el("h3", {}, "Metadata"), el("ul", { class: "tags" }, ...tags)] : [];
}

/** Whatever the API tells beside the text, one level of nesting unfolded. */
function facts(stored) {
  const rows = [];
  for (const [name, value] of Object.entries(stored)) {
    if (SHOWN_ABOVE.has(name)) continue;
    const nested = value !== null && typeof value === "object" && !Array.isArray(value);
    if (nested) rows.push(...Object.entries(value).map(([inner, item]) => [`${name} ${inner}`, item]));
    else rows.push([name, value]);
  }
  return rows.map(([name, value]) => [name.replaceAll("_", " "), value]);
}

function factValue(name, value) {
  if (typeof value === "string" && RFC_3339.test(value)) return clockNode(value);
  if (typeof value === "string" && /trace|hash|fingerprint/.test(name)) return copyable(value, { name });
  return plain(value);
}

function plain(value) {
  if (value === null) return "–";
  if (Array.isArray(value) && value.every((item) => typeof item === "string")) return value.join(", ");
  return typeof value === "object" ? showJson(value) : String(value);
}

/** The text with the chunks that were found and what is marked in them; those it no longer holds are left out. */
function wholeText(text, chunks) {
  if (!text) return [el("span", { class: "muted" }, "This document has no text.")];
  const points = Array.from(text);
  const there = chunks.filter((chunk) => points.slice(chunk.start, chunk.end).join("") === chunk.text);
  if (there.length === 1 && there[0].text === text) return [marked(text, there[0].highlights)];
  const nodes = [];
  let at = 0;
  for (const chunk of there.sort((a, b) => a.start - b.start)) {
    if (chunk.start < at) continue; // shown with the one before it
    const title = chunk === chunks[0] ? "The chunk that was found" : "Found as well";
    nodes.push(points.slice(at, chunk.start).join(""), el("span", { class: "best-chunk", title }, marked(chunk.text, chunk.highlights)));
    at = chunk.end;
  }
  return [...nodes, points.slice(at).join("")];
}
