"""Any history, in any batches, with crashes, redeliveries and a forgetful Redis: the log folds to the same."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from app.event import Event
from schemas.document_change import decode_change
from schemas.errors import BrokerUnavailable
from tests.property.test_order import histories
from tests.unit.embed.parts import (
    GappyApplied,
    IndexModel,
    MoodyEmbedder,
    Parts,
    at_position,
    one_by_one,
    place_among,
    vectors,
)

TROUBLES = [None, None, "delivery", "before", "after", "forget", "away", "older copy"]


class _Troubles:
    """What goes wrong beside one batch."""

    def __init__(self, parts: Parts, applied: GappyApplied, data: st.DataObject) -> None:
        self.parts, self.applied, self.data = parts, applied, data
        self.copies = [applied.copy()]

    def draw(self) -> None:
        self.clear()
        trouble = self.data.draw(st.sampled_from(TROUBLES), label="trouble")
        if trouble == "delivery":
            self.parts.producer.error = BrokerUnavailable("cut")
            self.parts.producer.lose = self.data.draw(st.integers(0, 4), label="records written")
        elif trouble == "forget":
            self.applied.restore(({}, {}))
        elif trouble == "older copy":
            self.applied.restore(self.data.draw(st.sampled_from(self.copies), label="copy"))
        elif trouble == "away":
            self.applied.away = True
        else:
            self.applied.crash = trouble

    def clear(self) -> None:
        self.copies.append(self.applied.copy())
        self.applied.crash, self.applied.away = None, False
        self.parts.producer.lose, self.parts.producer.error = None, None


@settings(max_examples=150, deadline=None)
@given(histories(poison=True), st.data())
def test_the_log_folds_to_what_the_events_say_whatever_happens_on_the_way(
    events: list[Event], data: st.DataObject
) -> None:
    applied = GappyApplied()
    poison = data.draw(st.sampled_from([None, "text 2"]), label="the model fails on")
    parts = Parts(MoodyEmbedder(poison, at_position), applied)
    troubles = _Troubles(parts, applied, data)
    position, rounds = 0, 0
    while position < len(events):
        size = data.draw(st.integers(1, len(events) - position), label="batch")
        rounds += 1
        troubles.draw() if rounds < 6 else troubles.clear()
        dealt_with = {item.partition: item.offset + 1 for item in events[:position]}
        try:
            parts.pipeline.process(events[position : position + size], lambda _: True, {0: 0, 1: 0} | dealt_with)
        except (BrokerUnavailable, KeyboardInterrupt):
            parts.restart()
            continue
        position += size
        if rounds < 6 and data.draw(st.booleans(), label="not committed"):
            position -= data.draw(st.integers(0, size))
    _check(events, parts, poison)


def _check(events: list[Event], parts: Parts, poison: str | None) -> None:
    valid = [item for item in events if item.value != b"{" and (poison or "{{").encode() not in (item.value or b"")]
    index, reached = IndexModel(), dict.fromkeys({item.partition for item in events}, -1)
    for told in vectors(parts.producer.log):
        index.apply_record(told)
        partition = told.headers.source_partition
        assert told.record.partition == partition
        if told.headers.through > reached[partition]:
            reached[partition] = told.headers.through
            _check_reach(valid, index, partition, told.headers.through)
    assert index.living() == one_by_one(valid)
    assert reached == {partition: max(i.offset for i in events if i.partition == partition) for partition in reached}


def _check_reach(valid: list[Event], index: IndexModel, partition: int, through: int) -> None:
    """Every event that a shard claims to reflect is held or superseded there, be it by a later one whose place in the
    order is an earlier one: of a dead letter that it repeats."""
    covered = [item for item in valid if item.partition == partition and item.offset <= through]
    by_id = sorted(covered, key=lambda item: (item.key or b"", item.offset))
    for key, own in groupby(by_id, key=lambda item: item.key):
        document = (partition, (key or b"").decode())
        held, expected = index.orders.get(document), one_by_one(own).get(document)
        later = [item for item in valid if item.partition == partition and item.offset > through]
        places = {place_among(item, decode_change(item.key, item.value)) for item in later}
        if held is None or (held.source_offset <= through and held.source_offset not in places):
            assert index.living().get(document) == expected


def test_the_fold_of_the_test_itself_lets_nothing_late_resurrect_a_document() -> None:
    index = IndexModel()
    index.apply_change(0, 5, decode_change(b"a", None))
    index.apply_change(0, 4, decode_change(b"a", b'{"id":"a","text":"late"}'))
    assert index.living() == {}
