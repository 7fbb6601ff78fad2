"""Asks the gateway all the time while things break, and judges what can be judged."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

from bench.soak_load import number_of, word_of
from bench.soak_model import Model, View
from bench.soak_staleness import SPELL_S, StalenessLog

_REST_S = 0.05
_TIMEOUT_S = 8.0
_WAIT_MS = 3000
_MOST_KEPT = 100


class Prober:
    """Two threads: one asks plainly, for how long nothing answers; one demands what was confirmed, and judges.

    drift: by kind, what must not be: vanished (a document that exists is not in a whole answer), ghosts (a deleted
    one is), duplicates, stale (a text from before the offsets that the answer had to wait for).
    counts: queries by outcome. findings: each piece of drift in words. spells: each long time without a whole answer
    or with a stale one.
    """

    def __init__(self, gateway: str, model: Model, seed: int, stale: StalenessLog) -> None:
        self._gateway = gateway
        self._model = model
        self._seed = seed
        self._stale = stale
        self._stop = threading.Event()
        self._seen: dict[str, int] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(name, ask), name=f"prober-{name}", daemon=True)
            for name, ask in (("plain", self._plain), ("judge", self._judge))
        ]
        self._whole_at = self._answered_at = time.monotonic()
        self.drift: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.findings: list[str] = []
        self.spells: list[str] = []
        self.longest_s = {"without an answer": 0.0, "without a whole answer": 0.0}
        self.longest_staleness_ms = 0
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._whole_at = self._answered_at = time.monotonic()
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Stop."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * _TIMEOUT_S)
        self._stale.finish()

    def _run(self, name: str, ask: Callable[[httpx.Client, random.Random], None]) -> None:
        source = random.Random(f"{name} {self._seed}")
        try:
            with httpx.Client(trust_env=False, timeout=_TIMEOUT_S) as client:
                while not self._stop.wait(_REST_S):
                    ask(client, source)
        except BaseException as error:  # noqa: BLE001 the main thread raises it
            self.error = error

    def _plain(self, client: httpx.Client, source: random.Random) -> None:
        id = self._any(source)
        if id is None:
            return
        began = time.monotonic()
        answer = self._post(client, {"query": word_of(number_of(id)), "k": 10}, "plain")
        now = time.monotonic()
        if answer is not None:
            self._answered_at = now
            self._staleness(client, answer["freshness"]["shards"])
            self._duplicates(id, answer)
            if not answer["partial"]:
                if now - self._whole_at > SPELL_S:
                    self._spell(f"no whole answer for {now - self._whole_at:.1f} s")
                self._whole_at = now
                self._went_back(id, answer)
        self._gap("without an answer", max(now - self._answered_at, now - began))
        self._gap("without a whole answer", max(now - self._whole_at, now - began))

    def _judge(self, client: httpx.Client, source: random.Random) -> None:
        """Wait for the last confirmed change of a document; it must then be there, or gone."""
        id = self._any(source)
        view = self._model.view(id) if id is not None else None
        if id is None or view is None:
            return
        demand = {"min_offsets": {str(view.partition): view.offset}, "timeout_ms": _WAIT_MS}
        answer = self._post(client, {"query": word_of(number_of(id)), "k": 10, **demand}, "judged")
        if answer is None:
            return
        self._duplicates(id, answer)
        if answer["partial"]:
            return
        now = self._model.view(id)
        assert now is not None
        if not view.settled or now.generation != view.generation:
            self.counts["judged changed meanwhile"] += 1
            return
        self._compare(id, view, next((hit for hit in answer["hits"] if hit["id"] == id), None))

    def _compare(self, id: str, view: View, hit: dict[str, Any] | None) -> None:
        rev = view.state.rev
        if hit is None and rev is not None:
            self._finding("vanished", f"{id}: rev {rev} at {view.partition}:{view.offset} is in no hit")
        elif hit is not None and rev is None:
            self._finding("ghosts", f"{id}: deleted at {view.partition}:{view.offset}, found {_told(hit)}")
        elif hit is not None and hit["metadata"].get("rev") != rev:
            self._finding("stale", f"{id}: rev {rev} at {view.partition}:{view.offset}, found {_told(hit)}")
        self.counts["judged right or wrong"] += 1

    def _duplicates(self, id: str, answer: dict[str, Any]) -> None:
        twice = [found for found, times in Counter(hit["id"] for hit in answer["hits"]).items() if times > 1]
        if twice:
            self._finding("duplicates", f"{twice} in the answer to the word of {id}")

    def _went_back(self, id: str, answer: dict[str, Any]) -> None:
        """Without a demand an answer may come from the other replica, and be older: counted, not judged."""
        for hit in answer["hits"]:
            if hit["id"] == id:
                offset = hit["source_offset"]
                self.counts["went back"] += offset < self._seen.get(id, -1)
                self._seen[id] = max(offset, self._seen.get(id, -1))

    def _staleness(self, client: httpx.Client, shards: dict[str, Any]) -> None:
        stalest_ms = max(shard["staleness_ms"] or 0 for shard in shards.values())
        self.longest_staleness_ms = max(self.longest_staleness_ms, stalest_ms)
        for words in self._stale.see(client, shards):
            self._spell(words)

    def _spell(self, words: str) -> None:
        self.spells.append(f"{time.strftime('%H:%M:%S')} over: {words}")

    def _post(self, client: httpx.Client, body: dict[str, Any], kind: str) -> dict[str, Any] | None:
        self.counts[f"{kind} asked"] += 1
        try:
            response = client.post(f"{self._gateway}/search", json=body)
        except httpx.HTTPError:
            self.counts[f"{kind} without an answer"] += 1
            return None
        if response.status_code != 200:
            self.counts[f"{kind} status {response.status_code}"] += 1
            return None
        answer: dict[str, Any] = response.json()
        self.counts[f"{kind} {'partial' if answer['partial'] else 'whole'}"] += 1
        return answer

    def _any(self, source: random.Random) -> str | None:
        ids = self._model.ids()
        return source.choice(ids) if ids else None

    def _gap(self, name: str, seconds: float) -> None:
        self.longest_s[name] = max(self.longest_s[name], seconds)

    def _finding(self, kind: str, words: str) -> None:
        self.drift[kind] += 1
        if len(self.findings) < _MOST_KEPT:
            self.findings.append(f"{time.strftime('%H:%M:%S')} {kind}: {words}")


def _told(hit: dict[str, Any]) -> str:
    return f"rev {hit['metadata'].get('rev')} of offset {hit['source_offset']}, version {hit['version']}"
