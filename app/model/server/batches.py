"""The requests of one call: several at a time, and those that the server refuses cut in halves down to the text."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from app.model.server.answer import Failure, Rows
from app.model.server.retry import Patience, PatientApi
from schemas.errors import EmbedderUnavailable

CANARY = "headrace"  # a text that no server has a reason to refuse
_ROUNDS_AFTER_500 = 3  # one of two replicas that is broken fails a text and passes the canary once in four times


class Batches:
    """Embeds texts by position. Used once.

    rows: unit vectors found, by position. refused: why, by position. takes_at_most: the size of
    request that the server takes, where larger ones were refused although it takes each of their texts.
    """

    def __init__(self, api: PatientApi, texts: Sequence[str], dim: int, patience: Patience) -> None:
        self.rows: dict[int, Rows] = {}
        self.refused: dict[int, str] = {}
        self._api = api
        self._texts = texts
        self._dim = dim
        self._patience = patience
        self._halved: list[list[int]] = []
        self._probe: asyncio.Task[None] | None = None

    @property
    def takes_at_most(self) -> int | None:
        """See the class; None where no request was too large."""
        return min(((len(batch) + 1) // 2 for batch in self._halved if not self.refused.keys() & batch), default=None)

    async def run(self, batches: Sequence[list[int]]) -> None:
        """Ask for all. Raises EmbedderUnavailable; `rows` then has what came until then."""
        failed: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for batch in batches:
                    group.create_task(self._ask(group, batch))
        except BaseExceptionGroup as errors:
            failed = errors.exceptions[0]
        if failed is not None:  # raised here, so that the group, which has it as a part, does not become its context
            raise failed

    async def _ask(self, group: asyncio.TaskGroup, batch: list[int]) -> None:
        answer = await self._answer([self._texts[position] for position in batch])
        if not isinstance(answer, Failure):
            self.rows.update(zip(batch, answer, strict=True))
            return
        if self._probe is None:
            self._probe = group.create_task(self._check_server())
        await self._probe
        if len(batch) == 1:
            await self._judge(batch[0], answer)
            return
        self._halved.append(batch)
        middle = (len(batch) + 1) // 2
        for half in (batch[:middle], batch[middle:]):
            group.create_task(self._ask(group, half))

    async def _judge(self, position: int, failure: Failure) -> None:
        """A text failed alone. What a 500 means is uncertain: it is tried again, in turn with a harmless text."""
        for _ in range(_ROUNDS_AFTER_500 if failure.kind == "later" else 0):
            answer = await self._answer([self._texts[position]])
            if not isinstance(answer, Failure):
                self.rows[position] = answer[0]
                return
            failure = answer
            await self._check_server()
        self.refused[position] = failure.reason

    async def _check_server(self) -> None:
        """Whether it embeds anything at all: else the texts are not the reason, and none may be given up."""
        answer = await self._answer([CANARY])
        if isinstance(answer, Failure):
            raise unavailable(self._api, answer)

    async def _answer(self, texts: list[str]) -> Rows | Failure:
        """Vectors of the right length, or a failure for which the texts may be the reason."""
        answer = await self._api.ask(texts, self._patience)
        if isinstance(answer, Failure):
            if answer.perhaps_the_texts:
                return answer
            raise unavailable(self._api, answer)
        if answer.shape[1] != self._dim:
            reason = f"its vectors have {answer.shape[1]} dimensions, not {self._dim}: another model answers"
            raise unavailable(self._api, Failure("odd", reason, 200))
        return answer


def unavailable(api: PatientApi, failure: Failure) -> EmbedderUnavailable:
    """The error for a failure that may pass."""
    hint = {
        "forbidden": "it refuses the key (HEADRACE_EMBEDDINGS_API_KEY), ",
        "refused": f"it refuses any text with model {api.api.model!r}, ",
        "absent": f"it has no such path, or no model {api.api.model!r}, ",
    }.get(failure.kind, "")
    wait = f"; it asks to wait {failure.after_s:.0f} s" if failure.after_s else ""
    return EmbedderUnavailable(f"the embeddings server at {api.api.shown}: {hint}{failure.reason}{wait}")
