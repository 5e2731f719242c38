"""`observator replay`: records of a run once more, into the log (`write`) or in memory (`memory`).

Mounted by `observator.py`, which adds `fills` from the sandbox's room. What the verbs need is imported when they run.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.command_line import Json, settings_of, show_object, time_ms, to_people
from infra.errors import BadSettings, Stop

if TYPE_CHECKING:
    from infra.log import Slot
    from streams.history import History

app = typer.Typer(help="What was recorded, run again.", no_args_is_help=True)

RAW = ("orderbooks", "trades", "markets", "quotes", "feed-events", "controls", "manifests", "model-events")
"""What came from outside, with the settings and controls of the time: from it everything else can be computed."""

From = Annotated[str, typer.Option("--from", help="`log`, `archive`, the folder of an archive, or s3://bucket/folder.")]
Since = Annotated[str | None, typer.Option(help="First append time: ISO 8601 or milliseconds.")]
Until = Annotated[str | None, typer.Option(help="Append time to stop before.")]


@app.command()
def write(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="Name of the new run; its topics begin with `replay-NAME-`.")],
    source: From = "log",
    topics: Annotated[
        str, typer.Option(help="Topics with commas between, or `all`; default: what came from outside.")
    ] = ",".join(RAW),
    since: Since = None,
    until: Until = None,
    offsets: Annotated[
        list[str] | None, typer.Option(help="`topic/partition:first-end`, in place of topics and times; repeatable.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(min=0.001, help="Times the recorded pace; without: as fast as possible.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Write recorded records once more into a run of their own; an interrupted one goes on where it stopped."""
    from consumers.replay.marks import PREFIX  # noqa: PLC0415 - help must answer at once
    from consumers.replay.write import write_run  # noqa: PLC0415 - same
    from infra.servers.broker import kept_log  # noqa: PLC0415 - same
    from streams.history import open_history  # noqa: PLC0415 - same

    settings = settings_of(context)
    prefix = checked_run(run, PREFIX)
    tell = to_people(is_json=True)
    into = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"prefix": prefix})})
    with (
        only_one(settings.home, prefix),
        kept_log(into, tell) as log,
        open_history(settings, source, tell) as history,
        bar(f"replay into {prefix}") as progress,
        stopping() as stop,
    ):
        spans = spans_of(history, chosen_topics(topics), since, until, offsets or [])
        name = f"{source} {settings.kafka.prefix}".strip()
        outcome = write_run(history, spans, log, speed, stop, progress, source=name)
    found = {
        "prefix": prefix,
        "records": outcome.records,
        "found_from_before": outcome.found,
        "is_complete": outcome.is_complete,
        "seconds": round(outcome.seconds, 2),
        "records_per_second": round(outcome.records / max(outcome.seconds, 1e-9)),
        "inputs_cut": outcome.inputs_cut,
        "partitions": len(outcome.slots),
    }
    show_object(found, is_json=as_json)
    if not outcome.is_complete:
        raise Stop(f"The replay was stopped. Run the same command again: it goes on behind {prefix}'s last record.")


@app.command()
def memory(
    context: typer.Context,
    source: From = "log",
    since: Since = None,
    until: Until = None,
    batch: Annotated[int, typer.Option(min=1, help="Records per turn; the result does not depend on it.")] = 500,
    workers: Annotated[
        int, typer.Option(min=1, max=12, help="Processes that share the partitions (an archive only).")
    ] = 1,
    *,
    as_json: Json = False,
) -> None:
    """Run all stages over recorded records without Kafka, with the settings of the time; prints counts and hashes."""
    from consumers.replay.apart import replay_apart  # noqa: PLC0415 - help must answer at once
    from consumers.replay.summary import replay_here  # noqa: PLC0415 - same
    from streams.history import open_history  # noqa: PLC0415 - same

    settings = settings_of(context)
    if workers > 1 and source == "log":
        raise BadSettings("Several processes read an archive only: name one with --from, or use one worker.")
    with bar("replay in memory") as progress, open_history(settings, source, to_people(is_json=True)) as history:
        between = (time_ms(since), time_ms(until))
        if workers > 1:
            found = replay_apart(settings, source, history, between, batch, workers)
        else:
            found = replay_here(settings, history, between, batch, progress)
    show_object(found.told(), is_json=as_json)


# --- what the verbs share -----------------------------------------------------------------------------------------


def checked_run(run: str, prefix: str) -> str:
    """The prefix of a run; raises `BadSettings` for a name that no topic may have."""
    if not run or len(run) > 80 or not all(sign.isascii() and (sign.isalnum() or sign in "._-") for sign in run):
        raise BadSettings(f"{run!r} cannot name a run: up to 80 letters, digits, dots, hyphens and underscores.")
    return f"{prefix}{run}-"


def chosen_topics(text: str) -> list[str]:
    """The topics of an option; raises `BadSettings` for one that there is not."""
    from streams.topics import TOPICS  # noqa: PLC0415 - help must answer at once

    names = list(TOPICS) if text == "all" else [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in TOPICS]:
        raise BadSettings(f"There is no topic {', '.join(unknown)}; there are {', '.join(TOPICS)}.")
    if not names:
        raise BadSettings("Name at least one topic with --topics.")
    return names


def spans_of(
    history: "History", topics: list[str], since: str | None, until: str | None, offsets: list[str]
) -> "dict[Slot, tuple[int, int]]":
    """What is to be replayed; raises `BadSettings` where that is nothing, or more than there is."""
    from streams.history import spans_between  # noqa: PLC0415 - help must answer at once

    if offsets:
        if since is not None or until is not None:
            raise BadSettings("--offsets stands alone: without --since and --until.")
        spans = dict(map(range_of, offsets))
        held = history.spans({slot.topic for slot in spans})
        for slot, (first, end) in spans.items():
            low, high = held.get(slot, (0, 0))
            if first < low or end > high:
                raise BadSettings(f"{slot.topic}/{slot.partition} holds the offsets {low} to {high - 1} only.")
    else:
        spans = spans_between(history, topics, time_ms(since), time_ms(until))
    if not spans:
        raise BadSettings("There are no records of these topics in this range: nothing is replayed.")
    return spans


def range_of(text: str) -> "tuple[Slot, tuple[int, int]]":
    """`orderbooks/3:100-200` (without the end) as a partition and its offsets."""
    from infra.log import Slot  # noqa: PLC0415 - help must answer at once

    where, _, between = text.partition(":")
    topic, _, partition = where.partition("/")
    first, _, end = between.partition("-")
    if not (partition.isdigit() and first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise BadSettings(f"--offsets {text!r}: write it as topic/partition:first-end, the end not included.")
    return Slot(chosen_topics(topic)[0], int(partition)), (int(first), int(end))


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr."""
    import sys  # noqa: PLC0415 - help must answer at once

    from infra.terminal import Screen  # noqa: PLC0415 - same

    with Screen(sys.stderr).phases() as phases:
        phases.begin(title)
        yield lambda done, total: phases.progress(done, total, f"{done:,} of {total:,}")
        phases.finish()


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C and a termination set, so that what was written is a clean stretch."""
    import signal  # noqa: PLC0415 - help must answer at once

    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def only_one(home: Path, prefix: str) -> Iterator[None]:
    """Raise `AlreadyRunning` where another process of this run folder writes the same run."""
    import fcntl  # noqa: PLC0415 - help must answer at once

    from infra.errors import AlreadyRunning  # noqa: PLC0415 - same

    path = home / "run" / f"{prefix}lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"The replay {prefix!r} is being written by another process already.") from None
        yield
