"""The exported JSON Schema says the same as the code that decodes."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schemas.document_change import MAX_EPOCH_MS, DocumentChange, decode_change, json_schema
from schemas.errors import InvalidChange
from schemas.export import PATH, exported
from tests.unit.schemas.strategies import changes

VALIDATOR = Draft202012Validator(json_schema())

# near misses of every field; not what JSON Schema cannot say: bytes of an id, 1.0 for an integer, which RFC 3339
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "schema_version": st.sampled_from([1, 2, "1", None]),
    "op": st.sampled_from(["upsert", "delete", "Upsert", None, 1]),
    "id": st.sampled_from(["a", "", "x" * 1024, "x" * 1025, 1, None]),
    "text": st.sampled_from(["", "x", None, 1, ["x"]]),
    "title": st.sampled_from(["", None, "x" * 4096, "x" * 4097, 1]),
    "metadata": st.dictionaries(
        st.sampled_from(["a", "", "x" * 128, "x" * 129]),
        st.sampled_from([None, True, 1, -(2**63), 2**63 - 1, 1.5, "x" * 4097, ["a"], ["x"] * 65, [1], [None], {}]),
        max_size=2,
    )
    | st.sampled_from([None, [], "x", {str(n): n for n in range(64)}, {str(n): n for n in range(65)}]),
    "version": st.sampled_from([None, 0, -1, 2**63 - 1, "1", True]),
    "event_time": st.sampled_from([None, 0, -1, MAX_EPOCH_MS, MAX_EPOCH_MS + 1, True, "2026-01-31T12:00:00Z", []]),
    "colour": st.just("red"),
}


def test_the_exported_file_is_what_the_code_says() -> None:
    assert exported() == PATH.read_bytes(), f"{PATH.name} is out of date; run: python -m schemas.export"


def test_the_schema_is_valid_and_holds_no_word_that_json_schema_does_not_know() -> None:
    Draft202012Validator.check_schema(json_schema())
    known = set(Draft202012Validator.VALIDATORS) | {"$schema", "title", "description", "default", "then", "else"}

    def words(schema: Any) -> set[str]:
        if isinstance(schema, list):
            return set().union(*map(words, schema)) if schema else set()
        if not isinstance(schema, dict):
            return set()
        inner = set().union(*(words(value) for name, value in schema.items() if name not in ("properties", "default")))
        return inner | set(schema) | set().union(*(words(value) for value in schema.get("properties", {}).values()))

    assert words(json_schema()) <= known


@given(changes())
def test_every_encoded_change_validates(change: DocumentChange) -> None:
    VALIDATOR.validate(orjson.loads(change.encode()))


@given(st.data())
def test_the_schema_and_the_code_refuse_the_same(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=3, unique=True))
    fields = {"id": "a", "text": "x"} | {name: data.draw(FIELDS[name]) for name in names}
    try:
        decode_change(str(fields["id"]).encode(), orjson.dumps(fields))
    except InvalidChange:
        accepted = False
    else:
        accepted = True
    assert VALIDATOR.is_valid(fields) == accepted
