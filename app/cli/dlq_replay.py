"""`headrace dlq replay`, once the letters are chosen: say what will be, ask, do it, say what has been."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import click

from app.cli.progress import progress
from app.dlq.letters import Letter
from app.dlq.replay import Fate, Replay, Rules, Verdict, in_source_order
from app.dlq.source import SourceTopic
from app.dlq.telling import printable
from app.kafka.producer import MOST_BYTES, RecordProducer
from app.kafka.reading import TopicReader
from app.settings import Settings

REPLAY_CLIENT = "headrace-dlq-replay"
_MOST_TOLD = 50  # letters that are named with their reason; counts tell of the others
_CLOSE_S = 5.0


def replay_letters(
    settings: Settings, letters: Sequence[Letter], *, most: int, force: bool, dry_run: bool, yes: bool
) -> int:
    """Returns the exit status."""
    rules = Rules(
        settings.changes_topic, settings.vectors_topic, most, force, settings.tombstone_retention_hours * 3_600_000
    )
    letters = in_source_order(letters)
    with TopicReader(settings, REPLAY_CLIENT) as reader:
        source = SourceTopic(reader, settings.changes_topic)
        source.watch([letter for letter in letters if rules.refusal(letter) is None])
        ahead = source.ahead()
        with progress("reading what came after", sum(end - first for first, end in ahead.values())) as advance:
            source.catch_up(ahead, advance)
        replay = Replay(rules, source)
        plan = replay.plan(letters)
        _tell_reasons(plan)
        counts = Counter(item.fate for item in plan)
        click.echo(_counted(counts, "to replay"))
        if dry_run or not counts[Fate.REPLAY]:
            return 1 if counts[Fate.REFUSED] else 0
        if not yes:
            click.confirm(f"Write {counts[Fate.REPLAY]:,} events to {settings.changes_topic}?", abort=True)
        _run(settings, replay, letters)
    return 1 if replay.counts()[Fate.FAILED] or counts[Fate.REFUSED] else 0


def _run(settings: Settings, replay: Replay, letters: Sequence[Letter]) -> None:
    """Says how far it came, however it ends."""
    # what came in compressed may be larger than max_record_bytes: the topic's limit decides
    producer = RecordProducer(settings, REPLAY_CLIENT, linger_ms=5, max_bytes=MOST_BYTES)
    try:
        with progress("replaying", len(letters)) as advance:
            replay.run(letters, producer, advance)
    finally:
        producer.close(_CLOSE_S)
        _tell_reasons(item for item in replay.done if item.fate is Fate.FAILED)
        click.echo(_counted(replay.counts(), "replayed"))
        left = len(letters) - len(replay.done)
        if left:
            click.echo(f"{left:,} letters were not reached: run it again, none will be replayed twice", err=True)


def _tell_reasons(verdicts: Iterable[Verdict]) -> None:
    told = [item for item in verdicts if item.fate is not Fate.REPLAY]
    for item in told[:_MOST_TOLD]:
        why = item.letter.why
        click.echo(printable(f"{item.letter.place}  {why.partition}:{why.offset}  {item.fate.value}: {item.reason}"))
    if len(told) > _MOST_TOLD:
        click.echo(f"… and {len(told) - _MOST_TOLD:,} more that are not replayed")


def _counted(counts: Counter[Fate], replayed: str) -> str:
    names = {fate: fate.value for fate in Fate} | {Fate.REPLAY: replayed}
    return ", ".join([f"{counts[Fate.REPLAY]:,} {replayed}"] + [
        f"{counts[fate]:,} {names[fate]}" for fate in Fate if fate is not Fate.REPLAY and counts[fate]
    ])  # fmt: skip
