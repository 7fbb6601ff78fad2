// Nodes, never markup: data reaches the page only as text and attribute values.

const SVG = "http://www.w3.org/2000/svg";

/** One element. `on…` properties become listeners, null and false ones are left out, true ones are empty. */
export function el(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same for an SVG element. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Set the text only where it differs, so that an unchanged line keeps its selection and is not announced again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Make the children of `parent` those of `items`, in order, keeping the nodes that exist (and so focus and selection).
 *
 * keyOf: item → text, unique in `items`; later duplicates are dropped. create: item → node.
 * update: called with (node, item) for every item; may return another node to take its place.
 */
export function reconcile(parent, items, { keyOf, create, update = () => undefined }) {
  const existing = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  const wanted = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (wanted.has(key)) continue;
    const node = existing.get(key) ?? create(item);
    const current = update(node, item) ?? node;
    if (current !== node && node.isConnected) replaceKeepingFocus(node, current);
    current.dataset.key = key;
    wanted.set(key, current);
  }
  const keep = new Set(wanted.values());
  for (const node of [...parent.children]) if (!keep.has(node)) node.remove();
  let position = 0;
  for (const node of keep) {
    const there = parent.children[position++] ?? null;
    if (there !== node) parent.insertBefore(node, there);
  }
}

function replaceKeepingFocus(node, current) {
  const held = node.contains(document.activeElement);
  node.replaceWith(current);
  if (held) current.querySelector("button, a")?.focus({ preventScroll: true });
}

/** Text with the spans [start, end) marked. Spans are in code points, not in UTF-16 units. */
export function marked(text, spans) {
  const points = Array.from(text);
  const fragment = document.createDocumentFragment();
  let at = 0;
  for (const { start, end } of [...(spans ?? [])].sort((a, b) => a.start - b.start)) {
    const from = Math.max(start, at);
    const to = Math.min(end, points.length);
    if (from >= to) continue;
    fragment.append(points.slice(at, from).join(""), el("mark", {}, points.slice(from, to).join("")));
    at = to;
  }
  fragment.append(points.slice(at).join(""));
  return fragment;
}

/** A short text with a button that copies the whole value. */
export function copyable(value, { shown = value, name = "value" } = {}) {
  const code = el("code", { title: value }, shown);
  const button = el("button", { type: "button", class: "copy", "aria-label": `Copy ${name}` }, "copy");
  let reset = 0;
  button.addEventListener("click", async () => {
    const done = await copy(value);
    button.textContent = done ? "copied" : "press Ctrl+C";
    if (!done) selectWhole(code, value);
    clearTimeout(reset);
    reset = setTimeout(() => (button.textContent = "copy"), 1600);
  });
  return el("span", { class: "copyable" }, code, button);
}

async function copy(value) {
  try {
    await navigator.clipboard.writeText(value);
    return true;
  } catch {
    return false; // no permission, or not a secure context: the reader copies the selection
  }
}

function selectWhole(code, value) {
  code.textContent = value;
  getSelection().selectAllChildren(code);
}

/** Resolves while the page can be seen. */
export function whenVisible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((wake) => document.addEventListener("visibilitychange", wake, { once: true })).then(whenVisible);
}
