"""Dead letters back into the source topic, none twice, and none over something newer.

A replayed event without a version keeps its place among the changes of its document (see Work): whatever is published
meanwhile, the index decides as if it had come when it failed. A forced one counts as the newest change. The source
topic is read from the letters on, to its end before each round of producing, to tell beforehand what is superseded.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from app.dlq.letters import Letter
from app.dlq.source import SourceTopic
from app.kafka.producer import Position, Record, RecordProducer
from schemas.dead_letter import replay_headers

ROUND = 200  # letters; the rounds bound how long a change that comes just now is not told of
DELIVERY_S = 130.0  # a little more than the producer's own delivery timeout


class Fate(Enum):
    """What becomes of a letter."""

    REPLAY = "replay"
    REPEATED = "already replayed"
    SUPERSEDED = "superseded"
    UNSURE = "unsure"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A letter with its fate, and why, a sentence; empty for what is replayed."""

    letter: Letter
    fate: Fate
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """changes_topic: the only one that is replayed to. most: replays of one event. force: over newer changes too.

    tombstone_ms: how long a delete is sure to be seen in the topic.
    """

    changes_topic: str
    vectors_topic: str
    most: int
    force: bool
    tombstone_ms: int

    def refusal(self, letter: Letter) -> str | None:
        """Why a letter is not replayed whatever came after it; None if nothing speaks against it."""
        topic = letter.why.topic
        if topic == self.vectors_topic or letter.why.stage == "index":
            return (
                "a damaged vector record, not a change: embed its event again with headrace rewind, or repair the "
                "index with headrace audit --repair"
            )
        if topic != self.changes_topic:
            return f"it comes from {topic}, not from {self.changes_topic}"
        if letter.event.key is None:
            return "it has no key, so it fails again and is nobody's change: publish it with an id"
        if letter.replays >= self.most:
            return f"it was replayed {letter.replays} times and failed each time: mend it, or give a higher --most"
        return None

    def judge(self, letter: Letter, source: SourceTopic, now_ms: int) -> Verdict:
        """What is to become of a letter, by what is known of the source topic now."""
        refusal = self.refusal(letter)
        if refusal is not None:
            return Verdict(letter, Fate.REFUSED, refusal)
        if source.foreign(letter):
            reason = f"{letter.why.topic} was made again since: publish the document"
            return Verdict(letter, Fate.REFUSED, reason)
        if source.repeated(letter):
            return Verdict(letter, Fate.REPEATED, "an event that repeats it is in the topic")
        if self.force:
            return Verdict(letter, Fate.REPLAY)
        newest = source.newest(letter)
        if newest is not None:
            place = f"{letter.why.partition}:{newest}"
            return Verdict(letter, Fate.SUPERSEDED, f"a later change of the document is at {place}")
        if now_ms - letter.why.timestamp_ms > self.tombstone_ms:
            return Verdict(letter, Fate.UNSURE, "so old that a delete after it may be gone from the topic: --force")
        return Verdict(letter, Fate.REPLAY)


@dataclass(slots=True)
class Replay:
    """One run. done: what has become of letters so far, right at any time, also after an interruption."""

    rules: Rules
    source: SourceTopic
    done: list[Verdict] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def plan(self, letters: Sequence[Letter]) -> list[Verdict]:
        """What would become of the letters. Call `source.watch` and `source.catch_up` before."""
        now_ms = time.time_ns() // 1_000_000
        return [self.rules.judge(letter, self.source, now_ms) for letter in letters]

    def run(self, letters: Sequence[Letter], producer: RecordProducer, advance: Callable[[int], None]) -> None:
        """Replay in source order, awaiting every delivery. A letter that Kafka does not take is in `done` as failed."""
        for start in range(0, len(letters), ROUND):
            part = letters[start : start + ROUND]
            self.source.catch_up(self.source.ahead())
            verdicts = self.plan(part)
            under_way = [self._send(item.letter, producer) for item in verdicts if item.fate is Fate.REPLAY]
            self.done += [item for item in verdicts if item.fate is not Fate.REPLAY]
            for delivery in under_way:
                delivery.result(DELIVERY_S)
            advance(len(part))

    def counts(self) -> Counter[Fate]:
        """How many letters have met which fate."""
        return Counter(item.fate for item in list(self.done))

    def _send(self, letter: Letter, producer: RecordProducer) -> Future[None]:
        settled: Future[None] = Future()
        producer.produce(replayed(letter, forced=self.rules.force), partial(self._settle, letter, settled))
        return settled

    def _settle(
        self, letter: Letter, settled: Future[None], position: Position | None, error: Exception | None
    ) -> None:
        failed = Verdict(letter, Fate.FAILED, str(error))
        with self._lock:
            self.done.append(failed if position is None else Verdict(letter, Fate.REPLAY))
        settled.set_result(None)


def in_source_order(letters: Sequence[Letter]) -> list[Letter]:
    """As their events lay in the source topic: of two of one document the later one has to win."""
    return sorted(letters, key=lambda letter: letter.source)


def replayed(letter: Letter, *, forced: bool) -> Record:
    """The event once more: original key, value and headers, into the partition that it came from."""
    event, why = letter.event, letter.why
    headers = replay_headers(event.headers, why, forced=forced)
    return Record(why.topic, event.key, event.value, why.partition, headers)
