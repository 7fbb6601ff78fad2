"""A real Kafka of our own on loopback: one KRaft node, for `headrace up` and for tests.

`python -m app.local.kafka` gets everything ready ahead of time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import click
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from app.local.kafka_home import KafkaHome, Say, kafka_home, locked, properties_text
from app.local.process import LocalProcess, free_port, tied
from schemas.errors import HeadraceError, ServiceMissing

# What a coordinator answers while it is being set up.
_NOT_YET = (
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError._TIMED_OUT,
)


class LocalKafka(LocalProcess):
    """One Kafka node. Use it as a context manager, or `start`, `stop`, `kill` and `restart` it.

    data: its folder; what was acknowledged there survives `kill` and is there at the next start. port: None for any
    free one, kept over restarts. extra: properties of the broker beside those of the template. doors: further ports it
    listens on → the port that clients who come that way are told to use: that of a proxy in front of the door.
    home: see `prepare`; None prepares silently. Start it from a thread that lives as long as it should. Killed, Kafka
    may empty a partition of a topic that was made less than about 0.1 s before.
    """

    stop_s = 10.0

    def __init__(
        self,
        data: Path,
        port: int | None = None,
        *,
        heap_mb: int = 256,
        extra: dict[str, str] | None = None,
        doors: Mapping[int, int] | None = None,
        home: KafkaHome | None = None,
    ) -> None:
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._controller_port = free_port()
        self._data = data.resolve()
        self._home = home or prepare()
        self._heap_mb = heap_mb
        self._extra = {**(extra or {}), **self._listeners(doors or {})}

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process else None

    @property
    def log(self) -> Path:
        """What the broker writes."""
        return self._data / "kafka.log"

    def start(self, within_s: float = 60, jvm_options: tuple[str, ...] = ()) -> None:
        """Start and wait until it serves records and consumer groups. Raises ServiceMissing if it does not.

        0.8-4 s; 3 s more after `kill`, when the old registration has to expire first.
        """
        logs, properties = self._data / "log", self._data / "server.properties"
        if not (logs / "meta.properties").exists():
            self._home.format(logs)
        properties.write_text(properties_text(self.port, self._controller_port, logs, self._extra))
        archive = self._home.archive
        options = jvm_options or ((f"-XX:SharedArchiveFile={archive}",) if archive.exists() else ())
        heap = (f"-Xmx{self._heap_mb}m", f"-Xms{min(128, self._heap_mb)}m")
        command = self._home.command("kafka.Kafka", str(properties), options=(*options, *heap))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                tied(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        try:
            self._wait_until_it_serves(time.monotonic() + within_s)
        except BaseException:
            self.kill()
            raise

    def restart(self) -> None:
        """Stop, if it runs, and start again with the same address and data."""
        self.stop()
        self.start()

    def _listeners(self, doors: Mapping[int, int]) -> dict[str, str]:
        """The properties of the doors; each is a listener of its own, as only a listener tells its own address."""
        if not doors:
            return {}
        own = f"PLAINTEXT://{self.address}"
        inner = [own, f"CONTROLLER://127.0.0.1:{self._controller_port}"]
        inner += [f"DOOR{port}://127.0.0.1:{port}" for port in doors]
        told = [own, *(f"DOOR{port}://127.0.0.1:{outer}" for port, outer in doors.items())]
        names = ("PLAINTEXT", "CONTROLLER", *(f"DOOR{port}" for port in doors))
        return {
            "listeners": ",".join(inner),
            "advertised.listeners": ",".join(told),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in names),
        }

    def _wait_until_it_serves(self, deadline: float) -> None:
        admin = AdminClient(
            {
                "bootstrap.servers": self.address,
                "log_level": 0,
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 100,
            }
        )
        while not _has_broker(admin):
            self._check(deadline)
        # The first question about a group makes the topic of offsets: without it the first consumer waits 1-3 s.
        while not _has_coordinator(admin):
            self._check(deadline)
            time.sleep(0.02)

    def _check(self, deadline: float) -> None:
        assert self._process is not None
        status = self._process.poll()
        if status is None and time.monotonic() < deadline:
            return
        lines = self.log.read_text(errors="replace").splitlines()
        happened = "does not answer" if status is None else f"ended with status {status}"
        raise ServiceMissing(
            f"the local Kafka {happened}: {' / '.join(lines[-3:]) or 'it said nothing'} (see {self.log})"
        )


def prepare(say: Say = lambda _: None) -> KafkaHome:
    """Fetch Kafka if need be, and write the JVM's class archive once (6-10 s), which halves every later start.

    Raises ServiceMissing if java or mvn is absent.
    """
    home = kafka_home(say)
    if not home.archive.exists():
        with locked(home.folder):
            if not home.archive.exists():
                _write_archive(home, say)
    return home


def _write_archive(home: KafkaHome, say: Say) -> None:
    say("writing a class archive, so that Kafka starts faster from now on (once)")
    with tempfile.TemporaryDirectory(dir=home.folder) as work:
        written = Path(work) / "classes.jsa"
        kafka = LocalKafka(Path(work) / "data", home=home)
        try:
            kafka.start(jvm_options=(f"-XX:ArchiveClassesAtExit={written}",))
        finally:
            kafka.stop(within_s=60)  # the JVM writes it at its end
        if written.exists():
            written.rename(home.archive)
        else:
            say("this JVM writes none; Kafka will start more slowly")


def _has_broker(admin: AdminClient) -> bool:
    try:
        return bool(admin.list_topics(timeout=0.5).brokers)
    except KafkaException:
        return False


def _has_coordinator(admin: AdminClient) -> bool:
    try:
        admin.describe_consumer_groups(["warm"], request_timeout=2)["warm"].result()
    except KafkaException as error:
        if error.args[0].code() in _NOT_YET:
            return False
    return True


def _main() -> None:
    began = time.monotonic()
    try:
        home = prepare(click.echo)
    except HeadraceError as error:
        sys.exit(f"headrace: {error}")
    click.echo(f"Kafka is ready in {home.folder} ({time.monotonic() - began:.1f} s)")


if __name__ == "__main__":
    _main()
