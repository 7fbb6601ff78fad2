"""The three roles as children, and the settings that tie them together."""

from __future__ import annotations

from collections.abc import Mapping

from app.local.children import Child
from app.local.process import free_port, headrace_command
from app.settings import PREFIX, Settings

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}  # noqa: S104


def environment_of(values: Mapping[str, object]) -> dict[str, str]:
    """Settings by name → variables. None and empty become an empty variable, which hides `.env` as well."""
    return {PREFIX + name.upper(): "" if value is None else str(value) for name, value in values.items()}


def with_ports(settings: Settings) -> Settings:
    """The same settings with a free port wherever 0 asks for any."""
    names = ("embed_port", "index_port", "port")
    return settings.model_copy(update={name: getattr(settings, name) or free_port() for name in names})


def roles(settings: Settings, environment: Mapping[str, str]) -> list[Child]:
    """embed, index and search, in the order of the flow; `settings` has no port 0 (see `with_ports`)."""
    ports = {name: getattr(settings, name) for name in ("embed_port", "index_port", "port")}
    index_urls = settings.index_urls or (index_url(settings),)
    full = {**environment, **environment_of({**ports, "index_urls": ",".join(index_urls)})}
    return [
        Child("embed", headrace_command("embed"), full, _url(settings.embed_host, settings.embed_port) + "/readyz"),
        Child("index", headrace_command("index"), full, _url(settings.index_host, settings.index_port) + "/readyz"),
        Child("search", headrace_command("serve"), full, gateway_url(settings) + "/readyz"),
    ]


def index_url(settings: Settings) -> str:
    """Where the gateway reaches the index worker."""
    return settings.index_url or _url(settings.index_host, settings.index_port)


def gateway_url(settings: Settings) -> str:
    """Where people on this machine reach the gateway."""
    return _url(settings.host, settings.port)


def _url(host: str, port: int) -> str:
    return f"http://{_WILDCARDS.get(host, host)}:{port}"
