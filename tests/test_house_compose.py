"""`docker-compose.yml` cannot be run without a container engine: it is compared with what is run here."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import procfile, supervisor
from infra.configuration import load
from infra.servers import kafka

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_every_process_runs_by_the_same_command() -> None:
    declared = {program.name: list(program.command) for program in procfile.read()}
    kafka_command = declared.pop("kafka")
    assert kafka_command[:2] == ["observator", "process"]  # a service of its own image in compose
    found = {
        name: one["command"] for name, one in SERVICES.items() if one.get("command", [""])[:2] == kafka_command[:2]
    }
    assert found == declared


def test_the_archive_stops_after_all_others() -> None:
    ours = {program.name for program in procfile.read()} - {"kafka", "archive"}
    assert {name for name, one in SERVICES.items() if "archive" in one.get("depends_on", ())} == ours
    assert int(SERVICES["archive"]["stop_grace_period"].rstrip("s")) > supervisor.ARCHIVE_STOP_S


def test_what_nothing_uses_yet_does_not_start_by_itself() -> None:
    by_default = {name for name, service in SERVICES.items() if not service.get("profiles")}
    assert by_default == {program.name for program in procfile.read()} | {"net", "topics"}


def test_the_broker_has_the_settings_of_our_own() -> None:
    environment = SERVICES["kafka"]["environment"]
    assert SERVICES["kafka"]["image"].endswith(f":{kafka.VERSION}")
    placed_otherwise = {"listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs"}
    for line in kafka._PROPERTIES.splitlines():
        name, value = line.split("=", 1)
        if name not in placed_otherwise:
            assert environment["KAFKA_" + name.upper().replace(".", "_")] == value


def test_its_settings_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    environment = dict(SERVICES["feed"]["environment"])
    assert environment["OBSERVATOR_FEED__KIND"] == "${FEED:-synthetic}"
    for name, value in (environment | {"OBSERVATOR_FEED__KIND": "synthetic"}).items():
        monkeypatch.setenv(name, value)
    assert load().kafka.bootstrap == "kafka:9092"
    assert int(SERVICES["net"]["ports"][0].split(":")[-1]) == load().dashboard.port


def test_volumes_and_files_exist() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()


def test_no_secret_and_no_address_of_a_registry() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert not re.search(r"(PASSWORD|SECRET_KEY|ACCESS_KEY): (?!\"\$\{)", text)
    for service in SERVICES.values():
        assert "." not in service["image"].split("/")[0].split(":")[0]


def test_the_image_is_given_every_room() -> None:
    text = (ROOT / "infra" / "docker" / "Dockerfile").read_text()
    for room in ("infra", "streams", "models", "producers", "consumers", "dashboard", "requirements"):
        assert f"COPY --chown=observator {room} {room}\n" in text
    for file in ("pyproject.toml", "install.py", "README.md", "LICENSE", "Procfile", "observator.py"):
        assert file in text
