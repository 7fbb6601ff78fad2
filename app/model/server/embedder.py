"""A model behind HTTP: any server with OpenAI's embeddings API."""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from hashlib import sha256
from threading import Thread
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from yarl import URL

from app.model.chunker import CHUNKER_VERSION
from app.model.embedder import DEVICE_BATCH_BYTES
from app.model.server.answer import Failure, Rows
from app.model.server.api import EmbeddingsApi
from app.model.server.batches import CANARY, Batches
from app.model.server.retry import Patience, PatientApi, Timing
from app.model.server.tokenizer import server_tokenizer
from app.model.tokens import Tokenizer, check_unicode
from app.settings import Settings
from schemas.errors import EmbedderUnavailable, HeadraceError, ModelMissing, ServiceMissing, UnembeddableText

T = TypeVar("T")

_FEW_TEXTS = 16  # as many searches as the gateway embeds at a time
_FOR_FEW = Patience(attempts=3, total_s=2.0)  # somebody may wait for a search
_FOR_MANY = Patience(attempts=6, total_s=30.0)
_KEPT_TEXTS = 8192  # more than the largest batch of the embed worker has

_log = logging.getLogger("headrace.model")


class HttpEmbedder:
    """Embedder (see there) that asks a server. One thread calls it at a time; inside is a thread with an event loop.

    Vectors of a call that failed half-way are kept for the next one: a server that allows little per minute gets
    through in several calls, and nothing is paid for twice.
    """

    batch_bytes = DEVICE_BATCH_BYTES

    def __init__(self, settings: Settings, timing: Timing | None = None) -> None:
        """Ask for one vector, to know that URL, key and model are right.

        Raises SettingsError, ModelMissing or ServiceMissing, one sentence that says what to do.
        """
        self.tokenizer: Tokenizer = server_tokenizer(settings)
        self.max_tokens = self.tokenizer.max_tokens
        self.name = settings.model.rstrip("/").rpartition("/")[2] or settings.model
        self.runtime = f"http {_host(settings)}"
        self._batch_texts = settings.embeddings_batch_texts
        self._kept: dict[str, Rows] = {}
        self._closed = False
        self._resolver = ThreadPoolExecutor(2, thread_name_prefix="embeddings-names")  # looks up host names
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(self._resolver)
        self._thread = Thread(target=self._loop.run_forever, name="embeddings-http", daemon=True)
        self._thread.start()
        self._api: PatientApi | None = None
        atexit.register(self.close)
        try:
            self._api = self._run(_connect(settings, timing or Timing()))
            self.dim = self._run(_dimensions(self._api, settings))
        except BaseException:
            self.close()
            raise
        revision = sha256(settings.model.encode()).hexdigest()[:12]
        self.fingerprint = f"{self.name}@http-{revision}/{self.dim}/server/norm/float/{CHUNKER_VERSION}"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See Embedder. Returns or raises within minutes, whatever the server does."""
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        check_unicode(texts)
        return np.stack(self._run(self._embed(self._fitting(texts))))

    def close(self) -> None:
        """Close the connections and end the thread; a call in flight raises EmbedderUnavailable. May be repeated."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        asyncio.run_coroutine_threadsafe(_shut_down(self._api), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._resolver.shutdown()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that runs in the loop's thread."""
        if self._closed:
            work.close()
            raise EmbedderUnavailable("the embedder is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise EmbedderUnavailable("the embedder was closed while the server was asked") from None
        except KeyboardInterrupt:
            future.cancel()
            raise

    async def _embed(self, texts: list[str]) -> list[Rows]:
        """One vector for each text. Longest texts first: texts of a length go together, and servers pad little."""
        if self._api is None:
            raise EmbedderUnavailable("the embedder is closed")
        batches = Batches(self._api, texts, self.dim, _FOR_FEW if len(texts) <= _FEW_TEXTS else _FOR_MANY)
        kept = {position: row for position, text in enumerate(texts) if (row := self._kept.pop(text, None)) is not None}
        batches.rows.update(kept)
        missing = sorted(set(range(len(texts))) - kept.keys(), key=lambda position: len(texts[position]), reverse=True)
        size = self._batch_texts
        try:
            await batches.run([missing[start : start + size] for start in range(0, len(missing), size)])
            self._learn(batches.takes_at_most)
            if batches.refused:
                position, reason = min(batches.refused.items())
                raise UnembeddableText(f"the embeddings server refuses the text: {reason}", position)
        except (HeadraceError, asyncio.CancelledError):
            self._keep({texts[position]: row for position, row in batches.rows.items()})
            raise
        return [batches.rows[position] for position in range(len(texts))]

    def _learn(self, takes_at_most: int | None) -> None:
        if takes_at_most is not None and takes_at_most < self._batch_texts:
            self._batch_texts = takes_at_most
            _log.info("the embeddings server refuses larger requests: from now on at most %d texts", takes_at_most)

    def _keep(self, rows: dict[str, Rows]) -> None:
        self._kept.update(rows)
        for text in list(self._kept)[: max(0, len(self._kept) - _KEPT_TEXTS)]:
            del self._kept[text]

    def _fitting(self, texts: Sequence[str]) -> list[str]:
        """The texts as they are sent: cut at `max_tokens`, and a space for an empty one, which many servers refuse."""
        room = self.max_tokens - self.tokenizer.special_tokens
        perhaps_long = [i for i, text in enumerate(texts) if len(text) > room or not text.isascii()]
        sent = [text or " " for text in texts]
        counts = self.tokenizer.counts([texts[i] for i in perhaps_long])
        for i, count in zip(perhaps_long, counts, strict=True):
            if count > self.max_tokens:
                beyond = self.tokenizer.spans(texts[i])[room:]
                sent[i] = texts[i][: beyond[0][0]] if beyond else texts[i]
        return sent


async def _connect(settings: Settings, timing: Timing) -> PatientApi:
    return PatientApi(EmbeddingsApi(settings), settings.embeddings_concurrency, timing)


async def _dimensions(api: PatientApi, settings: Settings) -> int:
    """Length of the server's vectors. Finds out in which form it gives them: base64 is four times less to parse."""
    answer = await api.ask([CANARY], _FOR_MANY)
    for encoding in ("float", None):
        if isinstance(answer, Failure) and (answer.kind == "refused" or "encoding_format" in answer.reason):
            api.api.encoding = encoding
            answer = await api.ask([CANARY], _FOR_MANY)
    if isinstance(answer, Failure):
        raise _missing(api, answer)
    asked = settings.embeddings_dimensions
    if asked not in (None, answer.shape[1]):
        raise ModelMissing(
            f"model {api.api.model!r} at {api.api.shown} gives {answer.shape[1]} dimensions where {asked} were asked "
            "for: unset HEADRACE_EMBEDDINGS_DIMENSIONS, or choose a model that can shorten its vectors"
        )
    return int(answer.shape[1])


def _missing(api: PatientApi, failure: Failure) -> HeadraceError:
    """The error at the start for a failure."""
    server, model = f"the embeddings server at {api.api.shown}", f"model {api.api.model!r}"
    if failure.kind == "forbidden":
        return ModelMissing(f"{server} refuses the key (HEADRACE_EMBEDDINGS_API_KEY): {failure.reason}")
    if failure.kind == "absent":
        return ModelMissing(
            f"{server} has no such path, or no {model} ({failure.reason}): HEADRACE_EMBEDDINGS_URL goes up to and with "
            "the version (…/v1), HEADRACE_MODEL is the model's name at the server"
        )
    if failure.kind == "refused":
        return ModelMissing(
            f"{server} refuses {model} ({failure.reason}): check HEADRACE_MODEL and HEADRACE_EMBEDDINGS_DIMENSIONS"
        )
    if failure.kind == "odd":
        return ModelMissing(f"{server} does not answer as the embeddings API does: {failure.reason}")
    return ServiceMissing(
        f"{server} (HEADRACE_EMBEDDINGS_URL) does not serve {model}: {failure.reason}; start it, or correct the URL"
    )


async def _shut_down(api: PatientApi | None) -> None:
    """Cancel what is in flight and close the connections."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    if api is not None:
        await api.api.close()


def _host(settings: Settings) -> str:
    url = URL(settings.embeddings_url or "")
    return f"{url.host}:{url.explicit_port}" if url.explicit_port else str(url.host)
