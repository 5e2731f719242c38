"""The set-up script: which Python it takes, when it does nothing, what it tells uv. No registry is needed."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def install(tmp_path: Path) -> ModuleType:
    """The script, as if it lay in a folder of its own whose name has a space."""
    folder = tmp_path / "a folder"
    (folder / "requirements").mkdir(parents=True)
    for name in ("bootstrap", "base", "dev", "clients", "clients-built"):
        (folder / "requirements" / f"{name}.txt").write_text("one==1 \\\n    --hash=sha256:0\n")
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(ROOT / "install.py", folder)
    spec = importlib.util.spec_from_file_location("observator_install", folder / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _record(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let the steps be written down instead of run; the environment appears as if it had been made."""
    steps: list[list[str]] = []

    def run(command: list[object], _problem: str, _environ: object = None) -> None:
        steps.append([str(part) for part in command])
        install.BIN.mkdir(parents=True, exist_ok=True)
        if not (install.BIN / "python").exists():
            (install.BIN / "python").symlink_to(sys.executable)

    monkeypatch.setattr(install, "run", run)
    monkeypatch.setattr(install, "warm_imports", lambda: None)
    return steps


def test_it_installs_by_hash_then_itself_and_is_done_at_once_the_second_time(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = _record(install, monkeypatch)
    assert install.main([]) == 0
    made, bootstrap, packages, itself = steps
    assert made[1:3] == ["-m", "venv"]
    assert bootstrap[1:4] == ["-m", "pip", "install"]
    assert "--require-hashes" in bootstrap
    assert {"--require-hashes", "--only-binary"} <= set(packages)
    assert "--require-hashes" not in itself
    assert {"--no-deps", "--no-build-isolation", "-e"} <= set(itself)

    steps.clear()
    assert install.main([]) == 0
    assert steps == []
    assert "already" in capsys.readouterr().out

    assert install.main(["--dev", "--no-browser"]) == 0  # the environment stays, the set grows
    own, clients = steps[:2], steps[2:]
    assert [step[:2] for step in own] == [[str(install.BIN / "uv"), "pip"]] * 2
    assert str(install.CLIENTS) in clients[0]
    assert all(str(install.CLIENTS / "bin" / "python") in step for step in clients[1:])
    assert all("--require-hashes" in step for step in clients[1:])
    steps.clear()
    assert install.main([]) == 0  # dev holds base
    assert install.main(["--dev", "--no-browser"]) == 0
    assert steps == []


def test_a_client_that_cannot_be_compiled_is_said_and_tried_again(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _record(install, monkeypatch)
    record = install.run

    def run(command: list[object], problem: str, environ: object = None) -> None:
        record(command, problem, environ)
        if "--no-build-isolation" in command and "--require-hashes" in command:
            raise install.SetupError(f"{problem}.")

    monkeypatch.setattr(install, "run", run)
    for _ in range(2):
        assert install.main(["--dev", "--no-browser"]) == 0
        assert "cryptofeed could not be compiled" in capsys.readouterr().out
    assert not install.CLIENTS_STAMP.exists()


@pytest.mark.parametrize("changed", ["requirements/base.txt", "pyproject.toml"])
def test_a_changed_lock_or_project_installs_again(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    steps = _record(install, monkeypatch)
    install.main([])
    steps.clear()
    with (install.ROOT / changed).open("a") as file:
        file.write("\n# newer\n")
    install.main([])
    assert [step[2] for step in steps] == ["install", "install"]
    assert not any("venv" in step for step in steps)


def test_an_interrupted_run_starts_over(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = _record(install, monkeypatch)
    install.main([])
    install.STAMP.write_text("{")
    steps.clear()
    install.main([])
    assert len(steps) == 3
    stamp = json.loads(install.STAMP.read_text())
    stamp["venv"] = "/elsewhere/.venv 3.11"
    install.STAMP.write_text(json.dumps(stamp))
    steps.clear()
    install.main([])  # the folder was moved: its scripts name the old place
    assert "--clear" in steps[0]


def test_a_step_that_fails_is_one_sentence_and_code_1(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install.sys, "executable", "/no/such/python")
    assert install.main([]) == 1
    assert "The environment could not be made" in capsys.readouterr().out
    assert not install.STAMP.exists()


@pytest.mark.parametrize("version", [(3, 10), (3, 14), (2, 7)])
def test_a_python_that_does_not_fit_is_told_which_to_install(install: ModuleType, version: tuple[int, int]) -> None:
    with pytest.raises(install.SetupError, match=r"needs 3\.11, 3\.12 or 3\.13: install one"):
        install.check_python(version)
    install.check_python((3, 12))


def test_uv_is_told_what_pip_is_told(install: ModuleType, tmp_path: Path) -> None:
    settings = "\n".join(
        (
            "global.index-url='https://packages.example/simple'",
            ":env:.extra-index-url='https://one.example https://two.example'",
            f"global.find-links='{tmp_path} /no/such/folder'",
            "global.cert='/etc/certs.pem'",
            "global.timeout='30'",
            "global.disable-pip-version-check='1'",
            "unreadable",
        )
    )
    assert install.uv_environment(settings, {"UV_HTTP_TIMEOUT": "5"}) == {
        "UV_DEFAULT_INDEX": "https://packages.example/simple",
        "UV_INDEX": "https://one.example https://two.example",
        "UV_FIND_LINKS": str(tmp_path),
        "SSL_CERT_FILE": "/etc/certs.pem",
    }


def test_without_a_browser_and_without_the_right_to_install_one_it_says_so(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install.shutil, "which", lambda _name: None)
    install.bring_browser(install.Steps())
    assert "page's tests will be skipped" in capsys.readouterr().out
    monkeypatch.setattr(install.shutil, "which", lambda name: name)
    install.bring_browser(install.Steps())
    assert capsys.readouterr().out == ""


def _make(folder: Path, target: str, pythons: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run make with nothing but the given scripts as Pythons."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("sh", "sed"):
        (tools / name).symlink_to(shutil.which(name) or "")
    for name, script in pythons.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    shutil.copy(ROOT / "Makefile", folder)
    make = shutil.which("make")
    assert make is not None
    return subprocess.run(
        [make, target], cwd=folder, env={"PATH": str(tools)}, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_takes_the_first_python_that_runs(tmp_path: Path) -> None:
    works = 'case "$1" in -c) exit 0;; *) echo "13 runs $*";; esac'
    done = _make(tmp_path, "setup", {"python3": "exit 127", "python3.13": works, "python3.11": "echo wrong"})
    assert done.stdout == "13 runs install.py\n"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_says_in_one_line_which_python_to_install(tmp_path: Path) -> None:
    done = _make(tmp_path, "setup-dev", {"python3": "exit 1"})
    assert done.returncode != 0
    first = done.stderr.splitlines()[0]
    assert "install Python 3.11, 3.12 or 3.13 with its venv module" in first


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_help_and_the_check_of_a_service(tmp_path: Path) -> None:
    done = _make(tmp_path, "help", {})
    assert "make demo [SECONDS=60]" in done.stdout
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "make test" in (ROOT / ".ci" / "run").read_text()
