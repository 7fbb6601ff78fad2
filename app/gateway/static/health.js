// "How sound is the index": asks /stats every few seconds and shows recall, dead share and memory.

import { call } from "./api.js";
import { el, reconcile, setText, whenVisible } from "./dom.js";
import { bytes, duration, share, shortCount } from "./time.js";

const POLL_EVERY_MS = 5000; // nothing here moves faster than a rebuild
const PATIENCE_MS = 3000;
const PARTS = ["graph", "rows", "buffer", "keyword"];

const at = (id) => document.getElementById(id);

export class HealthPanel {
  async start() {
    for (;;) {
      await whenVisible();
      try {
        show(await call("/stats", { timeout_ms: PATIENCE_MS }));
        at("health-error").hidden = true;
      } catch (error) {
        setText(at("health-error"), `No newer numbers: ${error.message}.`);
        at("health-error").hidden = false;
      }
      await new Promise((wake) => setTimeout(wake, POLL_EVERY_MS));
    }
  }
}

function show({ totals, shards }) {
  const measured = shards.map((shard) => shard.recall_at_10).filter((recall) => recall !== null);
  setText(at("recall"), measured.length ? share(Math.min(...measured)) : "–");
  setText(at("memory"), bytes(totals.memory.total));
  setText(at("disk"), bytes(totals.disk_bytes));
  at("memory").title = memoryParts(totals.memory);
  const replicated = new Set(shards.map((shard) => shard.replica)).size > 1;
  reconcile(at("health-rows"), shards, {
    keyOf: (shard) => `${shard.shard}/${shard.replica}`,
    create: (shard) => row(shard, replicated),
    update: fill,
  });
}

function row(shard, replicated) {
  const name = replicated ? `${shard.shard} · ${shard.replica ?? "–"}` : String(shard.shard);
  const cells = ["recall", "dead", "buffer", "memory"].map((field) => el("td", { class: `${field} number` }));
  return el("tr", { "data-health": shard.shard }, el("th", { scope: "row" }, el("span", { class: "shard-name" }, name), el("span", { class: "state" })), ...cells);
}

function fill(node, shard) {
  const cell = (name) => node.querySelector(`.${name}`);
  node.dataset.state = shard.state;
  setText(cell("state"), activity(shard));
  setText(cell("recall"), shard.recall_at_10 === null ? "–" : share(shard.recall_at_10));
  cell("recall").title = shard.recall_samples ? `measured on ${shortCount(shard.recall_samples)} searches, ef_search ${shard.ef_search ?? "–"}` : "not measured yet";
  setText(cell("dead"), share(shard.graph_dead_ratio));
  cell("dead").title = lastRebuild(shard.rebuild);
  setText(cell("buffer"), shortCount(shard.buffered_chunks));
  setText(cell("memory"), bytes(shard.memory.total));
  cell("memory").title = memoryParts(shard.memory);
}

function activity({ rebuild, snapshot }) {
  if (rebuild.running) return rebuild.progress === null ? "rebuilding" : `rebuilding ${share(rebuild.progress, 0)}`;
  return snapshot ? `snapshot ${duration(snapshot.age_s * 1000)} old` : "";
}

function lastRebuild({ running, last_reason, last_seconds }) {
  const reason = last_reason ? `: ${last_reason}` : "";
  if (running) return `Is being rebuilt${reason}`;
  return last_seconds === null ? "Not rebuilt since its worker started" : `Last rebuilt in ${duration(last_seconds * 1000)}${reason}`;
}

function memoryParts(memory) {
  return PARTS.map((part) => `${part} ${bytes(memory[part])}`).join(", ");
}
