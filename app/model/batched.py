"""Embeds texts with a TokenModel: tokenises ahead, sorts by length, keeps every lane of the model busy."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

import numpy as np
from numpy.typing import NDArray

from app.model.embedder import unit_rows
from app.model.folder import ModelFolder
from app.model.runs import Run, RunFacts, TokenBudget, Tokens, plan, plan_end
from app.model.token_model import TokenModel
from app.model.tokens import ModelTokenizer
from schemas.errors import EmbedderUnavailable, UnembeddableText

# What is tokenised at once: at first about two calls of 2,048 tokens, so that the model begins soon; then more and
# more, since runs are cut from a block: tokenising takes a twentieth of the model's time.
_FIRST_BLOCK, _LARGEST_BLOCK, _GROWTH = 16_384, 262_144, 4


class BatchedEmbedder:
    """Embedder (see there) on a TokenModel.

    Texts are sorted by length and go through the model in runs, see `plan`: in order of arrival, padding to the
    longest would make batches slower than single texts. While runs are in the model the next block of texts is
    tokenised, and the next run prepared.
    """

    def __init__(
        self,
        folder: ModelFolder,
        tokenizer: ModelTokenizer,
        model: TokenModel,
        fingerprint: str,
        observe: Callable[[RunFacts], object] = lambda _: None,
    ) -> None:
        """observe: told of every run, in the thread that ran it."""
        self.name = folder.name
        self.dim = model.dim
        self.max_tokens = folder.max_tokens
        self.fingerprint = fingerprint
        self.runtime = model.runtime
        self.batch_bytes = model.batch_bytes
        self.tokenizer = tokenizer
        self._model = model
        self._observe = observe
        self._pad_id = int(folder.config.get("pad_token_id") or 0)
        self._budget = TokenBudget(model.tokens_per_call)
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="tokenise")
        self._lanes = ThreadPoolExecutor(model.lanes, thread_name_prefix="model-lane")
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for lane in range(model.lanes):
            self._free.put(lane)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See Embedder."""
        vectors = np.empty((len(texts), self.dim), np.float32)
        flying: list[Future[None]] = []
        try:
            self._feed(self._runs(texts), vectors, flying)
        finally:
            wait_for(flying)  # nothing runs on after a failure
        for future in flying:
            future.result()
        vectors = unit_rows(vectors)
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if broken.size:
            raise UnembeddableText("the model gives no finite vector for the text", int(broken[0]))
        return vectors

    def _feed(self, runs: Iterator[Run], vectors: NDArray[np.float32], flying: list[Future[None]]) -> None:
        """Give every run a lane as soon as one is free; the last one gets all cores if it would run alone."""
        run = next(runs, None)
        while run is not None:
            following = next(runs, None)
            if following is None and len(flying) % self._model.lanes == 0:
                wait_for(flying)
                self._run(run, vectors, None)
            else:
                flying.append(self._take_off(run, vectors))
            if any(future.done() and future.exception() for future in flying[-self._model.lanes :]):
                return
            run = following

    def _runs(self, texts: Sequence[str]) -> Iterator[Run]:
        """All texts in runs. What is left of a block goes with the next one, whose texts are shorter."""
        waiting: list[Tokens] = []
        step = self._model.length_step
        for block, is_last in self._tokenised(texts):
            waiting = sorted([*waiting, *block], key=lambda text: -len(text.ids))
            if is_last:
                yield from plan_end(waiting, self._budget.tokens, step, self._model.lanes)
            else:
                *whole, rest = plan(waiting, self._budget.tokens, step)
                yield from whole
                waiting = list(rest.texts)

    def _tokenised(self, texts: Sequence[str]) -> Iterator[tuple[list[Tokens], bool]]:
        """Blocks of texts, roughly the longest first, one block ahead; whether each is the last."""
        blocks = list(_blocks(texts))
        ahead: Future[list[Tokens]] | None = None
        for at, block in enumerate(blocks):
            is_last = at + 1 == len(blocks)
            tokens = self._tokenise(texts, block) if ahead is None else ahead.result()
            if not is_last:
                ahead = self._ahead.submit(self._tokenise, texts, blocks[at + 1])
            yield tokens, is_last

    def _tokenise(self, texts: Sequence[str], block: Sequence[int]) -> list[Tokens]:
        try:
            ids = self.tokenizer.ids([texts[index] for index in block])
        except UnembeddableText as error:
            raise UnembeddableText(error.reason, block[error.position]) from error
        return [Tokens(index, own) for index, own in zip(block, ids, strict=True)]

    def _take_off(self, run: Run, vectors: NDArray[np.float32]) -> Future[None]:
        lane = self._free.get()

        def fly() -> None:
            try:
                self._run(run, vectors, lane)
            finally:
                self._free.put(lane)

        return self._lanes.submit(fly)

    def _run(self, run: Run, vectors: NDArray[np.float32], lane: int | None) -> None:
        """One run into its rows of `vectors`; in halves where there is no memory for the whole."""
        budget = self._budget.tokens
        started = time.perf_counter()
        try:
            found = self._model.vectors(*run.arrays(self._pad_id), lane)
        except MemoryError as error:
            self._budget.ran_out(run.padded_tokens)
            if len(run.texts) == 1:
                raise EmbedderUnavailable(f"there is no memory for one text of {run.length} tokens") from error
            for part in plan(run.texts, self._budget.tokens, self._model.length_step):
                self._run(part, vectors, lane)
        else:
            vectors[[text.index for text in run.texts]] = found[: len(run.texts)]
            seconds = time.perf_counter() - started
            self._observe(RunFacts(len(run.texts), run.tokens, run.padded_tokens, seconds, budget))


def _blocks(texts: Sequence[str]) -> Iterator[list[int]]:
    """Indices of texts, most code points first, in blocks that grow."""
    block: list[int] = []
    size = room = _FIRST_BLOCK
    for index in sorted(range(len(texts)), key=lambda index: -len(texts[index])):
        block.append(index)
        room -= len(texts[index])
        if room <= 0:
            yield block
            size = min(_LARGEST_BLOCK, size * _GROWTH)
            block, room = [], size
    if block:
        yield block
