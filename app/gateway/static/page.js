// The search page: builds the parts and connects them.

import { DocumentSheet } from "./document.js";
import { HealthPanel } from "./health.js";
import { Search } from "./search.js";
import { StatusPanel } from "./status.js";
import { startAges } from "./time.js";
import { TimesPanel } from "./times.js";

function start() {
  const sheet = new DocumentSheet();
  const times = new TimesPanel();
  const search = new Search({ openDocument: (id, hit) => sheet.open(id, hit) });
  const status = new StatusPanel({
    openDocument: (id) => sheet.open(id),
    onChange: () => search.follow(),
    onBack: () => search.retry(),
    onTotals: (documents) => search.announce(documents),
    onStatus: (told) => (told ? times.show(told) : times.lose()),
  });
  document.addEventListener("keydown", (event) => shortcut(event, search));
  startAges();
  search.start();
  status.start();
  new HealthPanel().start();
}

function shortcut(event, search) {
  const typing = event.target.closest?.("input:not([type=checkbox]), textarea, [contenteditable]");
  const modified = event.ctrlKey || event.metaKey || event.altKey;
  if (event.key !== "/" || typing || modified || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  search.focus();
}

start();
