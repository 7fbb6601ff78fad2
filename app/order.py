"""The order of the changes of one document: by version where both sides have one, else by source offset."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DocumentOrder:
    """The place of a change among the changes of its document.

    version: the producer's own monotonic version, if it gives one. source_offset: offset on the changes topic.
    """

    version: int | None
    source_offset: int

    def supersedes(self, held: DocumentOrder) -> bool:
        """Whether this change comes after `held`. The same change again does not."""
        if self.version is not None and held.version is not None and self.version != held.version:
            return self.version > held.version
        return self.source_offset > held.source_offset

    def after(self, held: DocumentOrder) -> DocumentOrder:
        """The order to hold once this change has superseded `held`.

        A version once seen stays: a change without one (a null value, say) does not reopen the document for
        older versions.
        """
        return self if self.version is not None else DocumentOrder(held.version, self.source_offset)

    def with_floor(self, version: int | None) -> DocumentOrder:
        """The order with at least this version: one the document had before, that travels with its later changes."""
        if version is None or (self.version is not None and self.version >= version):
            return self
        return DocumentOrder(version, self.source_offset)

    def comparable(self, other: DocumentOrder) -> bool:
        """Whether the two can be compared without knowing what is held: both have a version, or neither has."""
        return (self.version is None) == (other.version is None)
