"""Looks over the machine, the settings and the run folder; each finding with its remedy.

Called by `observator doctor`; changes nothing, starts nothing, and needs no network beyond the deployment's own broker.
"""

import ctypes
import json
import os
import platform
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra import supervisor
from infra.errors import BadSettings, LogUnavailable, Unsupported
from infra.log import TopicSpec
from infra.secrets_process import isolation
from infra.servers.jars import default_cache, is_good, jar_list
from infra.servers.java import find_java, version_of
from infra.servers.kafka import LOWEST_FREE_BYTES, VERSION, wait_ready
from infra.servers.ports import is_free, kept_ports
from infra.settings import Settings

Verdict = Literal["ok", "warn", "fail"]

BYTES_PER_BOOK = 22.7e9 / 86_400 / 1_000
"""On disk, a book of 30 levels, compressed in batches: measured at 1,000 books a second."""
UPBIT_BOOKS_PER_SECOND = 1_250.0
"""About 250 markets at five books a second, the load that the design is measured at."""
RESERVE = 1.5
"""Everything that is not an order book, as a factor on the order books."""
NEEDED_MB = 2_500
"""What the broker and all processes take together, with ten markets."""
_UNSYNCHRONISED = 0x40


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what was found and, unless it is `ok`, what to do about it."""

    name: str
    verdict: Verdict
    text: str
    remedy: str = ""


def show(read: Callable[[], Settings], topics: Sequence[TopicSpec], *, as_json: bool = False) -> bool:
    """Print all findings; says whether nothing failed. `read` loads the settings, whose errors are a finding too."""
    findings = examine(read, topics)
    if as_json:
        print(json.dumps({"findings": [asdict(found) for found in findings], "is_healthy": is_healthy(findings)}))
    else:
        width = max(len(found.name) for found in findings)
        for found in findings:
            print(f"{found.verdict:<4}  {found.name:<{width}}  {found.text}")
            if found.remedy:
                print(f"{'':<{width + 6}}  -> {found.remedy}")
    return is_healthy(findings)


def is_healthy(findings: Sequence[Finding]) -> bool:
    """Whether none failed."""
    return all(found.verdict != "fail" for found in findings)


def examine(read: Callable[[], Settings], topics: Sequence[TopicSpec]) -> list[Finding]:
    """Look at everything; with settings that cannot be read, at what does not depend on them."""
    findings = [check_python(sys.version_info[:2]), check_java(), check_jars(default_cache(os.environ))]
    findings += [check_memory(psutil.virtual_memory().available), check_clock()]
    try:
        settings = read()
    except BadSettings as error:
        return [*findings, Finding("settings", "fail", str(error), "Correct the name or the value that is named.")]
    findings.append(Finding("settings", "ok", f"run folder {settings.home}, feed {settings.feed.kind}"))
    findings += check_disk(settings, topics)
    findings += check_ports(settings)
    findings += check_kafka(settings, topics)
    findings.append(check_leftovers(settings.home))
    findings.append(check_isolation(settings.home))
    return findings


def check_python(version: tuple[int, int]) -> Finding:
    """The interpreter this runs on."""
    text = f"{version[0]}.{version[1]} ({platform.machine()}, {platform.system()})"
    if not (3, 11) <= version <= (3, 13):
        return Finding("Python", "fail", text, "Install Python 3.11, 3.12 or 3.13 and run `make setup`.")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return Finding("Python", "warn", text, "Only x86-64 Linux was tried; packages may need a compiler elsewhere.")
    return Finding("Python", "ok", text)


def check_java() -> Finding:
    """The Java that runs the broker."""
    try:
        java = find_java(os.environ)
    except Unsupported as error:
        return Finding("Java", "fail", "none that is new enough", str(error))
    return Finding("Java", "ok", f"{version_of(java)} ({java})")


def check_jars(cache: Path) -> Finding:
    """The broker's files."""
    folder = cache / f"kafka-{VERSION}"
    jars = jar_list()
    missing = [jar for jar in jars if not is_good(folder / jar.file_name, jar)]
    if missing:
        size = sum(jar.size for jar in missing) / 1e6
        text = f"{len(missing)} of {len(jars)} files are not here yet ({size:.0f} MB)"
        return Finding("Kafka's files", "warn", text, "`observator up` fetches them; that needs the Maven registry.")
    return Finding("Kafka's files", "ok", f"{VERSION}, {len(jars)} files with the right checksums in {folder}")


def check_memory(available: int) -> Finding:
    """Free memory against what all processes take."""
    text = f"{available / 1e6:,.0f} MB free, about {NEEDED_MB:,} MB needed"
    if available >= NEEDED_MB * 1e6:
        return Finding("memory", "ok", text)
    remedy = "Close other programs, or run fewer processes (setting `processes`)."
    return Finding("memory", "warn" if available >= NEEDED_MB * 0.5e6 else "fail", text, remedy)


def check_clock() -> Finding:
    """Whether the clock runs evenly and is kept by the network's time."""
    wall, steady = time.time(), time.monotonic()
    time.sleep(0.05)
    drift_ms = abs((time.time() - wall) - (time.monotonic() - steady)) * 1e3
    if drift_ms > 5:
        remedy = "Something sets the clock right now; wait, or see to the machine's time service."
        return Finding("clock", "warn", f"jumped by {drift_ms:.0f} ms within 50 ms", remedy)
    kept = clock_is_kept()
    if kept is None:
        return Finding("clock", "ok", "runs evenly; whether a time service keeps it cannot be told here")
    is_synchronised, error_ms = kept
    if not is_synchronised:
        remedy = "Start a time service (systemd-timesyncd, chrony): latencies to the exchange mean nothing without."
        return Finding("clock", "warn", "runs evenly, but the kernel knows of no time service that keeps it", remedy)
    return Finding("clock", "ok", f"kept by a time service, at most {error_ms:.0f} ms off")


def clock_is_kept() -> tuple[bool, float] | None:
    """Whether the kernel calls its clock synchronised, and the largest error in ms; None where it does not say."""
    if platform.system() != "Linux" or struct.calcsize("l") != 8:
        return None
    timex = ctypes.create_string_buffer(512)  # struct timex with modes = 0: read only
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    except (OSError, AttributeError):
        return None
    if answer < 0:
        return None
    error_us: int
    status: int
    error_us, _, status = struct.unpack_from("qqi", timex.raw, 24)
    return not status & _UNSYNCHRONISED, error_us / 1e3


def check_disk(settings: Settings, topics: Sequence[TopicSpec]) -> Iterator[Finding]:
    """Free space against what the topics will hold by their retention."""
    free = shutil.disk_usage(_existing(settings.home)).free
    needed, books, days = disk_needed(settings, topics)
    text = (
        f"{free / 1e9:,.1f} GB free; order books at {books:,.0f} a second kept {days:g} days and all else by them "
        f"take about {needed / 1e9:,.1f} GB (estimate)"
    )
    if free < LOWEST_FREE_BYTES:
        yield Finding("disk", "fail", text, "Free some space, or move the run folder (setting `home`).")
    elif free < needed:
        yield Finding("disk", "warn", text, "Fewer markets, shorter retention of `orderbooks`, or a larger disk.")
    else:
        yield Finding("disk", "ok", text)


def disk_needed(settings: Settings, topics: Sequence[TopicSpec]) -> tuple[float, float, float]:
    """Bytes on disk in the long run, order books per second, days they are kept."""
    feed = settings.feed
    if feed.kind == "synthetic":
        books = (len(feed.markets) or feed.market_count) * feed.books_per_second * feed.speed
    else:
        books = UPBIT_BOOKS_PER_SECOND * (min(1.0, len(feed.markets) / 250) if feed.markets else 1.0)
    kept_ms = {topic.name: float(topic.config.get("retention.ms", "0")) for topic in topics}.get("orderbooks", 0.0)
    days = kept_ms / 86_400_000
    return books * days * 86_400 * BYTES_PER_BOOK * RESERVE, books, days


def check_ports(settings: Settings) -> Iterator[Finding]:
    """The ports of this run folder: ours when it runs, free when it does not."""
    wanted = kept_ports(settings.home)
    runs = supervisor.is_running(settings.home)
    if settings.dashboard.port:
        wanted = {**wanted, "page": settings.dashboard.port}
    if settings.dashboard.api_port:
        wanted = {**wanted, "api": settings.dashboard.api_port}
    taken = [f"{name} {port}" for name, port in wanted.items() if not runs and not is_free(port)]
    shown = ", ".join(f"{name} {port}" for name, port in sorted(wanted.items()))
    if not taken:
        yield Finding("ports", "ok", f"{shown} ({'in use by us' if runs else 'free'})")
        return
    remedy = (
        "End the other program, or choose another port (settings `dashboard.port`, `dashboard.api_port`); the servers "
        "of the run folder move to another port by themselves."
    )
    yield Finding("ports", "warn", f"in use by something else: {', '.join(taken)}", remedy)


def check_kafka(settings: Settings, topics: Sequence[TopicSpec]) -> Iterator[Finding]:
    """The broker, and the topics on it."""
    bootstrap = settings.kafka.bootstrap
    if not bootstrap:
        port = kept_ports(settings.home).get("kafka")
        if port is None or is_free(port):
            yield Finding("Kafka", "ok", "our own, not started; `observator up` starts it")
            return
        bootstrap = f"127.0.0.1:{port}"
    try:
        wait_ready(bootstrap, 3)
        client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        there = set(client.list_topics(timeout=3).topics)
    except (LogUnavailable, KafkaException) as error:
        remedy = "See `observator logs kafka`; `observator up` starts our own, `kafka.bootstrap` names another one."
        yield Finding("Kafka", "fail", str(error), remedy)
        return
    yield Finding("Kafka", "ok", f"serves at {bootstrap}")
    missing = [topic.name for topic in topics if settings.kafka.prefix + topic.name not in there]
    if missing:
        yield Finding("topics", "fail", f"missing: {', '.join(missing)}", "`observator topics create`")
    else:
        yield Finding("topics", "ok", f"all {len(topics)} are there")


def check_leftovers(home: Path) -> Finding:
    """Processes of a former run that nobody keeps any more."""
    if supervisor.is_running(home):
        return Finding("leftovers", "ok", "this run folder is running")
    left = supervisor.marked(home)
    if left:
        text = ", ".join(f"{process.pid} ({process.name()})" for process in left)
        return Finding("leftovers", "warn", f"processes of a former run: {text}", f"`observator --home {home} down`")
    return Finding("leftovers", "ok", "no process of a former run")


def check_isolation(home: Path) -> Finding:
    """Whether the process that holds the exchange keys runs apart from the others."""
    found = isolation(home, supervisor.marked(home))
    return Finding("executor", "ok" if found.is_isolated else "warn", found.text, found.remedy)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
