"""The locks and the page of dependencies agree with `pyproject.toml`, checked without a registry."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUN = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
TEST = [Requirement(text) for text in PROJECT["dependency-groups"]["dev"]]
BOOTSTRAP = [Requirement("uv"), *map(Requirement, PROJECT["build-system"]["requires"])]
CLIENTS = [Requirement(text) for text in PROJECT["dependency-groups"]["clients"]]
BUILT = [one for one in CLIENTS if one.name == "cryptofeed"]
SETS = {
    "bootstrap": BOOTSTRAP,
    "base": RUN,
    "dev": RUN + TEST,
    "clients": [one for one in CLIENTS if one not in BUILT],
    "clients-built": BUILT,
}


def _blocks(name: str) -> list[str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return [block for block in re.split(r"\n(?! )", text) if block.strip()]


def _pins(name: str) -> dict[str, Requirement]:
    found = [Requirement(block.split("--hash")[0].replace("\\", "").strip()) for block in _blocks(name)]
    return {canonicalize_name(pin.name): pin for pin in found}


def _version(pin: Requirement) -> str:
    (only,) = pin.specifier
    assert only.operator == "=="
    return only.version


@pytest.mark.parametrize("name", SETS)
def test_every_dependency_is_satisfied_by_its_pin(name: str) -> None:
    pins = _pins(name)
    for wanted in SETS[name]:
        pin = pins.get(canonicalize_name(wanted.name))
        assert pin is not None, f"{wanted} has no pin in requirements/{name}.txt: run `make locks`"
        assert wanted.specifier.contains(_version(pin), prereleases=True), f"{wanted} against {pin}: run `make locks`"


@pytest.mark.parametrize("name", SETS)
def test_every_pin_has_a_hash_and_no_address(name: str) -> None:
    for block in _blocks(name):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block
        assert "://" not in block
        assert not re.search(r"^-", block), "an option where only pins may stand"


def test_base_is_the_part_of_dev_that_runs() -> None:
    dev = _pins("dev")
    for name, pin in _pins("base").items():
        assert str(dev[name].specifier) == str(pin.specifier), name


def _rows(heading: str) -> list[str]:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    section = page.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE)
    assert all(len(reason) > 10 for _, reason in rows)
    return [name for name, _ in rows]


@pytest.mark.parametrize(
    ("heading", "wanted"),
    [("To run", RUN), ("To test", TEST), ("Clients that the tests start", CLIENTS), ("To install", BOOTSTRAP)],
    ids=lambda value: str(value)[:10],
)
def test_every_direct_dependency_has_its_reason(heading: str, wanted: list[Requirement]) -> None:
    assert sorted(_rows(heading)) == sorted(requirement.name for requirement in wanted)
