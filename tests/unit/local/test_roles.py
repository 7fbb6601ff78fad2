"""How the roles are tied together, and what is shown while they run."""

from __future__ import annotations

import io

import pytest

from app.local.console import Console
from app.local.roles import environment_of, roles, with_ports
from app.local.session import status_text
from app.settings import PREFIX, Settings

NAMES = {PREFIX + name.upper() for name in Settings.model_fields}


def settings(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


def test_the_gateway_is_told_where_the_index_worker_is_even_without_redis() -> None:
    own = with_ports(settings(port=0, index_port=0, embed_port=0))
    embed, index, search = roles(own, {})

    assert search.environment["HEADRACE_INDEX_URLS"] == f"http://127.0.0.1:{own.index_port}"
    assert index.environment["HEADRACE_INDEX_PORT"] == str(own.index_port)
    assert len({embed.ready_url, index.ready_url, search.ready_url}) == 3
    assert set(search.environment) <= NAMES


def test_a_wildcard_address_is_asked_for_readiness_on_loopback() -> None:
    (_, _, search) = roles(settings(host="0.0.0.0", port=18080), {})

    assert search.ready_url == "http://127.0.0.1:18080/readyz"


def test_none_hides_what_a_dotenv_file_says() -> None:
    assert environment_of({"redis_url": None, "port": 1}) == {"HEADRACE_REDIS_URL": "", "HEADRACE_PORT": "1"}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (None, "the gateway does not answer"),
        (
            {"documents": 2000, "chunks": 2245, "staleness_ms": 38, "shards": [{"shard": 0, "state": "ready"}]},
            "2,000 documents, 2,245 chunks · the index is 38 ms behind",
        ),
        (
            {"documents": 1, "chunks": 1, "staleness_ms": None, "shards": [{"shard": 3, "state": "missing"}]},
            "1 documents, 1 chunks · the index is catching up · shard 3 missing",
        ),
    ],
)
def test_the_status_line_tells_size_and_staleness(status: dict[str, object] | None, text: str) -> None:
    assert status_text(status) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_go_above_the_status_line_which_is_drawn_again() -> None:
    terminal = Terminal()
    console = Console(terminal, terminal)
    console.status("waiting")

    console.relay("embed", "a line")

    assert terminal.getvalue().endswith("waiting\r\x1b[K\x1b[36membed   | \x1b[0ma line\nwaiting")


def test_without_a_terminal_there_is_no_status_line() -> None:
    out = io.StringIO()
    Console(out, out).status("waiting")

    assert out.getvalue() == ""
