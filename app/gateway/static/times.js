// "Where the time goes": latency of the newest documents, its steps, the objective; and the embed workers.

import { el, reconcile, setText, svg } from "./dom.js";
import { History, drawHistory } from "./spark.js";
import { duration, share, shortCount } from "./time.js";

const WINDOW_MS = 300_000;
const CHART = { width: 360, height: 72, step_ms: 1500 };
const SMALL = { width: 168, height: 36, step_ms: 3000 };
const BAR = { width: 360, height: 14, gap: 1 };
const BUDGET = 1; // a burn above it misses the objective

const at = (id) => document.getElementById(id);

export class TimesPanel {
  #p99 = new History(WINDOW_MS);
  #p50 = new History(WINDOW_MS);
  #rate = new History(WINDOW_MS);
  #burn = new History(WINDOW_MS);
  #objective_ms = 1000; // until the first answer says

  /** An answer of /status. */
  show({ freshness, checks, lag, embed_workers }) {
    const { latency_ms, steps, windows, documents_per_s } = freshness;
    this.#objective_ms = freshness.objective_ms;
    if (latency_ms.count) {
      this.#p99.add(latency_ms.p99);
      this.#p50.add(latency_ms.p50);
    }
    this.#rate.add(documents_per_s);
    this.#burn.add(windows["300"].burn);
    this.#draw();
    showLatency(latency_ms, this.#objective_ms);
    showSteps(steps, latency_ms.count);
    showObjective(freshness);
    setText(at("documents-per-s"), `${documents_per_s < 10 ? documents_per_s.toFixed(1) : shortCount(Math.round(documents_per_s))}/s`);
    showChecks(checks, lag);
    showWorkers(embed_workers);
  }

  /** There was no answer. */
  lose() {
    for (const history of [this.#p99, this.#p50, this.#rate, this.#burn]) history.add(null);
    this.#draw();
  }

  #draw() {
    drawHistory(at("latency-chart"), this.#p99, { objective_ms: this.#objective_ms, below: this.#p50, ...CHART });
    drawHistory(at("rate-chart"), this.#rate, { objective_ms: null, ...SMALL });
    drawHistory(at("burn-chart"), this.#burn, { objective_ms: BUDGET, ...SMALL });
  }
}

function showLatency({ p50, p99, count }, objective_ms) {
  const level = count ? (p99 <= objective_ms ? "ok" : "over") : "unknown";
  at("latency").dataset.level = level;
  setText(at("latency-p99"), count ? duration(p99) : "–");
  const documents = `the last ${shortCount(count)} document${count === 1 ? "" : "s"}`;
  setText(at("latency-about"), count ? `p99 of ${documents} · p50 ${duration(p50)}` : "no document in the last five minutes");
  setText(at("latency-objective"), `objective ${duration(objective_ms)}`);
}

function showSteps(steps, count) {
  const rows = Object.entries(steps).map(([name, step], number) => ({ name, number, ...step }));
  const whole = rows.reduce((sum, { mean_ms }) => sum + (mean_ms ?? 0), 0);
  at("steps").hidden = at("steps-bar").toggleAttribute("hidden", !count);
  if (!count) return;
  let x = 0;
  const parts = rows.map(({ name, number, mean_ms }) => {
    const width = (BAR.width * (mean_ms ?? 0)) / whole;
    const shown = { class: "step", "data-step": number, x, y: 0, width: Math.max(0, width - BAR.gap), height: BAR.height };
    x += width;
    return svg("rect", shown, svg("title", {}, `${name}: ${share(mean_ms / whole, 0)}`));
  });
  at("steps-bar").setAttribute("viewBox", `0 0 ${BAR.width} ${BAR.height}`);
  at("steps-bar").replaceChildren(...(whole ? parts : []));
  reconcile(at("step-rows"), rows, {
    keyOf: ({ name }) => name,
    create: ({ name, number }) => stepRow(name, number),
    update: (row, step) => fillStep(row, step, whole),
  });
}

function stepRow(name, number) {
  const cells = ["share", "p50", "p99"].map((field) => el("td", { class: `${field} number` }));
  const head = el("th", { scope: "row" }, el("span", { class: "swatch", "data-step": number, "aria-hidden": "true" }), name);
  return el("tr", { "data-testid": "step", "data-name": name }, head, ...cells);
}

function fillStep(row, { mean_ms, p50_ms, p99_ms }, whole) {
  setText(row.querySelector(".share"), mean_ms === null || !whole ? "–" : share(mean_ms / whole, 0));
  setText(row.querySelector(".p50"), duration(p50_ms));
  setText(row.querySelector(".p99"), duration(p99_ms));
}

function showObjective({ windows, objective_ratio }) {
  const { 300: short, 3600: long } = windows;
  const count = long.met + long.missed;
  setText(at("met"), count ? share(long.met / count, 2) : "–");
  setText(at("met-wanted"), `of ${share(objective_ratio, objective_ratio * 1000 % 10 ? 1 : 0)}`);
  setText(at("burn-short"), burnText(short));
  setText(at("burn-long"), burnText(long));
  at("burn-short").dataset.level = short.burn > BUDGET ? "over" : "";
  at("burn-long").dataset.level = long.burn > BUDGET ? "over" : "";
  const [level, words] = verdict(short.burn, long.burn, count);
  at("objective-verdict").dataset.level = level;
  setText(at("objective-verdict"), words);
}

function burnText({ met, missed, burn }) {
  if (!met && !missed) return "–";
  return burn < 10 ? burn.toFixed(2) : shortCount(Math.round(burn));
}

function verdict(short, long, count) {
  if (!count) return ["unknown", "No document in the last hour"];
  if (short > BUDGET && long > BUDGET) return ["none", "The objective is missed"];
  if (short > BUDGET) return ["over", "At risk: if it goes on like this, the objective will be missed"];
  return long > BUDGET ? ["over", "Kept again, after too many misses within the hour"] : ["ok", "The objective is kept"];
}

function showChecks({ probes, drift }, lag) {
  const failed = probes.failed ?? 0;
  setText(at("probes"), failed ? `${shortCount(failed)} failed` : `${shortCount(probes.seen ?? 0)} seen`);
  setText(at("drift"), shortCount(drift));
  const letters = lag?.dead_letters;
  setText(at("letters"), shortCount(letters));
  at("probes").dataset.level = failed ? "none" : "";
  at("drift").dataset.level = drift ? "none" : "";
  at("letters").dataset.level = letters ? "over" : "";
}

function showWorkers(workers) {
  at("workers").hidden = !workers?.length;
  at("workers-none").hidden = Boolean(workers?.length);
  at("workers-none").dataset.level = workers ? "none" : "";
  setText(at("workers-none"), workers ? "None runs: changes are not embedded." : "Not known: the gateway has no Redis in which they would tell of themselves.");
  reconcile(at("worker-rows"), workers ?? [], { keyOf: ({ worker }) => worker, create: workerRow, update: fillWorker });
}

function workerRow({ worker }) {
  const cells = ["rate", "waiting", "hits", "saved"].map((field) => el("td", { class: `${field} number` }));
  const name = [el("span", { class: "dot", "aria-hidden": "true" }), el("span", { class: "shard-name" }, worker)];
  return el("tr", { "data-testid": "worker" }, el("th", { scope: "row" }, ...name, el("span", { class: "state" })), ...cells);
}

function fillWorker(row, told) {
  const cell = (name) => row.querySelector(`.${name}`);
  row.dataset.level = told.ready ? "ok" : "none";
  row.dataset.state = told.ready ? "ready" : "not ready";
  setText(cell("state"), told.reason ?? told.runtime);
  setText(cell("rate"), `${told.events_per_s.toFixed(1)}/s`);
  setText(cell("waiting"), shortCount(told.waiting_events));
  setText(cell("hits"), share(told.hit_ratio));
  setText(cell("saved"), duration(told.model_seconds_saved * 1000));
  cell("saved").title = `${told.model_seconds.toFixed(1)} s spent in the model`;
}
