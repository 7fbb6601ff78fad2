"""The local Redis: found, started, stopped, killed, started again."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from app.local import redis as local
from app.local.process import listens
from app.local.redis import LocalRedis, find_redis_server
from schemas.errors import ServiceMissing
from tests.services_local import eventually, is_alive, redis_or_skip

pytestmark = pytest.mark.redis


@pytest.fixture(autouse=True)
def _server() -> None:
    redis_or_skip()


def test_commands_are_answered_and_nothing_is_left_after_stop() -> None:
    with LocalRedis() as server:
        client = redis.Redis.from_url(server.url)
        client.set("k", b"v")
        assert client.get("k") == b"v"
        client.close()
        pid = server.pid
    assert pid is not None
    assert not is_alive(pid)
    assert not listens("127.0.0.1", server.port)


def test_a_killed_server_starts_again_on_its_port_with_an_empty_memory() -> None:
    with LocalRedis() as server, redis.Redis.from_url(server.url) as client:
        client.set("k", b"v")
        server.kill()
        assert server.pid is None
        server.restart()
        assert client.get("k") is None


def test_a_data_folder_keeps_what_was_there_over_a_stop(tmp_path: Path) -> None:
    with LocalRedis(tmp_path / "data") as server, redis.Redis.from_url(server.url) as client:
        client.set("k", b"v")
        server.restart()
        assert client.get("k") == b"v"


def test_a_taken_port_is_an_error_in_one_line() -> None:
    with LocalRedis() as server:
        second = LocalRedis(port=server.port, program=Path("/bin/false"))
        server.stop()
        with pytest.raises(ServiceMissing, match="is the port taken"):
            second.start()
        eventually(lambda: second.pid is None)


def test_the_demo_prefers_the_packaged_server_and_tests_the_real_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packaged, real = tmp_path / "valkey-server", tmp_path / "redis-server"
    real.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(local, "_embedded", lambda: packaged)

    assert find_redis_server("embedded") == packaged
    assert find_redis_server("system") == real


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(local, "_embedded", lambda: None)

    assert find_redis_server() is None
    with pytest.raises(ServiceMissing, match="apt-get install"):
        LocalRedis()
