"""What a process runs with, as plain values: the content of a `RunManifest`, which opens every run and every change.

Called by the command line, which turns it into the message. Holds no secret: names that look like one are masked.
"""

import hashlib
import json
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

PROJECT = "observator"
MASK = "********"
SECRET_NAMES = re.compile(r"secret|password|token|private|credential|(^|_)key($|_)", re.IGNORECASE)
PASSWORD_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+(?=@)")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One process's conditions. `id` is the hash of everything but the start time, so equal conditions share it."""

    id: str
    process: str
    version: str
    git_sha: str
    lock_hash: str
    kernel_hash: str
    backend: str
    cpu: str
    python: str
    settings: dict[str, str]
    started_ms: int


def make_manifest(
    process: str,
    settings: Mapping[str, Any],
    *,
    started_ms: int,
    root: Path,
    kernel_hash: str = "",
    backend: str = "",
) -> Manifest:
    """Gather it. `settings` is the nested content of the settings, `root` the folder of the checkout."""
    content: dict[str, Any] = {
        "process": process,
        "version": project_version(),
        "git_sha": git_sha(root),
        "lock_hash": file_hash(root / "requirements" / "base.txt"),
        "kernel_hash": kernel_hash,
        "backend": backend,
        "cpu": cpu_model(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "settings": flattened(settings),
    }
    return Manifest(id=content_hash(content), started_ms=started_ms, **content)


def as_fields(manifest: Manifest) -> dict[str, Any]:
    """The fields by name, for `RunManifest(**fields)`."""
    return asdict(manifest)


def project_version() -> str:
    """Version of the installed package; "unknown" in a bare checkout."""
    try:
        return metadata.version(PROJECT)
    except metadata.PackageNotFoundError:
        return "unknown"


def git_sha(root: Path) -> str:
    """Commit of the checkout, with a plus where files differ from it; empty where there is none."""
    try:
        sha = _git(root, "rev-parse", "HEAD")
        return f"{sha}+" if _git(root, "status", "--porcelain", "--untracked-files=no") else sha
    except (OSError, subprocess.SubprocessError):
        return ""


def file_hash(path: Path) -> str:
    """BLAKE2b-128 of a file; empty where it is missing."""
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return ""


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name: signals are only promised to be equal on the same class of it."""
    try:
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"kafka": {"prefix": "x"}}` as `{"kafka.prefix": "x"}`, sorted, secrets masked."""
    flat: dict[str, str] = {}
    for name, value in sorted(settings.items()):
        full = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat.update(flattened(value, f"{full}."))
        elif value and SECRET_NAMES.search(name):
            flat[full] = MASK
        elif isinstance(value, list | tuple):
            flat[full] = ",".join(map(str, value))
        else:
            flat[full] = PASSWORD_IN_ADDRESS.sub(MASK, "" if value is None else str(value))
    return flat


def content_hash(content: Mapping[str, Any]) -> str:
    """BLAKE2b-128 over the content in a fixed order."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
        ["git", "-C", str(root), *arguments],  # noqa: S607 - git is found on the path like everywhere else
        capture_output=True,
        text=True,
        timeout=5,
        check=True,
    )
    return done.stdout.strip()
