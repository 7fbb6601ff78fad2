"""Reading sources in tests."""

from __future__ import annotations

from collections.abc import Iterable

from producers.changes import BadInput, Change, Item
from schemas.document_change import DocumentChange


def advance(_: int) -> None:
    """Nobody looks at the progress."""


def good(items: Iterable[Item | None]) -> list[DocumentChange]:
    """The changes; none may be bad."""
    found = list(items)
    assert not [item for item in found if isinstance(item, BadInput)]
    return [item.change for item in found if isinstance(item, Change)]


def bad(items: Iterable[Item | None]) -> dict[str, str]:
    """Where → reason of the bad ones."""
    return {item.where: item.reason for item in items if isinstance(item, BadInput)}
