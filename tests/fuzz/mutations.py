"""Bytes that are almost right, and bytes that are not.

HEADRACE_FUZZ_EXAMPLES: how many examples each fuzz test tries; default: few enough for every commit.
"""

from __future__ import annotations

import os
from typing import Any

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FUZZ = settings(
    max_examples=int(os.environ.get("HEADRACE_FUZZ_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


class Raw(bytes):
    """What stands in JSON as it is, valid or not."""


NASTY = [
    *map(Raw, (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1e-999", b"-0", b"0x1", b"01", b"")),
    *map(Raw, (b"9" * 25, b"-" + b"9" * 25, b"9" * 5000, b"18446744073709551616", b"9223372036854775808", b"1.0")),
    *map(Raw, (b"[" * 3000 + b"]" * 3000, b'{"a":' * 2000 + b"1" + b"}" * 2000, b'["x",' * 40 + b"1" + b"]" * 40)),
    *map(
        Raw, (b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"' + b"x" * 70_000)
    ),
    *map(Raw, (b'{"a":1,"a":2}', b"null", b"true", b"{}", b"[]", b'""', b'"' + b"y" * 20_000 + b'"')),
    *(
        -1,
        0,
        2**31,
        2**63 - 1,
        2**63,
        -(2**63),
        "\0",
        "é",
        "\u202e",
        "1",
        "-1",
        "x" * 5000,
        [[]],
        [{}],
        {"": {}},
        [None],
    ),
    *({"a" * 200: 1}, {"x": {"y": {"z": 1}}}, list(range(300)), ["x"] * 300, dict.fromkeys(map(str, range(300)), 1)),
]


def encoded(value: Any) -> bytes:
    """As JSON; Raw as it is, and a list of pairs under the key of PAIRS as an object with its keys doubled."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, dict):
        return b"{%b}" % b",".join(b"%b:%b" % (encoded(name), encoded(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return b"[%b]" % b",".join(map(encoded, value))
    return orjson.dumps(value) if not isinstance(value, int) or -(2**63) <= value < 2**63 else b"%d" % value


def _replaced(draw: st.DrawFn, value: Any, depth: int = 0) -> Any:
    """One node somewhere becomes something nasty."""
    inside = isinstance(value, dict | list) and value and depth < 4 and draw(st.integers(0, 3)) > 0
    if not inside:
        return draw(st.sampled_from(NASTY))
    if isinstance(value, dict):
        name = draw(st.sampled_from(sorted(value, key=str)))
        match draw(st.integers(0, 6)):
            case 0:
                return {key: item for key, item in value.items() if key != name}
            case 1:
                return value | {draw(st.sampled_from(["", "\0", "zz", "__proto__", "k" * 3000])): value[name]}
            case 2:
                twice = b"{%b,%b:%b}" % (encoded(value)[1:-1], encoded(name), encoded(draw(st.sampled_from(NASTY))))
                return Raw(twice)
            case _:
                return value | {name: _replaced(draw, value[name], depth + 1)}
    at = draw(st.integers(0, len(value) - 1))
    return [*value[:at], _replaced(draw, value[at], depth + 1), *value[at + 1 :]]


@st.composite
def json_mutations(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> bytes:
    """JSON of `values` with up to three nodes replaced, then perhaps damaged as bytes."""
    value = draw(values)
    for _ in range(draw(st.integers(0, 3))):
        if not isinstance(value, Raw):
            value = _replaced(draw, value)
    content = encoded(value)
    return draw(damaged(st.just(content))) if draw(st.integers(0, 4)) == 0 else content


@st.composite
def damaged(draw: st.DrawFn, values: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of `values` with a few places overwritten, cut out, doubled, or filled."""
    content = bytearray(draw(values))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 8)))
        match draw(st.integers(0, 3)):
            case 0:
                content[start:end] = draw(st.binary(max_size=8))
            case 1:
                del content[start:end]
            case 2:
                content[start:start] = content[start:end]
            case _:
                content[start:end] = draw(st.sampled_from([b"\xff" * 8, bytes(8), b"\x80" * 300, b'"', b"\n", b","]))
    return bytes(content)
