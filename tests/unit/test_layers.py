"""What may import what, that importing does nothing, and that the parts of Faust we lean on are still there."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiokafka
import pytest
from faust.app.base import App
from faust.tables import recovery
from faust.transport import consumer as transport
from faust.transport.consumer import Consumer, ConsumerThread
from faust.transport.drivers import aiokafka as driver
from mode.services import Service, WaitResults

ROOT = Path(__file__).parents[2]
OURS = ("schemas", "app", "consumers", "producers")
MAY_IMPORT = {
    "schemas": {"schemas"},
    "app": {"schemas", "app"},
    "consumers": {"schemas", "app", "consumers"},
    "producers": {"schemas", "app", "producers"},
}
FAUST = {"faust", "mode", "aiokafka"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for layer in OURS for path in sorted((ROOT / layer).rglob("*.py"))}
MODULES = list(FILES)


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it: a late import is one as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_layer_may(module: str) -> None:
    layer = module.partition(".")[0]
    assert packages(FILES[module]) & set(OURS) <= MAY_IMPORT[layer]
    if layer != "consumers":
        assert not packages(FILES[module]) & FAUST


def test_the_files_of_all_layers_were_found() -> None:
    assert {module.partition(".")[0] for module in MODULES} == set(OURS)
    assert {"app.embed.pipeline", "app.cli.main", "consumers.faust_app", "schemas.headers"} <= set(MODULES)


_IMPORT_ALL = """
import importlib, os, socket, sys

class Touched(dict):
    def __getitem__(self, name):
        if str(name).upper().startswith("HEADRACE"):
            raise SystemExit(f"reads {name} at import")
        return dict.__getitem__(self, name)
    def get(self, name, default=None):
        return self[name] if name in self else default

def refuse(*_, **__):
    raise SystemExit("opens a connection at import")

socket.socket.connect = socket.socket.connect_ex = socket.socket.bind = refuse
os.environ = Touched(os.environ)
for name in sys.argv[1:]:
    importlib.import_module(name)
print("imported", len(sys.argv) - 1)
"""


def test_importing_reads_no_setting_and_opens_no_connection(tmp_path: Path) -> None:
    garbage = dict.fromkeys(("BROKERS", "PARTITIONS", "REDIS_URL", "RUNTIME", "DATA_DIR", "OTLP_ENDPOINT"), "garbage")
    (tmp_path / ".env").write_text("HEADRACE_PARTITIONS=garbage\n")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _IMPORT_ALL, *MODULES],
        cwd=tmp_path,
        env=os.environ | {f"HEADRACE_{name}": value for name, value in garbage.items()} | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f"imported {len(MODULES)}\n", done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == [tmp_path / ".env"]


def test_faust_is_the_version_whose_private_parts_we_know() -> None:
    assert importlib.metadata.version("faust-streaming") == "0.15.3"


@pytest.mark.parametrize(
    "name", ["perform_seek", "seek_wait", "earliest_offsets", "highwaters", "wait_first", "commit"]
)
def test_faust_still_has_the_methods_we_override_or_call(name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(driver.Consumer, name))


@pytest.mark.parametrize("name", ["_read_offset", "_committed_offset", "_acked", "_acked_index"])
def test_faust_still_keeps_its_offsets_where_we_reset_them(name: str) -> None:
    assert f"self.{name} = " in inspect.getsource(Consumer.__init__)


def test_faust_still_seeks_through_the_method_that_we_override() -> None:
    assert "consumer.perform_seek()" in inspect.getsource(recovery)
    assert "self._read_offset" in inspect.getsource(Consumer.perform_seek)


def test_faust_still_makes_its_consumer_late_and_tells_generation_and_rebalances() -> None:
    """`_consumer` is asked for before there is one: the property `consumer` would make it, in the wrong loop."""
    assert "self._consumer = " in inspect.getsource(App)
    assert "self.app.consumer_generation_id" in inspect.getsource(Consumer)
    assert {"on_partitions_assigned", "on_partitions_revoked", "on_rebalance_complete"} <= set(dir(App))
    assert {"rebalancing", "_new_transport", "crash_reason", "finalize"} <= set(dir(App)) | set(
        App.__init__.__code__.co_names
    )


def test_faust_still_awaits_each_callback_through_wait_first() -> None:
    assert "await self.wait_first(" in inspect.getsource(Consumer)
    assert list(inspect.signature(Service.wait_first).parameters) == ["self", "coros", "timeout"]
    assert {"done", "results", "stopped"} == set(WaitResults._fields)
    assert "self._stopped" in inspect.getsource(Service.wait_first)
    assert "self._crashed" in inspect.getsource(Service.wait_first)


def test_faust_still_makes_its_kafka_consumer_where_we_shorten_the_long_poll() -> None:
    assert issubclass(driver.AIOKafkaConsumerThread, ConsumerThread)
    thread = driver.AIOKafkaConsumerThread
    assert list(inspect.signature(thread._create_worker_consumer).parameters) == ["self", "transport"]
    assert "self._new_consumer_thread()" in inspect.getsource(transport)
    assert "self._create_worker_consumer(" in inspect.getsource(driver)
    assert "self._fetch_max_wait_ms = fetch_max_wait_ms" in inspect.getsource(aiokafka.AIOKafkaConsumer.__init__)
