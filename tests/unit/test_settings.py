"""Settings: where a value comes from, what is refused, and what nobody gets to see."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from app.settings import PREFIX, Settings, load_settings, setting_rows
from schemas.errors import SettingsError

SECRET = "s3cret-Wort"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, and no setting in the environment."""
    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def row(name: str, **flags: Any) -> tuple[str, str]:
    """Value and source as `headrace settings` shows them."""
    rows = {item.name: item for item in setting_rows(load_settings(**flags), flags)}
    return rows[name].value, rows[name].source


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert row("partitions") == ("4", "default")
    (tmp_path / ".env").write_text("HEADRACE_PARTITIONS=5\n")
    assert row("partitions") == ("5", ".env")
    monkeypatch.setenv("HEADRACE_PARTITIONS", "6")
    assert row("partitions") == ("6", "environment")
    assert row("partitions", partitions="7") == ("7", "flag")
    assert row("partitions", partitions=None) == ("6", "environment")


def test_names_of_variables_may_be_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("headrace_Port", "1")
    assert row("port") == ("1", "environment")


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PARTITIONS", "9")
    monkeypatch.setenv("HEADRACE_UNHEARD_OF", "9")
    (tmp_path / ".env").write_text("OTHER=1\nHEADRACE_PORT=9\n")
    assert (row("partitions"), row("port")) == (("4", "default"), ("9", ".env"))


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("partitions", "none", "integer"),
        ("partitions", "0", "greater than or equal to 1"),
        ("port", "65536", "less than or equal to 65535"),
        ("runtime", "cuda", "'reference', 'http' or 'hashing'"),
        ("precision", "int8", "'auto', 'f32' or 'bf16'"),
        ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("kafka_security_protocol", "TLS", "'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'"),
        ("collection", "a/b", "pattern"),
        ("collection", "", "pattern"),
        ("replica", "x" * 101, "pattern"),
        ("tombstone_retention_hours", "24", "greater than or equal to 168"),
        ("redis_url", "localhost:6379", "redis://"),
        ("redis_url", "redis://localhost:port/0", "redis://"),
        ("redis_url", "http://localhost:6379", "redis://"),
    ],
)
@pytest.mark.parametrize("source", ["environment", ".env", "flag"])
def test_an_error_names_the_variable_where_it_was_set_and_what_is_accepted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, accepted: str, source: str
) -> None:
    variable = PREFIX + name.upper()
    if source == "environment":
        monkeypatch.setenv(variable, value)
    elif source == ".env":
        (tmp_path / ".env").write_text(f"{variable}={value}\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(**({name: value} if source == "flag" else {}))
    assert str(caught.value).startswith(f"{variable} ({source}): ")
    assert accepted in str(caught.value)


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(SettingsError, match=r"HEADRACE_PARTITIONS \(flag\).*; HEADRACE_PORT \(flag\)"):
        load_settings(partitions="x", port="y")


def test_an_error_never_shows_the_value_of_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_REDIS_URL", f"http://user:{SECRET}@host")
    monkeypatch.setenv("HEADRACE_KAFKA_SASL_PASSWORD", SECRET)
    monkeypatch.setenv("HEADRACE_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (
            {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_username": "u"},
            ("HEADRACE_KAFKA_SECURITY_PROTOCOL", "HEADRACE_KAFKA_SASL_PASSWORD"),
        ),
        (
            {"max_record_bytes": 2**20, "max_text_bytes": 2**20},
            ("HEADRACE_MAX_RECORD_BYTES", "HEADRACE_MAX_TEXT_BYTES"),
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_all_named(flags: dict[str, Any], named: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(**flags)
    assert all(name in str(caught.value) for name in named)


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    flags: dict[str, Any] = {
        "kafka_sasl_password": SECRET,
        "kafka_ssl_key_password": SECRET,
        "redis_password": SECRET,
        "redis_url": f"rediss://user:{SECRET}@host:6380/1",
        "otlp_endpoint": f"https://user:{SECRET}@collector:4318",
    }
    settings = load_settings(**flags)
    rows = {item.name: item.value for item in setting_rows(settings, flags)}
    assert SECRET not in repr(rows)
    assert rows["redis_url"] == "rediss://***@host:6380/1"
    assert rows["otlp_endpoint"] == "https://***@collector:4318"
    assert {rows[name] for name in ("kafka_sasl_password", "kafka_ssl_key_password", "redis_password")} == {"*" * 10}
    assert settings.redis_password is not None
    assert settings.redis_password.get_secret_value() == SECRET


def test_the_mask_covers_a_password_that_holds_an_at_sign() -> None:
    assert SECRET not in row("redis_url", redis_url=f"redis://user:{SECRET}@{SECRET}@host:1/0")[0]


def test_every_setting_has_a_meaning_and_its_variable() -> None:
    rows = setting_rows(load_settings(), {})
    assert [item.name for item in rows] == list(Settings.model_fields)
    assert all(item.meaning and item.environment == PREFIX + item.name.upper() for item in rows)
    assert {item.source for item in rows} == {"default"}
    assert {item.name: item.unit for item in rows if item.name.endswith("_ms")} == {
        item.name: "ms" for item in rows if item.name.endswith("_ms")
    }


@pytest.mark.parametrize(
    "name", ["redis_url", "otlp_endpoint", "index_url", "embedded_broker_id", "kafka_sasl_username"]
)
def test_an_empty_value_switches_off(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), "")
    assert getattr(load_settings(), name) is None
    assert row(name) == ("", "environment")


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://u:p@h", "unix:///run/redis.sock", "redis://[::1]:6379/0"])
def test_every_kind_of_redis_url_is_taken(url: str) -> None:
    assert load_settings(redis_url=url).redis_url == url


@pytest.mark.parametrize(
    ("value", "urls"),
    [("", ()), ("http://a", ("http://a",)), (" http://a , http://b ,", ("http://a", "http://b"))],
)
def test_index_urls_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch, value: str, urls: tuple[str, ...]) -> None:
    monkeypatch.setenv("HEADRACE_INDEX_URLS", value)
    assert load_settings().index_urls == urls
    assert row("index_urls") == (",".join(urls), "environment")


def test_names_of_topics_and_groups_come_from_the_collection() -> None:
    settings = load_settings(collection="c", replica="r")
    assert (settings.changes_topic, settings.vectors_topic, settings.dlq_topic) == ("c.changes", "c.vectors", "c.dlq")
    assert (settings.embed_group, settings.index_group) == ("c-embed", "c-index-r")


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]
