"""What a local Kafka is run from: jars from Maven Central, fetched once into the user's cache folder."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ServiceMissing

_DATA = Path(__file__).parent / "kafka"
POM = _DATA / "pom.xml"
INSTALL = (
    "install them (apt-get install -y --no-install-recommends default-jre-headless maven), "
    "or set HEADRACE_BROKERS to a Kafka that runs"
)
# A broker of one node starts in 1.5-4 s with these and in 4-7 s with the JVM's defaults; throughput is the same.
JVM_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xlog:cds=off", "-Xlog:cds+dynamic=off")
MAVEN_COPY = ("-B", "-ntp", "-q", "dependency:copy-dependencies", "-DincludeScope=runtime")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class KafkaHome:
    """A Kafka that is ready to run. archive: where the JVM's class archive is, or would be (see `kafka.prepare`)."""

    java: str
    folder: Path

    @property
    def archive(self) -> Path:
        """Depends on the very JVM, so its name does."""
        java = Path(self.java).resolve()
        key = hashlib.sha256(f"{java} {java.stat().st_mtime_ns}".encode()).hexdigest()[:12]
        return self.folder / f"classes-{key}.jsa"

    def command(self, main: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        """A Java program of Kafka's."""
        log4j = f"-Dlog4j2.configurationFile={_DATA / 'log4j2.xml'}"
        return [self.java, *JVM_OPTIONS, *options, log4j, "-cp", f"{self.folder / 'libs'}/*", main, *arguments]

    def format(self, logs: Path) -> None:
        """Make a data folder. Copies what Kafka's own StorageTool wrote once: another JVM start would take 1.5 s."""
        logs.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / "formatted" / "bootstrap.checkpoint", logs)
        properties = {"version": "1", "node.id": "1", "cluster.id": random_id(), "directory.id": random_id()}
        # written last: it is what makes the folder a formatted one
        (logs / "meta.properties").write_text("".join(f"{name}={value}\n" for name, value in properties.items()))


def properties_text(port: int, controller_port: int, logs: Path, extra: dict[str, str]) -> str:
    """server.properties of one node; `extra` comes last and wins."""
    template = (_DATA / "server.properties").read_text()
    filled = template.format(port=port, controller_port=controller_port, logs=logs)
    return filled + "".join(f"{name}={value}\n" for name, value in extra.items())


def random_id() -> str:
    """An id in Kafka's form: 128 bits, base64 without padding; never one that starts with a dash."""
    return base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:])[:22].decode()


def kafka_version() -> str:
    """The version in the pom.xml beside this file."""
    found = re.search(r"<kafka.version>(.+?)</kafka.version>", POM.read_text())
    assert found is not None
    return found[1]


def cache_folder() -> Path:
    """Where the jars are kept: `$XDG_CACHE_HOME` or `~/.cache`, `headrace/kafka-<version>`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "headrace" / f"kafka-{kafka_version()}"


def kafka_home(say: Say) -> KafkaHome:
    """A Kafka from the cache, fetched into it first if need be (5-15 s, 45 MB, once).

    say: gets a line of progress when there is something to wait for. Processes that ask at the same time wait for
    the first. Raises ServiceMissing if java or mvn is absent or Maven fails.
    """
    java = shutil.which("java")
    if java is None:
        raise ServiceMissing(f"a local Kafka needs Java 17 or newer, and `java` is not on the path: {INSTALL}")
    home = KafkaHome(java, cache_folder())
    if not _is_complete(home.folder):
        with locked(home.folder):
            if not _is_complete(home.folder):
                _fetch(home, say)
    return home


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time works in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_complete(folder: Path) -> bool:
    return (folder / "formatted" / "bootstrap.checkpoint").exists()  # the last thing that `_fetch` puts in place


def _fetch(home: KafkaHome, say: Say) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise ServiceMissing(f"a local Kafka is fetched by Maven, and `mvn` is not on the path: {INSTALL}")
    say(f"fetching Kafka {kafka_version()} from Maven Central into {home.folder} (45 MB, once)")
    with tempfile.TemporaryDirectory(dir=home.folder) as work:
        libs = Path(work) / "libs"
        _run(
            [maven, *MAVEN_COPY, "-f", str(POM), f"-DoutputDirectory={libs}"],
            "Maven could not fetch Kafka",
        )
        shutil.rmtree(home.folder / "libs", ignore_errors=True)
        libs.rename(home.folder / "libs")
        logs, properties = Path(work) / "formatted", Path(work) / "server.properties"
        properties.write_text(properties_text(9092, 9093, logs, {}))
        format_command = home.command("kafka.tools.StorageTool", "format", "-t", random_id(), "-c", str(properties))
        _run(format_command, "Kafka's StorageTool failed")
        shutil.rmtree(home.folder / "formatted", ignore_errors=True)
        logs.rename(home.folder / "formatted")


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ServiceMissing(f"{failure} (status {done.returncode}): {' / '.join(lines[:3])}")
