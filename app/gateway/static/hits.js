// One hit of an answer as a node.

import { copyable, el, marked } from "./dom.js";
import { showJson } from "./api.js";
import { ageNode, duration } from "./time.js";

const NOT_FIELDS = new Set(["and", "or", "not"]); // these mean something else in a filter
const LISTS = [
  { name: "meaning", rank: "vector_rank", score: "vector_score", unit: "cosine" },
  { name: "keywords", rank: "keyword_rank", score: "keyword_score", unit: "BM25" },
];
const SCORE = { vector: ["Cosine similarity", 3], keyword: ["BM25 score", 2], hybrid: ["Fused score of the two ranks", 4] };

/** parts: openDocument(id, hit), toggleTag(field, value). */
export function hitNode(hit, mode, { openDocument, toggleTag }) {
  const open = () => openDocument(hit.id, hit);
  const node = el(
    "li",
    { class: "hit", "data-testid": "hit", "data-id": hit.id },
    el(
      "div",
      { class: "hit-head" },
      el("h3", {}, el("button", { type: "button", class: "open", onclick: open }, hit.title || hit.id)),
      mode === "hybrid" ? foundBy(hit) : null,
      scoreNode(hit.score, mode),
    ),
    el("p", { class: "chunk" }, marked(hit.text, hit.highlights)),
    furtherChunks(hit.chunks),
    tags(hit.metadata, toggleTag),
    el("p", { class: "facts" }, facts(hit)),
  );
  node.content = contentOf(hit, mode);
  node.addEventListener("click", (event) => {
    if (!event.target.closest("button, a, details") && getSelection().isCollapsed) open();
  });
  return node;
}

/** The node itself while the hit and the mode are the same; else what `create` makes, unfolded where the reader had unfolded it. */
export function redrawn(node, hit, mode, create) {
  if (node.content === contentOf(hit, mode)) return node;
  const fresh = create();
  const unfolded = node.querySelector("details.more")?.open ?? false;
  fresh.querySelector("details.more")?.toggleAttribute("open", unfolded);
  return fresh;
}

function contentOf(hit, mode) {
  return showJson([mode, hit]);
}

function scoreNode(score, mode) {
  const [meaning, digits] = SCORE[mode];
  return el("span", { class: "score", title: meaning }, el("span", { class: "hidden" }, `${meaning} `), score.toFixed(digits));
}

/** Which of the two searches found the hit, and at which place. */
function foundBy(hit) {
  const marks = LISTS.map((list) => {
    const rank = hit[list.rank];
    if (rank === null) return el("li", { class: "found none", title: `Not found by ${list.name}` }, el("span", { class: "hidden" }, "not found by "), list.name);
    return el("li", { class: "found", "data-list": list.name, title: `Place ${rank} by ${list.name}, ${list.unit} ${hit[list.score].toFixed(3)}` }, list.name, el("b", {}, ` ${rank}`));
  });
  return el("ul", { class: "found-by", "aria-label": "Place in each search" }, ...marks);
}

/** The chunks after the best one, folded. */
function furtherChunks(chunks) {
  const further = chunks.slice(1);
  if (further.length === 0) return null;
  const noun = further.length === 1 ? "1 more passage" : `${further.length} more passages`;
  const passages = further.map((chunk) => el("li", { class: "passage" }, marked(chunk.text, chunk.highlights)));
  return el("details", { class: "more" }, el("summary", {}, noun), el("ol", {}, ...passages));
}

function facts(hit) {
  return [
    el("span", {}, "changed ", ageNode(hit.event_time)),
    el("span", {}, `searchable after ${duration(Math.max(0, Date.parse(hit.indexed_time) - Date.parse(hit.event_time)))}`),
    hit.version === null ? null : el("span", {}, `version ${hit.version}`),
    hit.title ? el("span", { class: "id" }, hit.id) : null,
    hit.trace_id ? el("span", {}, "trace ", copyable(hit.trace_id, { shown: hit.trace_id.slice(0, 8), name: "the trace id" })) : null,
  ];
}

function tags(metadata, toggleTag) {
  const all = Object.entries(metadata ?? {}).flatMap(([field, value]) =>
    (Array.isArray(value) ? value : [value]).filter((item) => item !== null).map((item) => tag(field, item, toggleTag)),
  );
  return all.length ? el("ul", { class: "tags", "aria-label": "Metadata" }, ...all) : null;
}

function tag(field, value, toggleTag) {
  const label = [el("span", { class: "tag-field" }, field), ` ${typeof value === "object" ? showJson(value) : value}`];
  if (NOT_FIELDS.has(field) || typeof value === "object") return el("li", {}, el("span", { class: "tag" }, label));
  const button = el("button", { type: "button", class: "tag", title: "Filter by this", "aria-pressed": "false" }, label);
  button.term = [field, value];
  button.addEventListener("click", () => toggleTag(field, value));
  return el("li", {}, button);
}

/** Mark the tags that the filter asks for. */
export function showPressed(results, filter) {
  for (const button of results.querySelectorAll("button.tag")) {
    const [field, value] = button.term;
    button.setAttribute("aria-pressed", String(Object.hasOwn(filter, field) && filter[field] === value));
  }
}

/** A long chunk is cut by the style sheet; show the part of it that holds the first mark. */
export function revealMarks(results) {
  const chunks = [...results.querySelectorAll(".chunk")].map((chunk) => {
    const mark = chunk.querySelector("mark");
    const hidden_px = mark ? mark.offsetTop + mark.offsetHeight - chunk.clientHeight : 0;
    return { chunk, cut: chunk.scrollHeight > chunk.clientHeight + 1, hidden_px, mark_px: mark?.offsetTop ?? 0 };
  });
  for (const { chunk, cut, hidden_px, mark_px } of chunks) {
    const moved = cut && hidden_px > 0;
    chunk.scrollTop = moved ? mark_px - 24 : 0;
    chunk.classList.toggle("cut", cut);
    chunk.classList.toggle("moved", moved);
  }
}
