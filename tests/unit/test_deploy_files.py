"""What can be known of the deploy files without a Docker engine."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from app.local.kafka_home import kafka_version
from app.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
ROLES = {"embed": "HEADRACE_EMBED_PORT", "index": "HEADRACE_INDEX_PORT", "search": "HEADRACE_PORT"}
SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return dict(loaded["services"])


def test_compose_file_is_valid_by_the_specification() -> None:
    # the schema comes with check-jsonschema, whose command wants another click than Faust does
    package = importlib.util.find_spec("check_jsonschema")
    assert package is not None
    folder = Path((package.submodule_search_locations or [""])[0])
    schema = json.loads((folder / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())

    jsonschema.validators.validator_for(schema)(schema).validate(yaml.safe_load(COMPOSE.read_text()))


def test_dockerfile_has_no_errors() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")

    done = subprocess.run(
        [hadolint, "--failure-threshold", "error", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_is_in_the_wheel() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = ("app", "consumers", "producers", "schemas")
    found = [file.parent.relative_to(ROOT) for name in folders for file in (ROOT / name).rglob("__init__.py")]

    assert sorted(packages) == sorted(".".join(folder.parts) for folder in found)


def test_every_setting_in_the_deploy_files_exists(services: dict[str, Any]) -> None:
    in_compose = {name for service in services.values() for name in service.get("environment", {})}
    in_dockerfile = set(re.findall(r"HEADRACE_\w+", DOCKERFILE.read_text()))

    named = {name for name in in_compose | in_dockerfile if name.startswith(PREFIX)}
    assert len(named) > 8
    assert named <= SETTINGS


def test_settings_of_the_compose_file_are_accepted(services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for role in ROLES:
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(PREFIX)]:
                patch.delenv(name)
            for name, value in services[role]["environment"].items():
                patch.setenv(name, re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value)))
            Settings(_env_file=None)


def test_every_published_port_is_bound_to_this_machine(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]

    assert len(ports) >= 6
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_kafka_is_the_one_that_the_tests_run_on(services: dict[str, Any]) -> None:
    assert services["kafka"]["image"] == f"apache/kafka:{kafka_version()}"


def test_every_role_is_asked_for_readiness_on_the_port_it_serves(services: dict[str, Any]) -> None:
    for role, setting in ROLES.items():
        environment = services[role]["environment"]
        assert environment["READY_PORT"] == environment[setting]
        assert services[role]["ports"] == [f"127.0.0.1:{environment[setting]}:{environment[setting]}"]
    assert "/readyz" in DOCKERFILE.read_text()


def test_what_is_waited_for_can_tell_that_it_is_ready(services: dict[str, Any]) -> None:
    for service in services.values():
        needs = service.get("depends_on", {})
        for name, need in needs.items() if isinstance(needs, dict) else ():
            if need["condition"] == "service_healthy":
                assert "test" in services[name]["healthcheck"]
            else:
                assert need["condition"] == "service_completed_successfully"
                assert services[name]["restart"] == "on-failure"


def test_every_volume_that_is_used_is_declared(services: dict[str, Any]) -> None:
    used = {volume.partition(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    named = {source for source in used if not source.startswith("./")}

    assert named == set(yaml.safe_load(COMPOSE.read_text())["volumes"])
    assert [source for source in used - named if not (ROOT / source).exists()] == []


def test_everything_that_the_dockerfile_copies_exists_and_is_not_ignored() -> None:
    copied = [
        source
        for line in DOCKERFILE.read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert source in allowed


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for top in ("app", "consumers", "producers", "schemas")
        for file in (ROOT / top).rglob("__init__.py")
    }

    assert set(listed) == there


@pytest.mark.parametrize("script", [".ci/run", "deploy/setup.sh"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / script

    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert "set -euo pipefail" in path.read_text()


def test_make_lists_its_targets() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)

    assert {"demo", "test", "check", "lint", "clean"} <= {line.split()[1] for line in done.stdout.splitlines()}
