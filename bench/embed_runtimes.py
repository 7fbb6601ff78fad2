"""One runtime in a process of its own, for `bench.embed`: loads it, then embeds what it is asked to.

`python -m bench.embed_runtimes ours|reference TEXTS` or `… bare TEXTS PRECISION`; see `serve`.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.model.load import load_embedder
from app.model.runs import RunFacts
from app.settings import load_settings
from bench.bare import sentence_transformers
from bench.embed_policies import BareOpenVino, Policy
from bench.embed_texts import MIXED, Sample
from bench.embed_worker import Commands, Facts, serve
from bench.meters import quantiles

_ARRIVING = 32
_ONES = 8  # single texts of each kind that warm it up

Embed = Callable[[list[str]], NDArray[np.float32]]


class Singles:
    """What both whole runtimes are asked: all texts in one call, 32 in a call, and one at a time."""

    def __init__(self, sample: Sample, embed: Embed) -> None:
        self._sample = sample
        self._embed = embed

    def bulk(self, round_: int, kind: str, save: str | None = None) -> Facts:
        """All texts of a kind in one call. save: a file for the vectors."""
        texts = self._sample.rounds[round_][kind]
        began, used_s = time.perf_counter(), time.process_time()
        vectors = self._embed(texts)
        seconds, used_s = time.perf_counter() - began, time.process_time() - used_s
        if save is not None:
            np.save(save, vectors)
        return {"seconds": seconds, "cpu_seconds": used_s}

    def arriving(self, round_: int, kind: str) -> Facts:
        """32 texts a call, in order of arrival."""
        texts = self._sample.rounds[round_][kind]
        began = time.perf_counter()
        for start in range(0, len(texts), _ARRIVING):
            self._embed(texts[start : start + _ARRIVING])
        return {"seconds": time.perf_counter() - began}

    def singles(self, round_: int, kind: str, count: int, apart_s: float) -> Facts:
        """One text a call; what each took, in quantiles of milliseconds."""
        texts = self._sample.rounds[round_][kind][:count]
        took_ms = []
        for text in [*self._sample.rounds[0][kind][:_ONES], *texts]:
            time.sleep(apart_s)
            began = time.perf_counter()
            self._embed([text])
            took_ms.append((time.perf_counter() - began) * 1000)
        return quantiles(took_ms[_ONES:])


class Ours(Singles):
    """The product's path as the embed worker has it."""

    def __init__(self, sample: Sample) -> None:
        self._runs: list[RunFacts] = []
        settings = load_settings()
        self._embedder = load_embedder(settings, observe=self._runs.append)
        super().__init__(sample, self._embedder.embed)
        self._stop = threading.Event()
        self._load: Load | None = None

    @property
    def facts(self) -> Facts:
        """What was loaded."""
        found = self._embedder
        return {"runtime": found.runtime, "fingerprint": found.fingerprint, "batch_bytes": found.batch_bytes}

    def warm_up(self, kind: str) -> Facts:
        """Parts of the round for warming up, of different sizes: as a worker that has met most shapes of calls."""
        for texts in parts(self._sample, kind):
            self._embed(texts)
        return {}

    def bulk(self, round_: int, kind: str, save: str | None = None) -> Facts:
        """With what the calls of the model were."""
        self._runs.clear()
        facts = super().bulk(round_, kind, save)
        return facts | {
            "runs": len(self._runs),
            "tokens": sum(run.tokens for run in self._runs),
            "padded_tokens": sum(run.padded_tokens for run in self._runs),
            "model_seconds": sum(run.seconds for run in self._runs),
        }

    def tokenise(self, round_: int, kind: str) -> Facts:
        """The tokenizer alone, all texts in one call."""
        tokenizer: Any = self._embedder.tokenizer
        began = time.perf_counter()
        tokenizer.ids(self._sample.rounds[round_][kind])
        return {"seconds": time.perf_counter() - began}

    def start(self) -> Facts:
        """Go on embedding mixed texts, in batches of the size that the worker takes, until `stop`."""
        texts = [text for texts in self._sample.rounds for text in texts[MIXED]]
        self._runs.clear()
        self._load = Load(self._embedder.embed, batches(texts, self._embedder.batch_bytes))
        return {}

    def stop(self) -> Facts:
        """Ends that; texts per second meanwhile, and what a call of the model took in the middle."""
        assert self._load is not None
        facts = self._load.end()
        return facts | {"call_ms": statistics.median(run.seconds for run in self._runs) * 1000}

    def nice(self, by: int) -> Facts:
        """Be nicer from now on, all threads."""
        for thread in Path("/proc/self/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), by)
        return {}


class Load:
    """Embeds batches round and round in a thread of its own, from construction to `end`."""

    def __init__(self, embed: Embed, of: Sequence[list[str]]) -> None:
        self._embed = embed
        self._of = of
        self._ended = False
        self._error: Exception | None = None
        self._done = 0
        self._thread = threading.Thread(target=self._run)
        self._began = time.perf_counter()
        self._thread.start()

    def end(self) -> Facts:
        """Let the batch in flight finish. Raises what the embedder raised."""
        self._ended = True
        self._thread.join()
        if self._error is not None:
            raise self._error
        return {"texts_per_s": self._done / (time.perf_counter() - self._began), "texts": self._done}

    def _run(self) -> None:
        at = 0
        try:
            while not self._ended:
                self._embed(self._of[at % len(self._of)])
                self._done += len(self._of[at % len(self._of)])
                at += 1
        except Exception as error:  # noqa: BLE001 - `end` raises it
            self._error = error


class Bare:
    """OpenVINO with nothing around it."""

    def __init__(self, sample: Sample, precision: str) -> None:
        self._sample = sample
        self._model = BareOpenVino(load_settings(), precision)

    @property
    def facts(self) -> Facts:
        """What was loaded."""
        requests = {name: len(found) for name, found in self._model.requests.items()}
        return {"runtime": self._model.runtime, "threads": self._model.threads, "requests": requests}

    def warm_up(self, kind: str, policy: dict[str, Any]) -> Facts:
        """See Ours."""
        for texts in parts(self._sample, kind):
            self._model.embed(texts, Policy(**policy))
        return {}

    def bulk(self, round_: int, kind: str, policy: dict[str, Any], save: str | None = None) -> Facts:
        """All texts of a kind by a policy (its fields). save: a file for the vectors."""
        vectors, facts = self._model.embed(self._sample.rounds[round_][kind], Policy(**policy))
        if save is not None:
            np.save(save, vectors)
        return facts


def parts(sample: Sample, kind: str) -> list[list[str]]:
    """The beginnings of the round for warming up, an eighth more each time."""
    texts = sample.rounds[0][kind]
    return [texts[: max(1, len(texts) * eighth // 8)] for eighth in range(1, 9)]


def batches(texts: Sequence[str], most_bytes: int) -> list[list[str]]:
    """The texts in lists of about so many bytes, as the embed worker gathers them."""
    found: list[list[str]] = []
    room = 0
    for text in texts:
        if room <= 0:
            found.append([])
            room = most_bytes
        found[-1].append(text)
        room -= len(text.encode())
    return found


def _made(what: str, texts: str, precision: str = "") -> tuple[Facts, Commands]:
    sample = Sample.read(Path(texts))
    if what == "bare":
        bare = Bare(sample, precision)
        return bare.facts, {"bulk": bare.bulk, "warm_up": bare.warm_up}
    if what == "ours":
        ours = Ours(sample)
        names = ("warm_up", "bulk", "arriving", "singles", "tokenise", "start", "stop", "nice")
        return ours.facts, {name: getattr(ours, name) for name in names}
    name, threads, embed = sentence_transformers()
    reference = Singles(sample, embed)
    facts = {"runtime": name, "threads": threads}
    return facts, {name: getattr(reference, name) for name in ("bulk", "arriving", "singles")}


if __name__ == "__main__":
    serve(lambda: _made(*sys.argv[1:]))
