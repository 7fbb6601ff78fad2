// What was measured over the last minutes, as a small drawing.

import { svg } from "./dom.js";

const WINDOW_MS = 120_000;
const GAP_MS = 3500; // longer without a measurement (the tab was hidden): no line is drawn across

/** Measurements of the last `window_ms`; null stands for "no answer". */
export class History {
  #points = [];

  constructor(window_ms = WINDOW_MS) {
    this.window_ms = window_ms;
  }

  add(value, now = performance.now()) {
    this.#points.push({ now, value });
    this.forget(now);
  }

  forget(now) {
    while (this.#points.length && this.#points[0].now < now - this.window_ms - GAP_MS) this.#points.shift();
  }

  /** Runs without a gap, oldest first; of the answers within `step_ms` only the stalest is kept. */
  runs(step_ms) {
    const runs = [];
    let last = null;
    for (const point of this.#points) {
      const joined = last && point.now - last.now <= GAP_MS && (point.value === null) === (last.value === null);
      if (!joined) runs.push([]);
      merge(runs.at(-1), point, step_ms);
      last = point;
    }
    return runs;
  }

  get highest() {
    return this.#points.reduce((highest, { value }) => Math.max(highest, value ?? 0), 0);
  }
}

function merge(run, point, step_ms) {
  const before = run.at(-1);
  const same = before && point.value !== null && Math.floor(before.now / step_ms) === Math.floor(point.now / step_ms);
  if (!same) run.push({ ...point });
  else before.value = Math.max(before.value, point.value);
}

export function sparkline(label) {
  return svg("svg", { class: "spark", role: "img", "aria-label": label });
}

/**
 * Draw into an <svg>. The scale always reaches past the objective (the dashed line). It is nearly linear below the
 * objective and logarithmic above, so that one long outage does not flatten the rest of the minutes. objective_ms:
 * null where there is none. below: a second history, of what is never higher, as a thin line.
 */
export function drawHistory(target, history, { objective_ms, width, height, step_ms = 1, below = null }) {
  const now = performance.now();
  history.forget(now);
  below?.forget(now);
  const unit = objective_ms === null ? Math.max(history.highest, 1e-9) : Math.max(objective_ms, 1);
  const top = Math.log1p(Math.max(unit * 1.25, history.highest * 1.08) / unit);
  const scale = {
    x: (point) => round(Math.max(0, width * (1 - (now - point.now) / history.window_ms))),
    y: ({ value }) => round(height - 1.5 - (height - 3) * (Math.log1p(value / unit) / top)),
    over: ({ value }) => objective_ms !== null && value > objective_ms,
    level: objective_ms === null ? "plain" : "ok",
    height,
  };
  const at = scale.y({ value: objective_ms ?? 0 });
  const nodes = objective_ms === null ? [] : [svg("line", { class: "objective", x1: 0, x2: width, y1: at, y2: at })];
  for (const run of below?.runs(step_ms) ?? []) if (run[0].value !== null) nodes.push(svg("path", { class: "line below", d: stroke(run, scale) }));
  for (const run of history.runs(step_ms)) nodes.push(...(run[0].value === null ? [outage(run, scale)] : line(run, scale)));
  target.setAttribute("viewBox", `0 0 ${width} ${height}`);
  target.setAttribute("preserveAspectRatio", "none");
  target.replaceChildren(...nodes);
}

function outage(run, { x, height }) {
  const from = x(run[0]);
  return svg("rect", { class: "no-answer", x: from, y: 0, width: round(Math.max(x(run.at(-1)) - from, 1.5)), height });
}

/** The run in pieces that lie within or over the objective, each in its colour. */
function line(run, scale) {
  const pieces = [{ over: scale.over(run[0]), points: [run[0]] }];
  for (const point of run.slice(1)) {
    const piece = pieces.at(-1);
    const before = piece.points.at(-1);
    const over = scale.over(before) || scale.over(point);
    if (piece.points.length > 1 && over !== piece.over) pieces.push({ over, points: [before, point] });
    else Object.assign(piece, { over, points: [...piece.points, point] });
  }
  return pieces.flatMap((piece) => draw(piece, scale));
}

function draw({ over, points }, scale) {
  const d = stroke(points, scale);
  const level = over ? "over" : scale.level;
  return [
    svg("path", { class: "area", "data-level": level, d: `${d}V${scale.height}H${scale.x(points[0])}Z` }),
    svg("path", { class: "line", "data-level": level, d }),
  ];
}

function stroke(points, { x, y }) {
  return `M${points.map((point) => `${x(point)},${y(point)}`).join("L")}${points.length > 1 ? "" : "h1"}`;
}

function round(value) {
  return Math.round(value * 10) / 10;
}
