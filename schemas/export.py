"""`python -m schemas.export`: writes the JSON Schema of the changes topic's value, for producers in any language."""

from __future__ import annotations

from pathlib import Path

import orjson

from schemas.document_change import json_schema

PATH = Path(__file__).with_name("document_change.v1.json")


def exported() -> bytes:
    """What the file must hold."""
    return orjson.dumps(json_schema(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    PATH.write_bytes(exported())
