"""`headrace demo`: everything on this machine, with nothing to install or to clean up."""

from __future__ import annotations

import secrets
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from app.local import broker
from app.local.broker import EmbeddedBroker
from app.local.children import Child, Children
from app.local.console import Console
from app.local.process import free_port, port_is_free, until_stopped
from app.local.redis import INSTALL, LocalRedis, find_redis_server
from app.local.roles import environment_of, gateway_url, roles
from app.local.session import QUERY, first_hit, watch
from app.settings import Settings, load_settings, setting_rows

READY_WITHIN_S = 180
FIRST_HIT_WITHIN_S = 120


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the web page and the API; default 8080.")
@click.option("--documents", default=2000, show_default=True, type=click.IntRange(min=1), help="How many to index.")
@click.option(
    "--keep", type=click.Path(path_type=Path, file_okay=False), help="Keep shard files and logs in this folder."
)
def demo(port: int | None, documents: int, keep: Path | None) -> None:
    """Try it: an embedded broker, an embedded Redis and all three roles, fed with real text.

    The text is the docstrings of Python's standard library and of the installed packages; edits and deletes then
    trickle in. Ctrl-C stops everything and leaves nothing behind.

    The embedded broker is the one inside librdkafka. It is in memory and keeps 5 MB for each of its 4 partitions;
    older records are dropped. Use `headrace up` for more than a few thousand documents.
    """
    console = Console()
    with until_stopped(), ExitStack() as stack:
        folder = _folder(keep, stack)
        kafka = stack.enter_context(EmbeddedBroker())
        console.step(f"embedded broker ready at {kafka.address} (in memory, 5 MB for each of 4 partitions)")
        redis_url = _start_redis(stack, console)
        settings = _settings(port, kafka.address, redis_url, folder, console)
        _warn_about_size(documents, console)

        children = stack.enter_context(Children(folder / "logs", console))
        environment = _environment(settings)
        for role in roles(settings, environment):
            children.start(role)
        console.step("started embed, index and search; the model is being loaded")
        stack.callback(console.step, "stopping")
        children.wait_ready(READY_WITHIN_S)
        console.step("all three are ready")
        children.start(_feed(documents, environment))
        console.step(f"publishing {documents:,} docstrings, then a change every half second")
        hit = first_hit(children, gateway_url(settings), FIRST_HIT_WITHIN_S)
        console.step(
            f"first hit after {console.elapsed_s():.1f} s: {hit['title']} for '{QUERY}'"
            if hit
            else f"no hit within {FIRST_HIT_WITHIN_S} s; the lines above may say why"
        )
        _greet(settings, console)
        watch(children, console, gateway_url(settings))
    console.step(f"stopped; what was kept is in {keep}" if keep else "stopped, nothing is left behind")


def _folder(keep: Path | None, stack: ExitStack) -> Path:
    if keep is None:
        return Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-demo-", ignore_cleanup_errors=True))
        )
    # A broker that forgets everything gives each run another epoch: shard files of an earlier one are of no use.
    folder = keep.resolve() / f"run-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    return folder


def _start_redis(stack: ExitStack, console: Console) -> str | None:
    program = find_redis_server("embedded")
    if program is None:
        console.step(f"no Redis server here, so this runs without one and repeated work is not avoided; {INSTALL}")
        return None
    server = stack.enter_context(LocalRedis(program=program))
    console.step(f"Redis ready at {server.url} ({program.name})")
    return server.url


def _settings(port: int | None, address: str, redis_url: str | None, folder: Path, console: Console) -> Settings:
    """The user's settings, with everything that ties the roles together replaced by what was started here."""
    own = load_settings(port=port)
    level = next(row for row in setting_rows(own, {}) if row.name == "log_level")
    wanted = own.port or free_port()
    if not port_is_free("127.0.0.1", wanted):
        taken, wanted = wanted, free_port()
        console.step(f"port {taken} is taken; using {wanted}")
    return own.model_copy(
        update={
            "brokers": address,
            "embedded_broker_id": secrets.token_hex(8),
            "redis_url": redis_url,
            "data_dir": folder / "data",
            "log_level": "warning" if level.source == "default" else own.log_level,
            "embed_port": free_port(),
            "index_port": free_port(),
            "port": wanted,
            **_FIXED,
        }
    )


# Whatever the environment or .env says about a cluster is not about this one.
_FIXED = {
    "partitions": broker.PARTITIONS,
    "kafka_security_protocol": "PLAINTEXT",
    "redis_password": None,
    "redis_ssl_ca": None,
    "embed_host": "127.0.0.1",
    "index_host": "127.0.0.1",
    "host": "127.0.0.1",
    "index_url": None,
    "index_urls": (),
}
_PASSED = ("brokers", "embedded_broker_id", "redis_url", "data_dir", "log_level", "embed_port", "index_port", "port")


def _environment(settings: Settings) -> dict[str, str]:
    empty_path = {"redis_ssl_ca"}  # an empty path would be the working directory; without TLS it is not read
    names = [name for name in (*_PASSED, *_FIXED) if name not in empty_path and name != "index_urls"]
    return environment_of({name: getattr(settings, name) for name in names})


def _warn_about_size(documents: int, console: Console) -> None:
    if documents > broker.HOLDS_DOCUMENTS:
        console.step(
            f"{documents:,} documents are more than the embedded broker holds (about {broker.HOLDS_DOCUMENTS:,}): it "
            "forgets its oldest records. Running shards keep what they have; what was not read by then is lost, and so "
            "is the past for a shard that starts anew. `headrace up` has a real Kafka"
        )


def _feed(documents: int, environment: dict[str, str]) -> Child:
    return Child("feed", [sys.executable, "-m", "app.local.feed", "--documents", str(documents)], environment)


def _greet(settings: Settings, console: Console) -> None:
    url = gateway_url(settings)
    own = f"HEADRACE_BROKERS={settings.brokers} HEADRACE_EMBEDDED_BROKER_ID={settings.embedded_broker_id}"
    body = f'{{"query": "{QUERY}", "k": 3}}'
    for line in (
        "",
        f"  Open {url}/ in a browser, or:",
        "",
        f"    curl -s {url}/search -d '{body}'",
        f"    headrace search --url {url} '{QUERY}'",
        f"    {own} headrace publish FILE",
        "",
        "  Ctrl-C stops everything.",
        "",
    ):
        console.say(line)
