"""The competitors of `bench.embed` by turns: all are loaded at the same time, and in each round asked for the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from app.local.console import Console
from app.model.agreement import agreement_of
from app.model.openvino_model import has_amx
from bench.embed_policies import ARRIVAL, GRID, Policy
from bench.embed_texts import KINDS, MIXED
from bench.embed_worker import Facts, Worker

APART_S = 0.02
_FINALISTS = 2  # policies of bare OpenVINO that go through all rounds, of each kind of texts
_QUIET_S = 0.1  # between two turns: threads of the one before may still spin


@dataclass
class Rounds:
    """texts: a Sample's file. sizes: what it says of itself. folder: for vectors."""

    console: Console
    folder: Path
    texts: Path
    sizes: Mapping[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)

    def measure(self, rounds: int, singles: int) -> dict[str, Any]:
        """Figures of many texts at a time, and of single ones."""
        self.console.step("loading the product's path, bare OpenVINO and sentence-transformers")
        with ExitStack() as exits:
            ours = exits.enter_context(self._runtime("ours"))
            bare = exits.enter_context(self._runtime("bare", _precision(ours.facts["runtime"])))
            reference = exits.enter_context(self._runtime("reference"))
            self._keep("runtimes", {"ours": ours.facts, "bare": bare.facts, "reference": reference.facts})
            for kind in KINDS:
                self.console.step(f"warming up: {kind}")
                ours.ask("warm_up", kind=kind)
                reference.ask("bulk", round_=0, kind=kind)
            finalists = {kind: self._screen(bare, kind) for kind in KINDS}
            self._keep("bulk", [self._round(at, ours, bare, reference, finalists) for at in range(1, rounds + 1)])
            self._keep("agreement", self._agreement())
            self._keep("singles_ms", {kind: self._singles(kind, singles, ours, reference) for kind in KINDS})
            self._keep("tokenise_s", {kind: ours.ask("tokenise", round_=1, kind=kind)["seconds"] for kind in KINDS})
        return self.figures

    def _screen(self, bare: Worker, kind: str) -> list[Policy]:
        """Every policy over the texts for warming up; the second time counts, when all shapes have been seen."""
        policies = (*GRID, ARRIVAL) if kind == MIXED else GRID
        told: dict[Policy, Facts] = {}
        for at, policy in enumerate(policies, 1):
            self.console.status(f"bare OpenVINO, {kind}: policy {at} of {len(policies)}")
            told[policy] = [bare.ask("bulk", round_=0, kind=kind, policy=asdict(policy)) for _ in range(2)][1]
        self.figures.setdefault("screening", {})[kind] = {str(policy): facts for policy, facts in told.items()}
        best = sorted(GRID, key=lambda policy: told[policy]["seconds"])[:_FINALISTS]
        for policy in best:
            bare.ask("warm_up", kind=kind, policy=asdict(policy))
        rate = self.sizes[kind]["texts"] / told[best[0]]["seconds"]
        self.console.step(f"bare OpenVINO, {kind}: {rate:.0f} texts/s with {best[0]}")
        return best

    def _round(
        self, at: int, ours: Worker, bare: Worker, reference: Worker, finalists: dict[str, list[Policy]]
    ) -> dict[str, dict[str, Facts]]:
        """What each competitor tells of the same texts, by kind. Who comes first changes from round to round."""
        told: dict[str, dict[str, Facts]] = {}
        for kind in KINDS:
            policies = [*finalists[kind], ARRIVAL] if kind == MIXED else finalists[kind]
            turns: dict[str, Callable[[], Facts]] = {}
            turns["reference"] = self._turn(reference, "bulk", at, kind, self._file(at, kind, "reference"))
            turns["ours"] = self._turn(ours, "bulk", at, kind, self._file(at, kind, "ours"))
            for policy in policies:
                file = self._file(at, kind, "bare") if policy == policies[0] else {}
                turns[str(policy)] = self._turn(bare, "bulk", at, kind, {"policy": asdict(policy), **file})
            if kind == MIXED:
                turns["reference, arriving"] = self._turn(reference, "arriving", at, kind, {})
            names = list(turns)
            first = (at - 1) % len(names)
            told[kind] = {name: turns[name]() for name in names[first:] + names[:first]}
            count = self.sizes[kind]["texts"]
            rates = [f"{name} {count / told[kind][name]['seconds']:.0f}" for name in ("reference", "ours", *names[2:3])]
            self.console.step(f"round {at}, {kind}, texts/s: {', '.join(rates)}")
        return told

    @staticmethod
    def _turn(worker: Worker, command: str, at: int, kind: str, more: dict[str, Any]) -> Callable[[], Facts]:
        def take() -> Facts:
            time.sleep(_QUIET_S)
            return worker.ask(command, round_=at, kind=kind, **more)

        return take

    def _file(self, at: int, kind: str, name: str) -> dict[str, str]:
        """Where a competitor writes its vectors; only in the first round, for comparison."""
        return {"save": str(self.folder / f"{kind}-{name}.npy")} if at == 1 else {}

    def _agreement(self) -> dict[str, dict[str, float]]:
        """Of the first round's vectors with those of the reference, all kinds together."""
        vectors = {
            name: np.concatenate([np.load(self.folder / f"{kind}-{name}.npy") for kind in KINDS])
            for name in ("reference", "ours", "bare")
        }
        return {name: asdict(agreement_of(vectors[name], vectors["reference"])) for name in ("ours", "bare")}

    def _singles(self, kind: str, count: int, ours: Worker, reference: Worker) -> dict[str, Facts]:
        self.console.step(f"one text at a time: {kind}")
        return {
            f"{name}, {pause}": worker.ask("singles", round_=1, kind=kind, count=count, apart_s=apart_s)
            for pause, apart_s in (("back to back", 0.0), ("apart", APART_S))
            for name, worker in (("reference", reference), ("ours", ours))
        }

    def _runtime(self, what: str, *arguments: str) -> Worker:
        return Worker("bench.embed_runtimes", what, str(self.texts), *arguments)

    def _keep(self, name: str, found: Any) -> None:
        self.figures[name] = found


def _precision(runtime: str) -> str:
    """That of the product's runtime, or what suits this CPU where that is not OpenVINO."""
    return runtime.rpartition(" ")[2] if runtime.startswith("openvino") else "bf16" if has_amx() else "f32"
