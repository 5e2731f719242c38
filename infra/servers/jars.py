"""Fetches the broker's jars by a fixed list with checksums into a cache folder shared by all run folders.

Called by `infra.servers.kafka`. Never trusts what the resolver returns (a cut-off file comes back silently, a wrong
checksum is only a warning there): a file counts once its own sha256 fits, and is renamed into place after that.
"""

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import jgo.constants
import requests
from jgo.maven import MavenContext, PythonResolver

from infra.errors import Retry

AT_ONCE = 6
TRIES = 3

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, how much there is."""


class Jar(NamedTuple):
    """One file of the list."""

    group: str
    artefact: str
    version: str
    sha256: str
    size: int

    @property
    def file_name(self) -> str:
        """Name in our cache."""
        return f"{self.artefact}-{self.version}.jar"


Resolve = Callable[[Jar, Path], Path]


class FetchFailed(Retry):
    """A jar could not be fetched; the same call may work later."""


def default_cache(environ: Mapping[str, str]) -> Path:
    """The folder for what is fetched once per machine."""
    base = environ.get("XDG_CACHE_HOME")
    home = environ.get("HOME")
    return (Path(base) if base else (Path(home) if home else Path.home()) / ".cache") / "observator"


def jar_list() -> list[Jar]:
    """The list that is part of the program, in class-path order."""
    text = (Path(__file__).parent / "kafka-4.3.1-jars.json").read_text()
    jars = [Jar(j["g"], j["a"], j["v"], j["sha256"], j["size"]) for j in json.loads(text)["jars"]]
    return sorted(jars, key=lambda jar: jar.file_name)


def fetch_jars(folder: Path, jars: list[Jar], progress: Progress, resolve: Resolve | None = None) -> list[Path]:
    """Bring the missing or damaged ones of `jars` into `folder`; returns their paths in the order of the list.

    Raises `FetchFailed` when a file cannot be had after a few tries. Two processes may call it at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    resolve = resolve or resolve_with_jgo
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [jar for jar in jars if not is_good(folder / jar.file_name, jar)]
        total = sum(jar.size for jar in missing)
        done = 0
        if missing:
            progress("fetching Kafka", 0, total)
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-", ignore_cleanup_errors=True) as scratch,
            ThreadPoolExecutor(AT_ONCE) as pool,
        ):
            jobs = {pool.submit(_fetch, folder, jar, Path(scratch), resolve): jar for jar in missing}
            try:
                for job in as_completed(jobs):
                    job.result()
                    done += jobs[job].size
                    progress("fetching Kafka", done, total)
            except FetchFailed:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [folder / jar.file_name for jar in jars]


def is_good(file: Path, jar: Jar) -> bool:
    """Whether `file` is what the list says."""
    try:
        if file.stat().st_size != jar.size:
            return False
        with file.open("rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest() == jar.sha256
    except FileNotFoundError:
        return False


def resolve_with_jgo(jar: Jar, scratch: Path) -> Path:
    """Fetch one file with the pure-Python Maven resolver, without walking any POM."""
    context = MavenContext(
        repo_cache=scratch,
        remote_repos={"central": jgo.constants.MAVEN_CENTRAL_URL},
        resolver=PythonResolver(),
        timeout=60,
    )
    found = context.project(jar.group, jar.artefact).at_version(jar.version).artifact().resolve()
    return Path(found)


def _fetch(folder: Path, jar: Jar, scratch: Path, resolve: Resolve) -> None:
    problem = ""
    for attempt in range(TRIES):
        own = scratch / f"{jar.file_name}-{attempt}"
        own.mkdir()
        try:
            found = resolve(jar, own)
        except (requests.RequestException, RuntimeError, ValueError, OSError) as error:
            problem = f"{type(error).__name__}: {error}"
            continue
        if is_good(found, jar):
            target = folder / jar.file_name
            part = target.with_suffix(".part")
            shutil.move(found, part)
            part.replace(target)
            return
        problem = "what came does not have the checksum of our list"
    raise FetchFailed(
        f"{jar.group}:{jar.artefact}:{jar.version} could not be fetched from the Maven registry ({problem}). "
        "Check the connection and run the same command again: what is there already is kept."
    )
