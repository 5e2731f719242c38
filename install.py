"""Sets OBservator up in `.venv` from nothing but a Python: `make setup` and `make setup-dev` call it.

Standard library only. Safe to repeat, and done at once where nothing changed. Never installs what is not pinned by
hash in `requirements/`; the registry is whichever pip is set to use on this machine.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
STAMP = VENV / "observator-setup.json"
CLIENTS = VENV / "clients"
CLIENTS_STAMP = CLIENTS / "observator-setup.txt"
"""Other people's clients of the exchange, which the tests start: they cannot share our packages' versions."""
LOWEST, HIGHEST = (3, 11), (3, 13)
BROWSER_PACKAGES = ("chromium", "fonts-noto-cjk")
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
    "trusted-host": "UV_INSECURE_HOST",
    "no-index": "UV_NO_INDEX",
}
"""What uv calls pip's settings; uv reads neither pip's files nor its variables."""
HEAVY_IMPORTS = (
    "streamlit, plotly.graph_objects, pandas, pyarrow.parquet",
    "numba, sklearn.linear_model, faust, aiokafka, sqlmodel, confluent_kafka.admin, pydantic_settings, typer",
)
"""Imported once after installing, side by side: else every process of the first start would compile them for itself."""


class SetupError(Exception):
    """A step went wrong; the message is a sentence for the person at the terminal."""


class Steps:
    """Says what is being done and how many seconds have passed."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line."""
        print(f"[{time.monotonic() - self._begin:6.1f} s] {text}", flush=True)


def main(arguments: list[str]) -> int:
    """Install the base set, or with `--dev` what the tests need as well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dev", action="store_true", help="what the tests need, too")
    parser.add_argument("--no-browser", action="store_true", help="with --dev: leave the machine's packages alone")
    options = parser.parse_args(arguments)
    steps = Steps()
    try:
        check_python(sys.version_info[:2])
        install(steps, "dev" if options.dev else "base")
        if options.dev:
            bring_clients(steps)
        if options.dev and not options.no_browser:
            bring_browser(steps)
    except SetupError as error:
        steps.say(str(error))
        return 1
    return 0


def check_python(version: tuple[int, int]) -> None:
    """Refuse a Python that the pinned packages do not know."""
    if not LOWEST <= version <= HIGHEST:
        has = ".".join(map(str, version))
        raise SetupError(
            f"This is Python {has}; OBservator needs 3.11, 3.12 or 3.13: install one (for example `apt install python3 "
            "python3-venv`) and run `make setup` again."
        )


def install(steps: Steps, name: str) -> None:
    """Make `.venv` hold the set `name`; nothing is run when the stamp says that it does."""
    wanted = fingerprint()
    stamp = read_stamp()
    is_same_venv = stamp.get("venv", wanted["venv"]) == wanted["venv"] and venv_version() == sys.version_info[:2]
    if is_same_venv and all(stamp.get(part) == wanted[part] for part in ("project", name)):
        steps.say(f"the {name} set is installed already")
        return
    if not is_same_venv:
        steps.say(f"making {VENV} with Python {sys.version.split()[0]}")
        run(
            [sys.executable, "-m", "venv", "--clear", VENV],
            "The environment could not be made (on Debian and Ubuntu the package python3-venv is needed)",
        )
    STAMP.unlink(missing_ok=True)
    if not is_same_venv or stamp.get("bootstrap") != wanted["bootstrap"]:
        steps.say("installing the installer (uv)")
        run(
            [BIN / "python", "-m", "pip", "install", "-q", "--require-hashes", "-r", lock("bootstrap")],
            "The installer could not be fetched; check the connection to the Python registry and run this again",
        )
    count = sum(1 for line in lock(name).read_text().splitlines() if line[:1].isalnum())
    steps.say(f"installing {count} packages, each checked by its hash")
    uv(
        ["--only-binary", ":all:", "--require-hashes", "-r", lock(name)],
        "The packages could not be installed; check the connection to the Python registry and run this again",
    )
    steps.say("installing OBservator itself")
    uv(["--no-deps", "--no-build-isolation", "-e", ROOT], "OBservator itself could not be installed")
    steps.say("compiling what every process imports")
    warm_imports()
    kept = {part: stamp[part] for part in ("base", "dev") if is_same_venv and stamp.get(part) == wanted[part]}
    done = {"venv", "bootstrap", "project", name, *(("base",) if name == "dev" else ())}
    STAMP.write_text(json.dumps({**kept, **{part: wanted[part] for part in done}}, indent=1) + "\n")
    steps.say(f"the {name} set is installed")


def fingerprint() -> dict[str, str]:
    """What an installation depends on: where it lies, its Python, the locks, the project's own file."""
    files = {
        "bootstrap": lock("bootstrap"),
        "base": lock("base"),
        "dev": lock("dev"),
        "project": ROOT / "pyproject.toml",
    }
    found = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    return {"venv": f"{VENV} {sys.version_info[0]}.{sys.version_info[1]}", **found}


def lock(name: str) -> Path:
    """The file with the pinned packages of a set."""
    return ROOT / "requirements" / f"{name}.txt"


def read_stamp() -> dict[str, str]:
    """What the last complete run left."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def venv_version() -> tuple[int, ...]:
    """The version of the environment's own Python; nothing where it does not run (the machine's may be gone since)."""
    command: list[str | Path] = [BIN / "python", "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    except OSError:
        return ()
    return tuple(map(int, done.stdout.split())) if done.returncode == 0 else ()


def uv(arguments: list[str | Path], problem: str, venv: Path = VENV) -> None:
    """Install with uv into an environment, from the registry that pip uses."""
    quiet = [] if sys.stderr.isatty() else ["-q"]
    command = [BIN / "uv", "pip", "install", "--python", venv / "bin" / "python", *quiet, *arguments]
    environ = {**uv_environment(pip_settings(), dict(os.environ)), **os.environ}
    try:
        run(command, problem, environ)
    except SetupError:  # a registry behind the machine's own certificates, or a connection that broke once
        print("once more, with the certificates of this machine", flush=True)
        run(command, problem, {"UV_SYSTEM_CERTS": "1", **environ})


def warm_imports() -> None:
    """Let Python write its byte code now; what cannot be imported says so itself when it is used."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    commands = [[str(BIN / "python"), "-W", "ignore", "-c", f"import {names}"] for names in HEAVY_IMPORTS]
    started = [
        subprocess.Popen(command, env=environ, cwd=VENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - our own commands
        for command in commands
    ]
    for process in started:
        process.wait()


def pip_settings() -> str:
    """What pip is set to on this machine: files and variables."""
    command = [str(BIN / "python"), "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    return done.stdout


def uv_environment(settings: str, environ: dict[str, str]) -> dict[str, str]:
    """Pip's settings in uv's words; what is set for uv itself in `environ` is not returned, hence stays."""
    found: dict[str, str] = {}
    for line in settings.splitlines():
        name, _, value = line.partition("=")
        translated = UV_NAMES.get(name.rsplit(".", 1)[-1])
        if translated is None or translated in environ:
            continue
        try:
            text = str(ast.literal_eval(value))
        except (ValueError, SyntaxError):
            text = value
        parts = text.split()
        if translated == "UV_FIND_LINKS":
            parts = [part for part in parts if ":" in part or Path(part).is_dir()]
        if parts:
            found[translated] = (",".join if translated == "UV_FIND_LINKS" else " ".join)(parts)
    return found


def run(command: list[str | Path], problem: str, environ: dict[str, str] | None = None) -> None:
    """Run one step; its own words stay visible when it fails."""
    try:
        code = subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode  # noqa: S603 - our own command
    except OSError as error:
        raise SetupError(f"{problem}: {error}.") from error
    if code != 0:
        raise SetupError(f"{problem} (its own words stand above).")


def bring_clients(steps: Steps) -> None:
    """Install the clients that the tests of the sandbox exchange start; one of them has to be compiled."""
    locks = lock("clients"), lock("clients-built")
    wanted = " ".join([fingerprint()["venv"], *(hashlib.sha256(file.read_bytes()).hexdigest() for file in locks)])
    if CLIENTS_STAMP.exists() and CLIENTS_STAMP.read_text() == wanted:
        steps.say("the clients are installed already")
        return
    steps.say(f"installing other people's clients into {CLIENTS} and compiling one (half a minute)")
    run([sys.executable, "-m", "venv", "--clear", "--without-pip", CLIENTS], "Their environment could not be made")
    uv(
        ["--only-binary", ":all:", "--require-hashes", "-r", locks[0]],
        "The clients could not be installed; check the connection to the Python registry and run this again",
        CLIENTS,
    )
    try:
        uv(["--no-build-isolation", "--no-deps", "--require-hashes", "-r", locks[1]], "It needs a C compiler", CLIENTS)
    except SetupError as error:
        steps.say(f"cryptofeed could not be compiled, so its test will be skipped. {error}")
        return
    CLIENTS.mkdir(parents=True, exist_ok=True)
    CLIENTS_STAMP.write_text(wanted)
    steps.say("the clients are installed")


def bring_browser(steps: Steps) -> None:
    """Install the browser of the page's tests where that is ours to do; its absence skips those tests, no more."""
    if shutil.which("chromium"):
        return
    apt = shutil.which("apt-get")
    if os.geteuid() != 0 or apt is None:
        steps.say(
            f"no browser here: the page's tests will be skipped (install {' and '.join(BROWSER_PACKAGES)} for them)"
        )
        return
    steps.say(f"installing {' and '.join(BROWSER_PACKAGES)} for the page's tests")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = [apt, "install", "-y", "-qq", "--no-install-recommends", *BROWSER_PACKAGES]
    for step in ([apt, "update", "-qq"], command):
        done = subprocess.run(step, env=environ, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
        if done.returncode != 0 and step is command:
            steps.say(f"no browser could be installed: the page's tests will be skipped ({done.stderr.strip()[-300:]})")
            return
    steps.say("the browser is installed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
