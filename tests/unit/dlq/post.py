"""Dead letters in librdkafka's in-process broker, and `headrace dlq` run on them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from app.cli.main import main
from app.kafka.producer import Position, Record, RecordProducer
from app.settings import Settings
from schemas.dead_letter import DeadLetter

Headers = Sequence[tuple[str, bytes | None]]
NOW_MS = time.time_ns() // 1_000_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01".encode())


@dataclass
class Post:
    """Writes changes and letters, runs commands. capsys: where they print."""

    settings: Settings
    producer: RecordProducer
    capsys: pytest.CaptureFixture[str]
    sent: list[Position] = field(default_factory=list)

    def change(self, key: bytes | None, value: bytes | None, headers: Headers = (), partition: int = 0) -> Position:
        return self._send(Record(self.settings.changes_topic, key, value, partition, headers))

    def letter(
        self, source: Position, key: bytes | None, value: bytes | None, headers: Headers = (), **why: Any
    ) -> str:
        """Its place, as the commands want it."""
        given = {"stage": "decode", "error_class": "InvalidChange", "message": "no good", "timestamp_ms": NOW_MS}
        letter = DeadLetter(
            **{"topic": source.topic, "partition": source.partition, "offset": source.offset} | given | why
        )
        position = self._send(Record(self.settings.dlq_topic, key, value, 0, letter.headers(headers)))
        return f"{position.partition}:{position.offset}"

    def dead(
        self, key: bytes | None, value: bytes | None, headers: Headers = (), partition: int = 0, **why: Any
    ) -> str:
        """A change, and the letter that it became."""
        return self.letter(self.change(key, value, headers, partition), key, value, headers, **why)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, stdout and stderr of `headrace dlq`."""
        with pytest.raises(SystemExit) as caught:
            main(["dlq", *arguments])
        told = self.capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, told.out, told.err

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        """What `list --json` prints."""
        status, out, err = self.run("list", "--json", *arguments)
        assert status == 0, err
        return [orjson.loads(line) for line in out.splitlines()]

    def _send(self, record: Record) -> Position:
        (position,) = self.producer.deliver([record]).result(20)
        self.sent.append(position)
        return position
