"""Which changes have a dead letter."""

from __future__ import annotations

from collections.abc import Mapping

from app.kafka.reading import TopicReader
from app.settings import Settings
from schemas.dead_letter import decode_dead_letter
from schemas.errors import InvalidDeadLetter

_CLOCKS_MS = 60_000  # how far the clocks of producers and workers may be apart


def with_dead_letter(
    reader: TopicReader, settings: Settings, changes: Mapping[tuple[int, int], int]
) -> set[tuple[int, int]]:
    """Of these changes, those that were set aside. changes: partition and offset → time in ms.

    A letter that is older than the change is of an earlier life of the topic. Raises BrokerUnavailable.
    """
    found = set()
    for event in reader.read(settings.dlq_topic, reader.spans(settings.dlq_topic)):
        try:
            letter = decode_dead_letter(event.headers)
        except InvalidDeadLetter:
            continue  # somebody else's
        position = (letter.partition, letter.offset)
        if letter.topic != settings.changes_topic or position not in changes:
            continue
        if letter.timestamp_ms >= changes[position] - _CLOCKS_MS:
            found.add(position)
    return found
