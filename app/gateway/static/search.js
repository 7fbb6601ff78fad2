// The search box and its answer.

import { ApiError, parseJson, post, showJson } from "./api.js";
import { el, reconcile, setText } from "./dom.js";
import { hitNode, redrawn, revealMarks, showPressed } from "./hits.js";
import { clockNode, count, duration, syncClock } from "./time.js";

const DEBOUNCE_MS = 150; // a fast typist's pause between keys is shorter, an eye's patience longer
const FOLLOW_EVERY_MS = 500; // with "Follow changes": at most two searches a second
const DEFAULT_K = "10";
const DEFAULT_MODE = "hybrid";
const BY = { hybrid: "", vector: " by meaning", keyword: " by keywords" };

const at = (id) => document.getElementById(id);

export class Search {
  #openDocument;
  #timer = 0;
  #asked = 0; // number of the newest question; answers to earlier ones are dropped
  #running = null;
  #followTimer = 0;
  #lost = false;
  #documents = null; // how many the index holds, where it is known

  constructor({ openDocument }) {
    this.#openDocument = openDocument;
  }

  start() {
    this.#readAddress();
    at("query").addEventListener("input", () => this.#soon());
    at("filter").addEventListener("input", () => this.#soon());
    at("k").addEventListener("change", () => this.#now());
    at("modes").addEventListener("change", () => {
      this.announce(this.#documents);
      this.#now();
    });
    at("live").addEventListener("change", () => this.follow());
    at("filter-clear").addEventListener("click", () => this.#setFilter(""));
    at("search").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#now();
    });
    document.querySelector(".search").addEventListener("keydown", (event) => this.#walk(event));
    at("query").focus();
    this.#now();
  }

  focus() {
    at("query").focus();
    at("query").select();
  }

  /** The index changed. */
  follow() {
    if (!at("live").checked || this.#followTimer || !at("query").value.trim()) return;
    this.#followTimer = setTimeout(() => {
      this.#followTimer = 0;
      if (at("live").checked && !this.#running) this.#now();
    }, FOLLOW_EVERY_MS);
  }

  /** The gateway answers again. */
  retry() {
    if (this.#lost) this.#now();
  }

  announce(documents) {
    this.#documents = documents;
    const noun = documents === 1 ? "document" : "documents";
    const what = documents === null ? "the documents" : `${count(documents)} ${noun}`;
    at("query").placeholder = `Search ${what}${BY[currentMode()]}`;
  }

  #soon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#now(), DEBOUNCE_MS);
  }

  async #now() {
    clearTimeout(this.#timer);
    this.#running?.abort();
    this.#running = null;
    const question = ++this.#asked;
    const query = at("query").value;
    this.#writeAddress();
    if (!query.trim()) return this.#clear();
    const body = this.#body(query);
    at("results").toggleAttribute("aria-busy", false);
    if (body === null) return;
    const running = (this.#running = new AbortController());
    at("results").setAttribute("aria-busy", "true");
    try {
      const answer = await post("/search", body, { signal: running.signal });
      if (question === this.#asked) this.#show(answer);
    } catch (error) {
      if (question === this.#asked) this.#fail(error);
    } finally {
      if (question === this.#asked) {
        this.#running = null;
        at("results").removeAttribute("aria-busy");
      }
    }
  }

  /** The request as JSON, the filter in it as it was typed; null where the filter is not JSON. */
  #body(query) {
    const source = at("filter").value.trim();
    at("filter-clear").hidden = !source;
    let filter = "";
    if (source) {
      try {
        JSON.parse(source);
      } catch (error) {
        this.#refuseFilter(`filter: not JSON yet (${error.message})`);
        return null;
      }
      filter = `,"filter":${source}`;
    }
    return `{"query":${JSON.stringify(query)},"mode":"${currentMode()}","k":${Number(at("k").value)}${filter}}`;
  }

  #show(answer) {
    this.#lost = false;
    this.#resetProblems();
    const { mode, hits, freshness, took_ms } = answer;
    syncClock(freshness.as_of, freshness.staleness_ms);
    const summary = `${count(hits.length)} ${hits.length === 1 ? "hit" : "hits"} in ${duration(took_ms)}`;
    const fresh = freshness.as_of !== null && freshness.staleness_ms !== null
      ? ["as of ", clockNode(freshness.as_of), ` · ${duration(freshness.staleness_ms)} stale`]
      : ["freshness unknown: nothing has been applied yet"];
    at("answer").replaceChildren(el("b", {}, summary), " · ", ...fresh);
    this.#showPartial(answer);
    reconcile(at("results"), hits, {
      keyOf: (hit) => hit.id,
      create: (hit) => this.#hit(hit, mode),
      update: (node, hit) => redrawn(node, hit, mode, () => this.#hit(hit, mode)),
    });
    revealMarks(at("results"));
    showPressed(at("results"), currentFilter());
    at("empty").hidden = hits.length > 0;
    if (hits.length === 0) setText(at("empty"), this.#whyNothing());
  }

  #whyNothing() {
    if (this.#documents === 0) return "The index holds no documents yet.";
    return at("filter").value.trim() ? "No document passes the filter." : "Nothing was found.";
  }

  #showPartial({ partial, missing_shards }) {
    at("partial").hidden = !partial;
    if (!partial) return at("partial").replaceChildren();
    const missing = Object.entries(missing_shards);
    const noun = missing.length === 1 ? "1 shard is" : `${missing.length} shards are`;
    const reasons = missing.map(([shard, reason]) => el("li", {}, el("b", {}, `Shard ${shard}`), `: ${reason}`));
    at("partial").replaceChildren(
      el("strong", {}, `Partial answer: ${noun} missing.`),
      " Better hits may exist there.",
      el("ul", {}, ...reasons),
    );
  }

  #fail(error) {
    this.#lost = !(error instanceof ApiError);
    if (error instanceof ApiError && error.message.startsWith("filter")) return this.#refuseFilter(error.message);
    this.#resetProblems();
    const text = this.#lost ? `The gateway did not answer: ${error.message}. The search is repeated when it is back.` : error.message;
    const lead = this.#lost ? "" : `${error.status} `;
    at("error").replaceChildren(el("b", {}, lead), text);
    at("error").hidden = false;
    this.#dropAnswer();
  }

  #refuseFilter(message) {
    this.#resetProblems();
    at("filter-error").textContent = message;
    at("filter-error").hidden = false;
    at("filter").setAttribute("aria-invalid", "true");
    this.#dropAnswer();
  }

  #resetProblems() {
    at("filter-error").hidden = true;
    at("filter-error").textContent = "";
    at("filter").removeAttribute("aria-invalid");
    at("error").hidden = true;
    at("error").textContent = "";
  }

  /** An old answer under a new question would be a lie. */
  #dropAnswer() {
    at("answer").replaceChildren();
    at("results").replaceChildren();
    at("partial").hidden = true;
    at("partial").replaceChildren();
    at("empty").hidden = true;
  }

  #clear() {
    this.#lost = false;
    at("results").removeAttribute("aria-busy");
    this.#resetProblems();
    this.#dropAnswer();
    at("filter-clear").hidden = !at("filter").value.trim();
    at("empty").hidden = false;
    at("empty").replaceChildren(
      el("p", {}, "Type a question or a few words. Documents that change while you read become searchable within milliseconds, and every answer says how fresh it is."),
      el("p", { class: "syntax" }, "Among keywords, ", el("code", {}, '"two words"'), " must stand side by side, ", el("code", {}, "turb*"), " is any word that begins so, and ", el("code", {}, "-word"), " must not occur. “Meaning” takes the text as it is."),
      el("p", { class: "keys" }, el("kbd", {}, "/"), " search  ", el("kbd", {}, "↓"), el("kbd", {}, "↑"), " move between hits  ", el("kbd", {}, "Enter"), " open"),
    );
  }

  #hit(hit, mode) {
    return hitNode(hit, mode, { openDocument: this.#openDocument, toggleTag: (field, value) => this.#toggle(field, value) });
  }

  #toggle(field, value) {
    const { [field]: old, ...others } = currentFilter();
    const next = old === value ? others : { ...others, [field]: value };
    this.#setFilter(Object.keys(next).length ? showJson(next) : "");
  }

  #setFilter(text) {
    at("filter").value = text;
    this.#now();
  }

  /** Arrow keys move between the box and the hits; Escape in a hit goes back to the box. */
  #walk(event) {
    const stops = [at("query"), ...at("results").querySelectorAll("button.open")];
    const inside = event.target.closest(".hit")?.querySelector("button.open") ?? event.target;
    const here = stops.indexOf(inside);
    if (here < 0 || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape" && here > 0) at("query").focus();
    if (!step || !stops[here + step]) return;
    event.preventDefault();
    stops[here + step].focus();
  }

  #readAddress() {
    const address = new URLSearchParams(location.search);
    at("query").value = address.get("q") ?? "";
    at("filter").value = address.get("filter") ?? "";
    const mode = address.get("mode") ?? DEFAULT_MODE;
    if (Object.hasOwn(BY, mode)) at("search").elements.mode.value = mode;
    const k = address.get("k") ?? DEFAULT_K;
    if (!/^\d{1,4}$/.test(k)) return;
    if (![...at("k").options].some((option) => option.value === k)) at("k").append(el("option", {}, k));
    at("k").value = k;
  }

  #writeAddress() {
    const fields = { q: at("query").value, filter: at("filter").value.trim(), mode: currentMode(), k: at("k").value };
    if (fields.mode === DEFAULT_MODE) delete fields.mode;
    if (fields.k === DEFAULT_K) delete fields.k;
    const address = new URLSearchParams(Object.entries(fields).filter(([, value]) => value));
    const wanted = `${location.pathname}${address.size ? `?${address}` : ""}`;
    if (wanted !== location.pathname + location.search) history.replaceState(null, "", wanted + location.hash);
    document.title = fields.q.trim() ? `${fields.q.trim()} – Headrace` : "Headrace";
  }
}

function currentMode() {
  return at("search").elements.mode.value;
}

function currentFilter() {
  try {
    const filter = parseJson(at("filter").value);
    return filter !== null && typeof filter === "object" && !Array.isArray(filter) ? filter : {};
  } catch {
    return {};
  }
}
