"""Makes a model ready: the fastest runtime on this machine that agrees with the reference."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.model.agreement import Agreement
from app.model.batched import BatchedEmbedder
from app.model.choice import Choice, choices, this_machine
from app.model.embedder import Embedder
from app.model.hashing import HashingEmbedder
from app.model.openvino_model import has_amx
from app.model.prepared import agrees_at_start, start_agreement
from app.model.reference import ReferenceEmbedder
from app.model.runs import RunFacts
from app.model.source import Source, fingerprint, open_source
from app.settings import Settings
from schemas.errors import ModelDisagrees, ModelMissing

Observe = Callable[[RunFacts], object]

_log = logging.getLogger("headrace.model")
_WARM_UP = "The first call compiles the graph for its shape."


@dataclass(frozen=True, slots=True)
class Candidate:
    """One runtime that was loaded. agreement: with the reference; None where the reference's vectors are not known."""

    embedder: Embedder
    agreement: Agreement | None


def load_embedder(settings: Settings, *, bulk: bool = True, observe: Observe = lambda _: None) -> Embedder:
    """Load the model that the settings name and embed some texts with it, so that the first caller does not pay.

    bulk: whether many texts at a time will come (the embed worker), or single ones (the gateway). observe: told of
    every call of a local model. Blocks for 0.5 s (openvino) to 6 s (reference), or for a download. Logs one line on
    "headrace.model", and one for every runtime that is left out because it does not agree with the reference.
    Raises ModelMissing; ModelDisagrees when the settings demand a runtime or a precision that does not agree.
    """
    started = time.perf_counter()
    found = _load(settings, bulk, observe)
    _log.info(
        "model %s loaded: runtime %s, CPU %s AMX, %d dimensions, %d tokens, %s, %.0f ms",
        found.embedder.fingerprint,
        found.embedder.runtime,
        "with" if has_amx() else "without",
        found.embedder.dim,
        found.embedder.max_tokens,
        found.agreement or "agreement with the reference not known",
        (time.perf_counter() - started) * 1e3,
    )
    return found.embedder


def embedder_of(source: Source, option: Choice, settings: Settings, observe: Observe) -> Embedder:
    """Load one runtime, nothing checked. Raises ModelMissing."""
    if option.load is None:
        return ReferenceEmbedder(source.folder, source.prepared.revision, settings.model_threads)
    model = option.load()
    mark = fingerprint(source.folder, model.dim, source.prepared.revision)
    return BatchedEmbedder(source.folder, source.tokenizer, model, mark, observe)


def _load(settings: Settings, bulk: bool, observe: Observe) -> Candidate:
    if settings.runtime == "hashing":
        return Candidate(HashingEmbedder(), None)
    if settings.runtime == "http":
        from app.model.server.embedder import HttpEmbedder

        return Candidate(HttpEmbedder(settings), None)
    refused: list[str] = []
    source = open_source(settings)
    options = choices(source.folder, source.prepared, settings, this_machine(), bulk=bulk)
    for candidate in _candidates(source, options, settings, observe, refused):
        if candidate.agreement is None or agrees_at_start(candidate.agreement):
            return candidate
        message = f"{candidate.embedder.runtime} does not agree with the reference ({candidate.agreement})"
        refused.append(message)
        _log.warning("%s: it is not used", message)
    error = ModelDisagrees if len(refused) == len(options) else ModelMissing
    raise error(f"no runtime of {source.folder.name} can be used here: {'; '.join(refused)}")


def _candidates(
    source: Source, options: list[Choice], settings: Settings, observe: Observe, problems: list[str]
) -> Iterator[Candidate]:
    """Load one after another, each when it is asked for; what does not load is told in `problems` and in the log."""
    for option in options:
        try:
            yield _candidate(source, option, settings, observe)
        except ModelMissing as error:
            if len(options) == 1:
                raise
            problems.append(f"{option.name}: {error}")
            _log.warning("%s does not load: %s", option.name, error)


def _candidate(source: Source, option: Choice, settings: Settings, observe: Observe) -> Candidate:
    embedder = embedder_of(source, option, settings, observe)
    reference = source.prepared.reference
    if option.load is None or reference is None:
        embedder.embed([_WARM_UP])
        return Candidate(embedder, None)
    return Candidate(embedder, start_agreement(embedder, reference))
