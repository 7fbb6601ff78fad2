// "How fresh is the index": asks /status every second and draws the answer.

import { ApiError, call } from "./api.js";
import { el, reconcile, setText, whenVisible } from "./dom.js";
import { History, drawHistory, sparkline } from "./spark.js";
import { ageNode, clock, count, duration, shortCount, syncClock } from "./time.js";

const POLL_EVERY_MS = 1000;
const PATIENCE_MS = 3000; // a status slower than this is as good as none
const RECENT_SHOWN_COUNT = 12;
const CHART = { width: 360, height: 72 };
const SPARK = { width: 72, height: 26, step_ms: 3000 }; // a point every two pixels

const KNOWN = new Set(["ready", "catching up", "loading"]); // of the others nobody knows how stale they are

const at = (id) => document.getElementById(id);

export class StatusPanel {
  #parts;
  #overall = new History();
  #shards = new Map(); // "shard/replica" → History
  #answered = null; // local time of the last answer
  #silent = false;
  #objective_ms = 1000; // until the first answer says
  #newest = null; // key of the newest change seen

  /** parts: openDocument(id), onChange() the index changed, onBack() the gateway answers again, onTotals(count | null), onStatus(status | null). */
  constructor(parts) {
    this.#parts = parts;
  }

  async start() {
    for (;;) {
      await whenVisible();
      const began = performance.now();
      try {
        this.#show(await call("/status", { timeout_ms: PATIENCE_MS }));
      } catch (error) {
        this.#lose(error);
      }
      await new Promise((wake) => setTimeout(wake, Math.max(0, began + POLL_EVERY_MS - performance.now())));
    }
  }

  #show(status) {
    this.#recover();
    syncClock(status.as_of, status.staleness_ms);
    const objective_ms = (this.#objective_ms = status.freshness_objective_ms);
    this.#overall.add(status.staleness_ms);
    setText(at("collection"), status.collection);
    setText(at("model"), status.model);
    this.#showOverall(status, objective_ms);
    setText(at("documents"), count(status.documents));
    setText(at("chunks"), count(status.chunks));
    const redis = status.services?.redis ?? "unknown";
    setText(at("redis"), redis);
    at("redis").dataset.level = redis === "unavailable" ? "over" : "";
    at("redis").title = redis === "unavailable" ? "Without Redis, work may be done twice; nothing is lost" : "";
    this.#showShards(status.shards, objective_ms);
    this.#showRecent(status.recent, objective_ms);
    this.#parts.onTotals(status.documents);
    this.#parts.onStatus(status);
  }

  #showOverall({ as_of, staleness_ms, shards }, objective_ms) {
    const level = levelOf(staleness_ms, objective_ms);
    const silent = shards.filter((shard) => shard.state !== "ready").length;
    const text = staleness_ms === null ? "no answer" : duration(staleness_ms);
    at("gauge").dataset.level = level;
    setText(at("staleness"), text);
    setText(at("verdict"), verdict(level, silent, shards.length));
    setText(at("as-of"), as_of ? `as of ${clock(as_of)}` : "nothing has been applied yet");
    setText(at("objective"), `objective ${duration(objective_ms)}`);
    this.#setPulse(silent ? "over" : level, staleness_ms === null ? text : `${text} stale`);
    drawHistory(at("chart"), this.#overall, { objective_ms, ...CHART });
  }

  #setPulse(level, text) {
    at("pulse").dataset.level = level;
    setText(at("pulse-text"), text);
  }

  #showShards(shards, objective_ms) {
    const replicated = new Set(shards.map((shard) => shard.replica)).size > 1;
    reconcile(at("shard-rows"), shards, {
      keyOf: (shard) => `${shard.shard}/${shard.replica}`,
      create: (shard) => shardRow(shard, replicated),
      update: (row, shard) => this.#updateRow(row, shard, objective_ms),
    });
    this.#showNotes(shards, replicated);
  }

  /** Why a shard is paused or loading, in the words of its worker. */
  #showNotes(shards, replicated) {
    reconcile(at("shard-notes"), shards.filter((shard) => shard.reason), {
      keyOf: (shard) => `${shard.shard}/${shard.replica}`,
      create: (shard) => el("li", {}, el("b", {}, `Shard ${shardName(shard, replicated)} `), el("span", {})),
      update: (note, shard) => setText(note.querySelector("span"), shard.paused ? shard.reason : `${shard.state}: ${shard.reason}`),
    });
  }

  #updateRow(row, shard, objective_ms) {
    const key = `${shard.shard}/${shard.replica}`;
    if (!this.#shards.has(key)) this.#shards.set(key, new History());
    const history = this.#shards.get(key);
    const staleness_ms = KNOWN.has(shard.state) ? shard.staleness_ms : null;
    history.add(staleness_ms);
    row.dataset.state = shard.state;
    row.toggleAttribute("data-paused", Boolean(shard.paused));
    row.dataset.level = staleness_ms !== null && (shard.state !== "ready" || shard.paused) ? "over" : levelOf(staleness_ms, objective_ms);
    row.title = shard.worker ? `worker ${shard.worker}` : "";
    const cell = (name) => row.querySelector(`.${name}`);
    setText(cell("state"), shard.paused ? `${shard.state}, paused` : shard.state);
    setText(cell("staleness"), staleness_ms === null ? "–" : duration(staleness_ms));
    setText(cell("offset"), count(shard.applied_offset));
    setText(cell("documents"), shortCount(shard.documents));
    setText(cell("chunks"), shortCount(shard.chunks));
    drawHistory(cell("spark"), history, { objective_ms, ...SPARK });
  }

  #showRecent(recent, objective_ms) {
    const key = (change) => `${change.indexed_time} ${change.op} ${change.id}`;
    at("recent-empty").hidden = recent.length > 0;
    reconcile(at("recent"), recent.slice(0, RECENT_SHOWN_COUNT), {
      keyOf: key,
      create: (change) => this.#change(change, objective_ms),
    });
    const newest = recent.length ? key(recent[0]) : null;
    if (newest !== this.#newest) this.#parts.onChange();
    this.#newest = newest;
  }

  #change(change, objective_ms) {
    const name = change.title || change.id;
    const open = () => this.#parts.openDocument(change.id);
    const what =
      change.op === "delete"
        ? el("span", { class: "change-name", title: change.id }, name)
        : el("button", { type: "button", class: "change-name open", title: change.id, onclick: open }, name);
    return el(
      "li",
      { "data-testid": "change", "data-id": change.id, "data-op": change.op, "data-level": levelOf(change.freshness_ms, objective_ms) },
      el("span", { class: "op" }, change.op),
      what,
      el("span", { class: "muted small" }, ageNode(change.indexed_time)),
      el("span", { class: "freshness", title: "Freshness: from the event to searchable" }, duration(change.freshness_ms)),
    );
  }

  #recover() {
    const silent = this.#silent;
    this.#answered = new Date();
    this.#silent = false;
    at("gateway-error").hidden = true;
    if (silent) at("gateway-error").replaceChildren();
    document.body.classList.remove("silent");
    if (silent) this.#parts.onBack();
  }

  /** Say it once (it is announced), and show that no number on the page holds any more. */
  #lose(error) {
    this.#overall.add(null);
    for (const history of this.#shards.values()) history.add(null);
    drawHistory(at("chart"), this.#overall, { objective_ms: this.#objective_ms, ...CHART });
    this.#setPulse("none", "no answer");
    at("gauge").dataset.level = "none";
    setText(at("staleness"), "no answer");
    setText(at("verdict"), "");
    if (!this.#silent) {
      const said = error instanceof ApiError ? `answers ${error.status}: ${error.message}` : `cannot be reached: ${error.message}`;
      const last = this.#answered ? `The last answer came at ${clock(this.#answered)}; what you see below is from then.` : "";
      at("gateway-error").replaceChildren(el("strong", {}, `The gateway ${said}.`), ` Trying again every second. ${last}`);
      at("gateway-error").hidden = false;
    }
    this.#silent = true;
    setText(at("as-of"), "");
    this.#parts.onStatus(null);
    document.body.classList.add("silent");
  }
}

/** Its number, with its replica where there are several. */
function shardName({ shard, replica }, replicated) {
  return replicated ? `${shard} · ${replica ?? "–"}` : String(shard);
}

function shardRow(shard, replicated) {
  const name = shardName(shard, replicated);
  const head = el(
    "th",
    { scope: "row" },
    el("span", { class: "dot", "aria-hidden": "true" }),
    el("span", { class: "shard-name" }, name),
    el("span", { class: "state" }),
  );
  const cells = ["staleness", "offset", "documents", "chunks"].map((field) => el("td", { class: `${field} number` }));
  return el(
    "tr",
    { "data-shard": shard.shard, "data-replica": shard.replica },
    head,
    el("td", { class: "spark-cell" }, sparkline(`Staleness of shard ${name} over the last two minutes`)),
    ...cells,
  );
}

/** ok: within the freshness objective; over: not; none: no answer. */
function levelOf(ms, objective_ms) {
  if (ms === null || ms === undefined) return "none";
  return ms <= objective_ms ? "ok" : "over";
}

function verdict(level, silent, total) {
  if (silent) return `stale · ${silent} of ${total} shards not ready`;
  return { ok: "stale · within the objective", over: "stale · over the objective", none: "" }[level];
}
