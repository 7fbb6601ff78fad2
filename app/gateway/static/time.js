// Times and amounts as people read them. Ages are counted on the server's clock, not on this machine's.

let ahead_ms = 0; // server clock minus local clock

/** An answer that is `staleness_ms` old as of `as_of` was given at their sum, by the server's clock. */
export function syncClock(as_of, staleness_ms) {
  const answered = Date.parse(as_of ?? "") + (staleness_ms ?? NaN);
  if (Number.isFinite(answered)) ahead_ms = answered - Date.now();
}

export function serverNow() {
  return Date.now() + ahead_ms;
}

/** 38 ms, 1.24 s, 12.3 s, 3 min 12 s, 2 h 5 min, 3 d 4 h; a dash for what is not known. */
export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "–";
  if (ms < 1000) return `${ms < 10 && !Number.isInteger(ms) ? ms.toFixed(1) : Math.round(ms)} ms`;
  if (ms < 9_995) return `${(ms / 1000).toFixed(2)} s`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  return coarse(ms / 1000);
}

/** Whole seconds and up: 3 s, 3 min 12 s, 2 h 5 min, 3 d 4 h. */
function coarse(seconds) {
  const s = Math.floor(seconds);
  const parts = [
    [Math.floor(s / 86_400), "d"],
    [Math.floor(s / 3600) % 24, "h"],
    [Math.floor(s / 60) % 60, "min"],
    [s % 60, "s"],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return "0 s";
  const shown = parts.slice(first, first + 2).filter(([count]) => count > 0);
  return shown.map(([count, unit]) => `${count} ${unit}`).join(" ");
}

function age(epoch_ms) {
  const ms = serverNow() - epoch_ms;
  return ms < 1000 ? "just now" : `${coarse(ms / 1000)} ago`;
}

/** 12:00:01.234 in local time, with the date in front where it is not today. */
export function clock(iso) {
  const moment = new Date(iso);
  if (Number.isNaN(moment.getTime())) return String(iso);
  const pad = (value, width = 2) => String(value).padStart(width, "0");
  const day = `${moment.getFullYear()}-${pad(moment.getMonth() + 1)}-${pad(moment.getDate())} `;
  const time = `${pad(moment.getHours())}:${pad(moment.getMinutes())}:${pad(moment.getSeconds())}`;
  const today = new Date(serverNow()).toDateString() === moment.toDateString();
  return `${today ? "" : day}${time}.${pad(moment.getMilliseconds(), 3)}`;
}

function timeNode(iso, text) {
  const node = document.createElement("time");
  node.dateTime = iso;
  node.title = iso;
  node.textContent = text;
  return node;
}

/** <time> that shows the clock time. */
export function clockNode(iso) {
  return timeNode(iso, clock(iso));
}

/** <time> that shows the age and goes on counting. */
export function ageNode(iso) {
  const epoch_ms = Date.parse(iso);
  if (Number.isNaN(epoch_ms)) return timeNode(iso, String(iso));
  const node = timeNode(iso, age(epoch_ms));
  node.dataset.age = String(epoch_ms);
  return node;
}

/** Let all ages on the page count. */
export function startAges() {
  setInterval(() => {
    for (const node of document.querySelectorAll("time[data-age]")) {
      const text = age(Number(node.dataset.age));
      if (node.textContent !== text) node.textContent = text;
    }
  }, 250);
}

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en");

export function count(value) {
  return value === null || value === undefined ? "–" : whole.format(value);
}

/** A count for a narrow column: 12,345 and 1.2M. */
export function shortCount(value) {
  return value !== null && value !== undefined && Math.abs(value) >= 1e6 ? compact.format(value) : count(value);
}

const BYTE_UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB"];

/** 512 bytes, 3.1 MiB, 12 GiB; a dash for what is not known. */
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const step = Math.min(BYTE_UNITS.length - 1, value < 1024 ? 0 : Math.floor(Math.log2(value) / 10));
  const scaled = value / 1024 ** step;
  return `${step && scaled < 10 ? scaled.toFixed(1) : Math.round(scaled)} ${BYTE_UNITS[step]}`;
}

/** 0.987 → 98.7 %; a dash for what is not known. */
export function share(ratio, digits = 1) {
  return ratio === null || ratio === undefined ? "–" : `${(ratio * 100).toFixed(digits)} %`;
}
