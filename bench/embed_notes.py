"""How `bench.embed` measured: the notes of its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.embed_texts import KINDS, SHARES, TOKENS

Figures = Mapping[str, Any]


def notes(figures: Figures, sizes: Figures) -> list[str]:
    """How everything was measured."""
    return [*_notes_of_texts(figures, sizes), *_notes_of_runtimes(figures), *_notes_of_the_rest(figures)]


def _notes_of_texts(figures: Figures, sizes: Figures) -> Iterator[str]:
    ranges = ", ".join(f"{kind} {least} to {most}" for kind, (least, most) in TOKENS.items())
    shares = ", ".join(f"{share:.0%} {kind}" for kind, share in SHARES.items())
    counts = ", ".join(f"{sizes[kind]['texts']} {kind} of {sizes[kind]['tokens_mean']:.0f} tokens" for kind in KINDS)
    yield (
        f"Texts: pieces of docstrings, {ranges} tokens, special tokens included; mixed: {shares}. A round: {counts} "
        "in the mean. No text comes twice; warming up has a round of its own. OpenVINO has first met calls of many "
        "shapes, since each new one costs time: ours and the policies that go through all rounds have embedded eight "
        "parts of that round, of different sizes."
    )
    yield (
        f"{figures['rounds']} rounds. In each, everybody embeds the same new texts, one after the other, in processes "
        "that are loaded all the while; who begins changes. Rates: the median round; ratios: the median of the ratios "
        "of each round."
    )


def _notes_of_runtimes(figures: Figures) -> Iterator[str]:
    reference, ours, bare = (figures["runtimes"][name] for name in ("reference", "ours", "bare"))
    yield (
        f"`encode`: {reference['runtime']}, {reference['threads']} threads, batch_size 32, all texts of a round in one "
        "call: it sorts them by length itself."
    )
    yield (
        f"Ours: {ours['runtime']}, `load_embedder` with the settings at hand, tokenising included, all texts of a "
        "round in one call."
    )
    yield (
        f"Bare OpenVINO: {bare['runtime']}, {bare['threads']} threads; `several` means {bare['requests']['several']} "
        "requests. Tokenised, cut and padded before the clock starts. Every policy went twice over the texts for "
        "warming up, and the second time counts in its table; the two best of each kind went through all rounds, and "
        "the better of them is what ours is compared with."
    )
    agreed = "; ".join(
        f"{name}: top-10 overlap {told['top10_overlap']:.4f}, cosine at least {told['cosine_min']:.5f}"
        for name, told in figures["agreement"].items()
    )
    yield f"The vectors of a round beside those of `encode`: {agreed}."
    yield (
        "The limit: torch's matrix products with 4,096 rows at the shapes of the model's layers, all cores; the best "
        "shape counts. FLOPs of a text: two for each weight of the layers and each token, and attention; no padding."
    )


def _notes_of_the_rest(figures: Figures) -> Iterator[str]:
    yield (
        "Queries: different sentences through `QueryEmbedder`, one at a time; apart: 20 ms of sleep before each. "
        "Beside bulk: 20 ms apart, while another process embeds mixed texts without a pause, in batches of the size "
        "that the worker takes."
    )
    yield (
        "Starts: bytecode and files were in memory, as at every start but the first. `gateway` and `embed worker` "
        "import all of their role, and load the model as it does; `model alone` imports what loading needs."
    )
    facts = figures["cached"]["facts"]
    yield (
        f"Known documents: {facts['documents']:,} docstrings with titles, {facts['chunks']:,} chunks, in "
        f"{facts['batches']} batches through `ChunkEmbedder`, one thread; in Redis alone: the cache in the process "
        "is empty at first, and filled on the way."
    )
