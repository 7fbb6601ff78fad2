"""Every runtime that this machine has for a model: whether it agrees with the reference, and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from app.model.agreement import PREPARED_LIMITS, Agreement, agreement_of
from app.model.choice import Choice, Machine, choices
from app.model.embedder import Embedder
from app.model.load import embedder_of
from app.model.measure import Speed, speed
from app.model.prepared import check_texts
from app.model.source import Source
from app.settings import Settings
from schemas.errors import EmbedderUnavailable, ModelMissing, TextsRefused

RUNTIMES = (
    ("openvino", "bf16"),
    ("openvino", "f32"),
    ("onnx", "f32"),
    ("torch", "bf16"),
    ("torch", "f32"),
    ("reference", "f32"),
)


@dataclass(frozen=True, slots=True)
class Surveyed:
    """One runtime. problem: why it cannot be used, None if it can; then the rest may be None.

    load_s: to load it, imports included where it is the first to need them. agreement: over all check texts; None for
    the reference itself, and where the reference is not known.
    """

    runtime: str
    name: str
    problem: str | None
    load_s: float | None = None
    agreement: Agreement | None = None
    speed: Speed | None = None

    @property
    def usable(self) -> bool:
        """Whether it works here and gives the vectors of the reference."""
        return self.problem is None


def survey(
    source: Source, settings: Settings, machine: Machine, texts: Sequence[str], queries: Sequence[str]
) -> Iterator[Surveyed]:
    """One runtime after another, see RUNTIMES; each takes from a second to what `texts` take twice.

    texts: to be embedded in bulk; none: speed is not measured. queries: one at a time.
    """
    for runtime, precision in RUNTIMES:
        name = f"{runtime} {precision}"
        change = {"runtime": runtime, "precision": precision if runtime != "reference" else "auto"}
        try:
            option = choices(source.folder, source.prepared, settings.model_copy(update=change), machine, bulk=True)[0]
            yield _measured(runtime, source, option, settings, texts, queries)
        except (ModelMissing, EmbedderUnavailable, TextsRefused) as error:
            yield Surveyed(runtime, name, str(error))


def _measured(
    runtime: str,
    source: Source,
    option: Choice,
    settings: Settings,
    texts: Sequence[str],
    queries: Sequence[str],
) -> Surveyed:
    began = time.perf_counter()
    embedder = embedder_of(source, option, settings, lambda _: None)
    embedder.embed(queries[:1])
    load_s = time.perf_counter() - began
    found = None if option.load is None else agreement_with_reference(embedder, source.prepared.reference)
    problem = None
    if found is not None and not PREPARED_LIMITS.met_by(found):
        problem = f"it does not agree with the reference: {found}"
    measured = speed(embedder, texts, queries) if texts and problem is None else None
    return Surveyed(runtime, option.name, problem, load_s, found, measured)


def agreement_with_reference(embedder: Embedder, reference: NDArray[np.float32] | None) -> Agreement | None:
    """Over all check texts; None where the reference's vectors are not known."""
    return None if reference is None else agreement_of(embedder.embed(check_texts()), reference)


def fastest(found: Sequence[Surveyed]) -> Surveyed | None:
    """The one to use for many texts."""
    measured = [one for one in found if one.usable and one.speed is not None]
    return max(measured, key=lambda one: cast("Speed", one.speed).texts_per_s, default=None)


def quickest(found: Sequence[Surveyed]) -> Surveyed | None:
    """The one to use for single queries."""
    measured = [one for one in found if one.usable and one.speed is not None]
    return min(measured, key=lambda one: cast("Speed", one.speed).single_ms, default=None)
