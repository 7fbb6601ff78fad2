"""The tree of errors: every class is drawn in it, and its class says what the caller does."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest

from schemas import errors
from schemas.errors import Fatal, HeadraceError, Rejected, RequestError, Retriable
from tests.unit.test_layers import MODULES

ROOTS = (Retriable, Rejected, Fatal, RequestError)


def classes() -> list[type[HeadraceError]]:
    return [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, HeadraceError)]


def drawn() -> dict[str, str]:
    """name → the name of its parent in the docstring's tree."""
    parents: dict[str, str] = {}
    branch = ""
    for indent, name in re.findall(r"^(│?   [├└]── |[├└]── |    [├└]── )(\w+)", errors.__doc__ or "", re.MULTILINE):
        if indent[0] in "├└":
            branch = name
            parents[name] = "HeadraceError"
        else:
            parents[name] = branch
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    actual = {
        item.__name__: item.__base__.__name__ for item in classes() if item is not HeadraceError and item.__base__
    }
    assert drawn() == actual


def test_no_error_of_ours_lives_elsewhere() -> None:
    for module in MODULES:
        importlib.import_module(module)
    found, open_classes = set(), [HeadraceError]
    while open_classes:
        item = open_classes.pop()
        found.add(item)
        open_classes += item.__subclasses__()
    strangers = sorted(f"{item.__module__}.{item.__name__}" for item in found - set(classes()))
    assert strangers == []


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_every_error_says_what_the_caller_does(kind: type[HeadraceError]) -> None:
    assert kind is HeadraceError or sum(issubclass(kind, root) for root in ROOTS) == 1
    assert (kind.__doc__ or "").strip()


@pytest.mark.parametrize("kind", [item for item in classes() if issubclass(item, RequestError)])
def test_the_status_in_the_tree_is_the_status_of_the_class(kind: type[RequestError]) -> None:
    line = next(line for line in (errors.__doc__ or "").splitlines() if f" {kind.__name__} " in line)
    told = re.search(r"\b[45]\d\d\b", line)
    assert kind is RequestError or (told is not None and int(told[0]) == kind.status)


def test_a_rejection_keeps_its_reason_and_place() -> None:
    error = errors.UnembeddableText("too odd", 3)
    assert (error.reason, error.position, str(error)) == ("too odd", 3, "too odd")
