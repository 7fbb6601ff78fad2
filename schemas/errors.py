"""The one tree of errors, classed by what the caller does about them.

HeadraceError
├── Retriable                  same work again after back-off; nothing was lost
│   ├── BrokerUnavailable      Kafka does not answer or did not confirm a delivery
│   ├── EmbedderUnavailable    the model does not answer; nothing was embedded
│   ├── GatewayUnavailable     the search gateway does not answer
│   ├── LeaseExpired           the group may have given the partitions away; nothing was written
│   ├── NotApplied             a change is published, and not yet in every shard that was waited for
│   └── StorageFull            the disk is full or does not answer; nothing was applied
├── Rejected                   can never succeed: dead letter, go on with the next
│   ├── InvalidChange          the event is not a DocumentChange
│   ├── InvalidVectorRecord    the record is damaged or of an unknown version
│   ├── InvalidDeadLetter      the record on the dead-letter topic is not one of ours
│   ├── UnembeddableText       the model fails on this very text
│   └── TextsRefused           the model fails on some of these texts and does not say which
├── Fatal                      stop: the state or the set-up is not to be trusted
│   ├── SettingsError          a setting is missing or wrong
│   ├── ServiceMissing         a service was not there at the start
│   ├── TopicsWrong            topics are missing or have other settings than they need
│   ├── GroupActive            a consumer group has members that must stop first
│   ├── RecordUnreadable       what Kafka holds is damaged: mend it there, or give it up
│   ├── RecordRefused          Kafka refuses a record as too large: stop rather than lose it
│   ├── ModelMissing           the model cannot be found or loaded
│   ├── ModelDisagrees         what was asked for gives other vectors than the reference
│   ├── Stalled                something waits for ever: be started again
│   ├── EpochChanged           the topics were made again: start again with the new ones
│   ├── PartitionsChanged      the topics were given more partitions: make another collection
│   ├── ShardCorrupt           a shard file is not what it says it is
│   └── FingerprintMismatch    vectors of another model arrive at a shard
└── RequestError               the client's request is wrong or cannot be served: an HTTP status
    ├── BadRequest             400
    ├── NotFound               404
    ├── TooLarge               413
    ├── NotServing             503
    └── WaitTimeout            504: the offsets asked for were not applied in time
"""

from __future__ import annotations


class HeadraceError(Exception):
    """Root of all errors raised on purpose."""


class Retriable(HeadraceError):
    """The same work may succeed later: keep the offset, back off, try again."""


class Rejected(HeadraceError):
    """This input can never succeed: set it aside (dead letter) and go on.

    reason: one sentence for people; it becomes the dead letter's message.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Fatal(HeadraceError):
    """Going on would make things worse: print the message and exit with a status other than 0."""


class RequestError(HeadraceError):
    """The answer to one HTTP request is an error; `status` is its HTTP status."""

    status = 400


class BrokerUnavailable(Retriable):
    """Kafka cannot be reached, or did not confirm a delivery in time."""


class EmbedderUnavailable(Retriable):
    """The model does not answer. Nothing was embedded; the texts may be tried again as they are."""


class GatewayUnavailable(Retriable):
    """The search gateway does not answer, or cannot ask its shards; ask again. min_offsets: what a wait was for, which
    is published whatever becomes of the wait."""

    def __init__(self, message: str, min_offsets: dict[str, int] | None = None) -> None:
        super().__init__(message)
        self.min_offsets = min_offsets or {}


class LeaseExpired(Retriable):
    """The consumer group may have given the partitions to another worker: write nothing until it has answered."""


class NotApplied(Retriable):
    """Changes are published, but not every shard that was waited for has applied them: wait for `min_offsets` again."""

    def __init__(self, message: str, min_offsets: dict[str, int]) -> None:
        super().__init__(message)
        self.min_offsets = min_offsets


class StorageFull(Retriable):
    """A shard file cannot be written: make room. Nothing was applied; the same records may be tried again."""


class InvalidChange(Rejected):
    """The bytes on the changes topic are not a DocumentChange."""


class InvalidVectorRecord(Rejected):
    """The bytes on the vectors topic are damaged, foreign, or of a version this program does not know."""


class InvalidDeadLetter(Rejected):
    """The record on the dead-letter topic has not the headers that say where it came from and why."""


class UnembeddableText(Rejected):
    """The model fails on the text at `position` of the call, whatever else is beside it."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason)
        self.position = position


class TextsRefused(Rejected):
    """A call of the model failed, and any of its texts may be the reason: call again with half of them."""


class SettingsError(Fatal):
    """A setting is missing or wrong; the message names it and an accepted value."""


class ServiceMissing(Fatal):
    """A service was not there at the start; the message says where it was looked for and what to do."""


class TopicsWrong(Fatal):
    """Topics are missing or wrong; the message holds the command that puts it right."""


class PartitionsChanged(Fatal):
    """The topics have another number of partitions than the collection began with: make another collection."""

    def __init__(self, began_with: object, now: int) -> None:
        super().__init__(
            f"the topics have {now} partitions, and had {began_with} when the collection began: the same id goes to "
            "another partition now, and its document would be found twice, once as it was. Partitions cannot be taken "
            "away again: make another collection (HEADRACE_COLLECTION, headrace topics create --partitions) and "
            "publish everything into it"
        )


class ModelMissing(Fatal):
    """The model was not found or does not load; the message says where it was looked for."""


class ModelDisagrees(Fatal):
    """The runtime or precision that was asked for does not agree with the reference; the message says by how much."""


class GroupActive(Fatal):
    """Kafka does not change the offsets of a group that has members: stop them. members: their names, if known."""

    def __init__(self, group: str, members: list[str]) -> None:
        who = f": {', '.join(members)}" if members else ""
        super().__init__(
            f"stop the embed workers first{who}. The consumer group {group} has members, and Kafka changes its offsets "
            "only when it has none; one that was killed counts as a member until its session times out"
        )
        self.group = group
        self.members = members


class RecordUnreadable(Fatal):
    """Kafka holds a record that is not as it was written; nothing is read beyond it. partition: of the topic."""

    def __init__(self, topic: str, partition: int, reason: str) -> None:
        super().__init__(
            f"partition {partition} of {topic} cannot be read on: {reason}. Let another replica of the partition lead, "
            "or give the record up as docs/faults.md says"
        )
        self.topic = topic
        self.partition = partition


class RecordRefused(Fatal):
    """Kafka refuses a record as too large: stop rather than lose it; the message says which topic to change."""


class Stalled(Fatal):
    """Something waits for ever: end, and be started again."""


class EpochChanged(Fatal):
    """The topics were deleted and made again: end, and start again with the new ones."""


class ShardCorrupt(Fatal):
    """A shard file is damaged or foreign; it must be set aside and rebuilt from the vectors topic."""


class FingerprintMismatch(Fatal):
    """Vectors of two models cannot be compared: index the other model's into another collection."""


class BadRequest(RequestError):
    """Status 400: the message names the field and what is accepted."""


class NotFound(RequestError):
    """Status 404. document_id: the document that there is not; None where it is something else that is missing."""

    status = 404

    def __init__(self, message: str, document_id: str | None = None) -> None:
        super().__init__(message)
        self.document_id = document_id


class TooLarge(RequestError):
    """Status 413: the body exceeds the limit named in the message."""

    status = 413


class NotServing(RequestError):
    """Status 503: no shard can answer at present."""

    status = 503


class WaitTimeout(RequestError):
    """Status 504: `min_offsets` or `max_staleness_ms` was not reached within the timeout."""

    status = 504
