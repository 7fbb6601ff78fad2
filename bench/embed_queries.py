"""The gateway's query vectors, for `bench.embed`: QueryEmbedder without its cache, one query at a time.

`python -m bench.embed_queries TEXTS` in a process of its own; see `serve`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from itertools import cycle, islice
from pathlib import Path

from app.gateway.queries import QueryEmbedder
from app.model.load import load_embedder
from app.observe.metrics import GatewayMetrics
from app.settings import load_settings
from bench.embed_texts import Sample
from bench.embed_worker import Commands, Facts, serve
from bench.meters import quantiles

_WARM_UPS = 10


class Queries:
    """As the gateway has it, but that nothing is remembered."""

    def __init__(self, sample: Sample) -> None:
        self._embedder = load_embedder(load_settings(), bulk=False)
        self._queries = QueryEmbedder(self._embedder, 0, GatewayMetrics())
        self._texts = cycle(sample.queries)

    @property
    def facts(self) -> Facts:
        """What was loaded."""
        return {"runtime": self._embedder.runtime}

    def ask(self, count: int, apart_s: float) -> Facts:
        """Queries one after another, with a pause before each; what each took, in quantiles of milliseconds."""
        return asyncio.run(self._ask(count, apart_s))

    async def _ask(self, count: int, apart_s: float) -> Facts:
        took_ms = []
        for text in islice(self._texts, count + _WARM_UPS):
            await asyncio.sleep(apart_s)
            began = time.perf_counter()
            await self._queries.embed(text)
            took_ms.append((time.perf_counter() - began) * 1000)
        return quantiles(took_ms[_WARM_UPS:])


def _made(texts: str) -> tuple[Facts, Commands]:
    queries = Queries(Sample.read(Path(texts)))
    return queries.facts, {"ask": queries.ask}


if __name__ == "__main__":
    serve(lambda: _made(*sys.argv[1:]))
