"""The command line: one verb, one function, each calls into one room. The only file that knows all rooms.

Verbs import what they need when they run, so that help answers at once.
"""

import errno
import importlib
import inspect
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from consumers.archive import command_line as archive
from consumers.execute.command_line import accounts, halts, keys, orders
from consumers.replay import command_line as replays
from consumers.report.command_line import report as daily_report
from infra.command_line import Json, Language, Words, settings_of, show_object, show_table, time_ms, to_people
from infra.errors import BadSettings, ObservatorError, Stop, TopicMissing, Unsupported
from producers.imports import verbs as imports
from producers.sandbox import replayed_told

if TYPE_CHECKING:
    from consumers.execute.halts_verbs import Outcome
    from infra.log import Log
    from infra.settings import Settings

logger = logging.getLogger(__name__)

PROCESSES = {
    "sandbox": "producers.sandbox.server:run",
    "feed": "producers.upbit.feed:run",
    "streams": "streams.runner:run",
    "streams-faust": "streams.app:run",
    "predict": "consumers.predict:run",
    "trade": "consumers.trade.runner:run",
    "execute": "consumers.execute.executor:run",
    "views": "consumers.views:run",
    "archive": "consumers.archive.process:run",
    "nightly": "consumers.nightly:run",
    "api": "observator:api",
}
"""Where each process of the `Procfile` begins; `kafka` and `page` become another program."""

VERIFY: dict[str, str] = {
    "archive": "consumers.verify.archive:verify_archive",
    "drills": "consumers.verify.drills:verify_drills",
    "fuzz": "producers.verify.fuzz:verify_fuzz",
    "halts": "consumers.verify.halts:verify_halts",
    "import": "producers.verify.imports:verify_import",
    "journal": "consumers.verify.journal:verify_journal",
    "leaks": "consumers.verify.leaks_battery:verify_leaks",
    "matching": "producers.verify.matching:verify_matching",
    "nightly": "consumers.report.nightly:verify_nightly",
    "orders": "consumers.execute.verify:verify_orders",
    "parity": "observator:parity",
    "recovery": "consumers.verify.recovery:verify_recovery",
    "replay": "observator:replay_check",
    "restarts": "consumers.verify.restarts:verify_restarts",
    "risk": "consumers.verify.risk:verify_risk",
    "secrets": "consumers.verify.secrets:verify_secrets",
    "synthetic": "producers.verify.synthetic:verify_synthetic",
}
"""What `verify` can show: name to `module:function`, called with `quick` and what further options it names."""

BENCH: dict[str, str] = {
    "accounts": "consumers.verify.bench_accounts:bench_accounts",
    "archive": "consumers.verify.bench_archive:bench_archive",
    "features": "consumers.verify.bench_features:bench_features",
    "memory": "consumers.verify.bench_memory:bench_memory",
    "replay": "consumers.replay.bench:bench_replay",
    "restart": "consumers.execute.bench_restart:bench_restart",
    "sandbox": "producers.verify.bench_sandbox:bench_sandbox",
    "saturation": "consumers.verify.bench_saturation:bench_saturation",
    "signal-to-order": "consumers.verify.bench_orders:bench_signal_to_order",
    "tick-to-signal": "consumers.verify.bench_latency:bench_tick_to_signal",
}
"""What `bench` can measure."""

BAD_USAGE = 2
DEMO_HOME = Path(".observator/demo")
SANDBOX_HOME = Path(".observator/sandbox")

app = typer.Typer(
    name="observator",
    help="Automatic trading on Upbit, driven by the order book, on Kafka. Orders are paper orders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
topics_app = typer.Typer(help="The topics of the log.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
app.add_typer(orders.app, name="order")
app.add_typer(accounts.app, name="account")
app.add_typer(keys.app, name="keys")
app.add_typer(replays.app, name="replay")
replays.app.command()(replayed_told.fills)
app.add_typer(archive.app, name="archive")

Seconds = Annotated[
    float | None, typer.Option(min=0.001, help="Live seconds after the warm-up; without: until Ctrl-C.")
]


@app.callback()
def root(
    context: typer.Context,
    settings: Annotated[Path | None, typer.Option(help="Settings file instead of observator.toml.")] = None,
    home: Annotated[Path | None, typer.Option(help="Run folder instead of the settings' one.")] = None,
) -> None:
    """Keep what all verbs share."""
    context.obj = {"file": settings, "home": home}


@app.command()
def version(*, as_json: Json = False) -> None:
    """Print the version and what it runs on."""
    import platform  # noqa: PLC0415 - help must answer at once
    from importlib.metadata import version as version_of  # noqa: PLC0415 - same

    from infra.servers.kafka import VERSION  # noqa: PLC0415 - same

    found = {"observator": version_of("observator"), "python": platform.python_version(), "kafka": VERSION}
    show_object(found, is_json=as_json)


@app.command()
def doctor(context: typer.Context, *, as_json: Json = False) -> None:
    """Look over this machine and the settings; each finding with its remedy."""
    from infra.doctor import show  # noqa: PLC0415 - help must answer at once
    from streams.process import topic_specs  # noqa: PLC0415 - same

    if not show(lambda: settings_of(context), topic_specs(), as_json=as_json):
        raise typer.Exit(1)


@app.command("show-config")
def show_config(context: typer.Context, *, as_json: Json = False) -> None:
    """Print every setting as it is in force, secrets masked."""
    from infra.configuration import flat  # noqa: PLC0415 - help must answer at once

    show_object(flat(settings_of(context)), is_json=as_json)


@topics_app.command("create")
def topics_create(context: typer.Context, *, as_json: Json = False) -> None:
    """Create the topics that are missing; existing ones are left alone."""
    from infra.servers.broker import open_log  # noqa: PLC0415 - help must answer at once
    from streams.process import topic_specs  # noqa: PLC0415 - same

    with open_log(settings_of(context)) as log:
        created = log.create_topics(topic_specs())
    show_object({"created": created}, is_json=as_json)


@topics_app.command("list")
def topics_list(context: typer.Context, *, as_json: Json = False) -> None:
    """List the topics with partitions and number of records."""
    from infra.log import slots_of  # noqa: PLC0415 - help must answer at once
    from infra.servers.broker import open_log  # noqa: PLC0415 - same
    from streams.process import topic_specs  # noqa: PLC0415 - same

    rows: list[dict[str, Any]] = []
    with open_log(settings_of(context)) as log:
        for spec in topic_specs():
            try:
                bounds = log.bounds(slots_of(log, [spec.name]))
            except TopicMissing:
                rows.append({"topic": spec.name, "partitions": "missing", "records": ""})
                continue
            count = sum(end - first for first, end in bounds.values())
            rows.append({"topic": spec.name, "partitions": len(bounds), "records": count})
    show_table("Topics", rows, is_json=as_json)


@app.command()
def up(context: typer.Context) -> None:
    """Start everything and leave it running; data of earlier runs are kept."""
    from infra import supervisor  # noqa: PLC0415 - help must answer at once
    from infra.servers import broker  # noqa: PLC0415 - same
    from infra.servers.kafka import wait_ready  # noqa: PLC0415 - same
    from infra.servers.ports import port_of  # noqa: PLC0415 - same
    from infra.terminal import Screen  # noqa: PLC0415 - same
    from producers import readiness  # noqa: PLC0415 - same
    from streams.process import topic_specs  # noqa: PLC0415 - same

    settings = settings_of(context)
    readiness.refuse_unreachable(settings)
    readiness.refuse_another_feed(settings)
    with Screen(sys.stderr).phases() as phases:
        phases.begin("Preparing Kafka")
        broker.prepare(settings, phases.progress)
        phases.begin("Starting the processes")
        names = supervisor.up(settings, settings.home)
        phases.begin("Waiting for Kafka")
        wait_ready(broker.bootstrap_of(settings), 90)
        phases.begin("Creating the topics")
        with broker.open_log(settings) as log:
            log.create_topics(topic_specs())
        phases.finish()
    page = f" Page: http://{settings.dashboard.host}:{settings.dashboard.port}" if "page" in names else ""
    port = settings.dashboard.api_port or port_of(settings.home, "api")
    served = f" API: http://127.0.0.1:{port}" if "api" in names else ""
    typer.echo(f"Running: {', '.join(names)}.{page}{served}")


@app.command()
def down(
    context: typer.Context,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which processes are ended by force.")] = 15,
) -> None:
    """Stop everything that `up` or a demo started in this run folder."""
    from infra import supervisor  # noqa: PLC0415 - help must answer at once

    home = settings_of(context).home
    typer.echo(f"Stopped {home}." if supervisor.down(home, timeout) else f"Nothing ran on {home}.")


@app.command()
def status(context: typer.Context, *, as_json: Json = False) -> None:
    """Show the processes, and what the last nightly check found; exit code 1 where one is not running."""
    from consumers import nightly  # noqa: PLC0415 - help must answer at once
    from infra import supervisor  # noqa: PLC0415 - same

    home = settings_of(context).home
    found = supervisor.status(home)
    rows = [{**one._asdict(), "uptime_s": round(one.uptime_s)} for one in found]
    if not found and not as_json:
        typer.echo(f"Nothing runs on {home}.")
    else:
        show_table(f"Processes of {home}", rows, is_json=as_json)
    for one in nightly.last(home):
        to_people(is_json=as_json)(
            f"{'' if one['passed'] else 'NIGHTLY CHECK FAILED: '}{one['task']} of {one['day']}: {one['text']}"
        )
    if not found or any(one.state not in {"running", "starting"} for one in found):
        raise typer.Exit(1)


for verb in (halts.halt, halts.resume, keys.arm, keys.disarm):
    app.command()(verb)
app.command("import")(imports.import_)
app.command("report")(daily_report)


@app.command()
def logs(
    context: typer.Context,
    process: Annotated[str | None, typer.Argument(help="One process; without: all.")] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines of each.")] = 50,
    as_json: Json = False,
) -> None:
    """Print the processes' logs."""
    from infra import logfiles  # noqa: PLC0415 - help must answer at once

    with suppress(KeyboardInterrupt):
        for name, line in logfiles.read(settings_of(context).home, process, follow=follow, lines=lines):
            if as_json:
                typer.echo(json.dumps({"process": name, "line": line}, ensure_ascii=False))
            else:
                typer.echo(logfiles.readable(line) if process else f"{name:>10} | {logfiles.readable(line)}")


@app.command()
def demo(
    context: typer.Context,
    seconds: Seconds = None,
    recording: Annotated[Path | None, typer.Option(help="Play this file of raw frames instead.")] = None,
    feed: Annotated[Literal["synthetic", "upbit"] | None, typer.Option(help="The market.")] = None,
    home: Annotated[Path | None, typer.Option(help=f"Run folder, emptied first; default {DEMO_HOME}.")] = None,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Go on with the data of the demo before.")] = False,
    as_json: Json = False,
) -> None:
    """Run everything in a folder of its own and show it live; ends with a summary."""
    from consumers import demo as demo_room  # noqa: PLC0415 - help must answer at once
    from consumers import demo_view  # noqa: PLC0415 - same
    from dashboard import server  # noqa: PLC0415 - same
    from infra.servers import broker  # noqa: PLC0415 - same
    from infra.terminal import Screen  # noqa: PLC0415 - same
    from producers import readiness  # noqa: PLC0415 - same

    stop = threading.Event()
    chosen: dict[str, Any] = {"home": home or context.obj["home"] or DEMO_HOME}
    if recording is not None:
        if feed is not None:
            raise typer.BadParameter("--recording and --feed exclude each other")
        if not recording.is_file():
            raise BadSettings(f"The recording {recording} does not exist.")
        chosen["feed"] = {"kind": "recording", "recording": recording}
    elif feed is not None:
        chosen["feed"] = {"kind": feed}
    settings = settings_of(context, chosen)
    readiness.refuse_unreachable(settings)
    screen = Screen(sys.stderr if as_json else sys.stdout)
    with demo_room.stopping_on((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), stop):
        demo_room.prepare_home(settings.home, keep=keep)
        settings = server.with_free_port(settings)
        with screen.phases() as phases:
            phases.begin("Preparing Kafka")
            broker.prepare(settings, phases.progress)
            phases.finish()
        run = demo_room.Demo(
            settings,
            lambda: broker.bootstrap_of(settings),
            lambda: broker.open_log(settings),
            screen,
            seconds,
            stop=stop,
        )
        summary, problem = run.run()
    file = demo_room.write_summary(settings.home, summary)
    screen.show(demo_view.closing(summary, demo_view.Facts(settings, seconds)))
    screen.say(f"The same as figures: {file}")
    if as_json:
        typer.echo(json.dumps(summary, ensure_ascii=False))
    if problem:
        raise Stop(problem)


@app.command()
def sandbox(
    context: typer.Context,
    market: Annotated[
        Literal["synthetic", "recording", "follow"] | None,
        typer.Option(help="Kind of market; `follow` reads the log at `kafka.bootstrap`."),
    ] = None,
    recording: Annotated[Path | None, typer.Option(help="File to play as the market.")] = None,
    markets: Annotated[str | None, typer.Option(help="Codes with commas between, or how many synthetic ones.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the synthetic market.")] = None,
    speed: Annotated[float | None, typer.Option(help="How fast the market's clock runs against ours.")] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="Seconds of history of the synthetic market.")] = None,
    limits: Annotated[str | None, typer.Option(help="`none`, or sizes that differ: `order=100,default=300`.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default: chosen once and kept in the run folder.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: this machine alone.")] = None,
    home: Annotated[Path | None, typer.Option(help=f"Run folder; default {SANDBOX_HOME}.")] = None,
    *,
    front: Annotated[bool, typer.Option(help="Whether clients with fixed addresses are served too.")] = True,
    as_json: Json = False,
) -> None:
    """Run the sandbox exchange alone, for any client of Upbit, until Ctrl-C; needs neither Kafka nor an account."""
    from consumers.demo import stopping_on  # noqa: PLC0415 - help must answer at once
    from infra import logs as lines  # noqa: PLC0415 - same
    from producers.sandbox import standalone  # noqa: PLC0415 - same

    chosen = standalone.overrides(
        market=market, recording=recording, markets=markets, seed=seed, speed=speed, warmup_seconds=warmup, port=port,
        limits=limits,
    )  # fmt: skip
    settings = settings_of(context, {**chosen, "home": home or context.obj["home"] or SANDBOX_HOME})
    stop = threading.Event()
    lines.set_up("sandbox", level="WARNING", is_json=False)

    def tell(found: dict[str, Any]) -> None:
        typer.echo(json.dumps(found) if as_json else standalone.told(found))
        sys.stdout.flush()

    with stopping_on((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), stop):
        standalone.run(settings, stop.is_set, tell, host=host, has_front=front)


@app.command(hidden=True)
def process(
    context: typer.Context,
    name: str,
    worker: Annotated[int, typer.Option(help="Which of several equal workers.")] = 0,
) -> None:
    """Run one process of the `Procfile` in the foreground until SIGTERM or SIGINT."""
    from infra import allocator  # noqa: PLC0415 - help must answer at once
    from infra import logs as lines  # noqa: PLC0415 - same
    from infra.secrets import DECLARED, remove_secrets  # noqa: PLC0415 - same

    allocator.settle(name)
    lines.set_up(name, stream=sys.stdout)
    os.environ["OBSERVATOR_WORKER"] = str(worker)
    remove_secrets(os.environ, DECLARED.get(name, ()))
    stop = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: stop.set())
    try:
        _run_process(name, settings_of(context), stop)
    except (BadSettings, Unsupported) as error:
        logger.error("%s", error)  # noqa: TRY400 - the sentence says it all
        raise typer.Exit(BAD_USAGE) from error
    except ObservatorError as error:
        logger.error("%s: %s", type(error).__name__, error)  # noqa: TRY400 - same
        raise typer.Exit(1) from error
    except Exception as error:  # outermost of a process: the log keeps the trace, the supervisor the status
        logger.exception("ended by an error")
        raise typer.Exit(1) from error


@app.command()
def record(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(help="File to write; `.gz` packs it.")],
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 60,
    feed: Annotated[Literal["synthetic", "upbit"] | None, typer.Option(help="The market.")] = None,
) -> None:
    """Write the raw frames of the public stream into a file that `demo --recording` plays."""
    from consumers.demo import stopping_on  # noqa: PLC0415 - help must answer at once
    from producers import readiness  # noqa: PLC0415 - same
    from producers.upbit import recorder  # noqa: PLC0415 - same

    settings = settings_of(context, {"feed": {"kind": feed}} if feed else None)
    readiness.refuse_unreachable(settings)
    stop = threading.Event()
    with stopping_on((signal.SIGINT, signal.SIGTERM), stop):
        frames = recorder.record(settings, out, seconds, stop)
    typer.echo(f"{frames:,} frames in {out}.")


@app.command()
def read(
    context: typer.Context,
    topic: str,
    from_: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            help="First event time (ISO 8601 or milliseconds), or where to read: `log`, `archive`, the folder of an"
            " archive, s3://bucket/folder. May stand twice.",
        ),
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="Event time to stop before.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many records.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write the records as columns into this file.")] = None,
) -> None:
    """Print a stretch of a topic as JSON lines, or write it as Parquet.

    With a place, from an archive too, times are append times, and each row says whether it lies in a hole.
    """
    from consumers.archive import command_line_reading as reading  # noqa: PLC0415 - help must answer at once
    from infra.servers.broker import kept_log  # noqa: PLC0415 - help must answer at once
    from streams import columns, topics  # noqa: PLC0415 - same

    if topic not in topics.TOPICS:
        raise typer.BadParameter(f"there is no topic {topic!r}; there are {', '.join(topics.TOPICS)}")
    places = [one for one in from_ or () if reading.is_place(one)]
    times = [one for one in from_ or () if one not in places]
    if len(places) > 1 or len(times) > 1:
        raise typer.BadParameter("--from takes one place and one time")
    between = (time_ms(times[0] if times else None), time_ms(to))
    if places:
        from consumers.archive.frames import Wanted  # noqa: PLC0415 - help must answer at once

        wanted = Wanted(topic, *between)
        for line in reading.read_rows(settings_of(context), places[0], wanted, limit, parquet):
            typer.echo(line)
        return
    with kept_log(settings_of(context), to_people(is_json=True)) as log:
        if parquet is not None:
            frame = columns.read_frame(log, topic, *between, limit)
            frame.to_parquet(parquet)
            typer.echo(f"{len(frame)} records in {parquet}.")
            return
        stretch = columns.Stretch()
        for record, _ in columns.read_records(log, topic, *between, limit, stretch=stretch):
            place = f'{{"partition":{record.partition},"offset":{record.offset},"append_ms":{record.append_ms},"key":'
            typer.echo(f'{place}{json.dumps(record.key)},"value":{record.value.decode()}}}')
        for where in stretch.unreadable:
            typer.echo(f"cannot be read: {where}", err=True)


@app.command()
def explain(
    context: typer.Context,
    order: Annotated[str, typer.Argument(help="Intent id, identifier, or the order's or a fill's id at the exchange.")],
    language: Language = "en",
    *,
    as_json: Json = False,
) -> None:
    """Print the chain from an order to signal, model, features and raw records, with the coordinates of each."""
    from consumers import lineage, lineage_words  # noqa: PLC0415 - help must answer at once
    from infra.servers.broker import kept_log  # noqa: PLC0415 - same

    settings = settings_of(context)
    with kept_log(settings, to_people(is_json=True)) as log:
        chain = lineage.Lineage(log, settings.home, settings.execute.database).explain(order)
    if as_json:
        show_object(chain, is_json=True)
        return
    for line in lineage_words.lines(chain, language):
        typer.echo(line)


@app.command()
def train(
    context: typer.Context,
    model: Annotated[Literal["linear"], typer.Option(help="Kind of model.")] = "linear",
    source: Annotated[
        Literal["log", "synthetic", "recording"],
        typer.Option(help="Rows of the running log, of a synthetic market made in memory, or of recordings."),
    ] = "log",
    recordings: Annotated[
        list[Path] | None, typer.Option("--recording", exists=True, dir_okay=False, help="Recordings to train on.")
    ] = None,
    seconds: Annotated[int, typer.Option(min=60, help="Market time of the synthetic market.")] = 3_600,
    markets: Annotated[int, typer.Option(min=1, max=500, help="Markets of the synthetic market.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic market; the demo's own is 7.")] = 1_001,
    from_: Annotated[str | None, typer.Option("--from", help="First event time of the log's rows.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Event time to stop before.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the model; default: the run folder's models.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Train a model on feature rows and keep it with its card."""
    from rich.console import Console  # noqa: PLC0415 - help must answer at once

    from models.forecast import artefact, registry  # noqa: PLC0415 - same
    from models.forecast.train import report  # noqa: PLC0415 - same
    from producers import training  # noqa: PLC0415 - same

    settings = settings_of(context)
    if source == "recording" and not recordings:
        raise BadSettings("Name at least one file with --recording.")
    between_ms = (time_ms(from_), time_ms(to))
    wanted = training.Wanted(source, recordings or [], seconds, markets, seed, between_ms)
    made = training.trained(model, wanted, settings, _tell)
    file = out or registry.folder(settings.home) / f"{made.id}.json"
    artefact.write(made, file)
    if as_json:
        show_object({"id": made.id, "file": str(file)}, is_json=True)
    else:
        Console().print(report(made))
        typer.echo(f"Kept as {file}; setting predict.model = {made.id!r} uses it.")


@app.command()
def verify(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What to show; `list` names all.")],
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Small figures, for the tests.")] = False,
    trials: Annotated[int | None, typer.Option(min=1, help="Number of trials where it has some.")] = None,
    only: Annotated[str | None, typer.Option(help="One drill, by its name.")] = None,
    session: Annotated[bool, typer.Option("--session", help="Parity of what was recorded with its replay.")] = False,
    day: Annotated[str | None, typer.Option(help="The same of one KST day, like 2026-11-20.")] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="Where it stands: `log`, `archive`, a folder, s3://bucket/folder.")
    ] = None,
    strategies: Annotated[
        Path | None, typer.Option(help="Folder of strategies to look for leaks in, as `trade.strategies_folder`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show that a promise holds on this machine; exit code 0 only where it does."""
    given: dict[str, Any] = {"trials": trials, "only": only, "session": session or None, "day": day, "source": source}
    given |= {"strategies": strategies}
    further = {key: value for key, value in given.items() if value is not None}
    _run_figures(context, VERIFY, name, {"quick": quick, **further}, is_json=as_json)


@app.command()
def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What to measure; `list` names all.")],
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Small figures, for the tests.")] = False,
    runs: Annotated[int | None, typer.Option(min=1, help="Number of runs where it has some.")] = None,
    as_json: Json = False,
) -> None:
    """Measure against a target; exit code 0 only where it is met."""
    further = {} if runs is None else {"runs": runs}
    _run_figures(context, BENCH, name, {"quick": quick, **further}, is_json=as_json)


def main() -> None:
    """Enter here; an error of ours is one clear line on stderr, never a traceback."""
    try:
        app()
    except BadSettings as error:
        _fail(error, BAD_USAGE)
    except ObservatorError as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.filename is None and error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        where = error.filename or "a file"
        _fail(Stop(f"{where}: {error.strerror}. Look at its folder's permissions and room."), 1)


def _fail(error: ObservatorError, code: int) -> None:
    print(f"observator: {error}", file=sys.stderr)
    sys.exit(code)


def parity(
    settings: "Settings | None" = None,
    *,
    quick: bool = False,
    session: bool = False,
    day: str | None = None,
    source: str | None = None,
) -> dict[str, object]:
    """`verify parity`: of a recorded session or day where one is named, else of the recordings at hand and a made log.

    Recordings are looked for in `OBSERVATOR_DATA`, else in `../shared/data`.
    """
    if settings is not None and (session or day or source):
        from consumers.verify.session_command import verify_recorded  # noqa: PLC0415 - help must answer at once

        return verify_recorded(settings, source or "log", day)
    from consumers.verify.disturbed import Written  # noqa: PLC0415 - help must answer at once
    from consumers.verify.parity import verify_parity  # noqa: PLC0415 - same
    from producers.upbit.replay_source import records_of_recording  # noqa: PLC0415 - same

    folder = Path(os.environ.get("OBSERVATOR_DATA") or Path(__file__).parent.parent / "shared" / "data") / "upbit_ws"
    recordings = {}
    for file in sorted(folder.glob("upbit_ws_raw_*.log.gz")):
        outputs = records_of_recording(file, grid_ms=1000, lateness_ms=500, session=1_700_000_000_000)
        recordings[file.name] = [Written(0, one.topic, one.partition, one.key, one.value) for one in outputs]
    return verify_parity(recordings, quick=quick)


def replay_check(*, quick: bool = False) -> dict[str, object]:
    """`verify replay`, with the sandbox's room handed in to make the paper fills again."""
    from consumers.verify.replay import verify_replay  # noqa: PLC0415 - help must answer at once
    from producers.sandbox.replayed import read_groups, replay_fills  # noqa: PLC0415 - same
    from producers.sandbox.replayed_told import hold_against_events  # noqa: PLC0415 - same
    from streams.history import History  # noqa: PLC0415 - same

    def fills(history: History, journal: Path, prefix: str) -> tuple[int, int, str]:
        found = replay_fills(history, read_groups(journal), prefix)
        told = hold_against_events(history, found)
        differing = found.differing + found.fills - found.equal + told.differing
        return told.compared, differing, str(found.first or told.first)

    return verify_replay(quick=quick, fills=fills)


def api(settings: "Settings", stop: threading.Event) -> None:
    """Serve the process `api`: what the API may do are the functions of the verbs, handed to it here."""
    from consumers.execute import interference_verbs  # noqa: PLC0415 - help must answer at once
    from consumers.execute.halts_verbs import NO_EXECUTOR, Verbs  # noqa: PLC0415 - same
    from dashboard.api import Actions, HaltKind, Told, serve  # noqa: PLC0415 - same
    from dashboard.api_gate import keep_token  # noqa: PLC0415 - same
    from infra.errors import LogUnavailable  # noqa: PLC0415 - same
    from infra.servers.broker import bootstrap_of, listens, open_log  # noqa: PLC0415 - same
    from infra.servers.ports import claim_port  # noqa: PLC0415 - same

    def told(act: Callable[[Verbs], "Outcome"], language: Words) -> Told:
        sentences: list[str] = []
        outcome = act(Verbs(settings, sentences.append, language, by="api"))
        return Told(outcome.figures, sentences, is_done=outcome.code != NO_EXECUTOR)

    def halt_it(account: str, kind: HaltKind, timeout_s: float, language: Words) -> Told:
        return told(lambda verbs: verbs.halt(account, kind, timeout_s), language)

    def lift(account: str, typed: str, language: Words) -> Told:
        return told(lambda verbs: verbs.resume(account, has_looked=False, ask=lambda _: typed), language)

    @contextmanager
    def log() -> Iterator["Log"]:
        if not listens(bootstrap_of(settings)):  # the client alone would wait long and write much
            raise LogUnavailable("nobody answers at the broker's address")
        with open_log(settings) as opened:
            yield opened

    def accounts(language: Words) -> list[dict[str, Any]]:
        with log() as opened:
            return [interference_verbs.row_of(one, language) for one in interference_verbs.accounts(opened).values()]

    def resume_it(account: str, typed: str, language: Words) -> dict[str, Any]:
        with log() as opened:
            return interference_verbs.resume(
                opened, account, has_looked=False, ask=lambda _: typed, language=language, by="api"
            )

    standings = Verbs(settings, lambda _: None).standings
    port = settings.dashboard.api_port or claim_port(settings.home, "api")
    serve(Actions(standings, halt_it, lift, accounts, resume_it), keep_token(settings.home), port, stop)


# --- what verbs share ---------------------------------------------------------------------------------------------


def _run_process(name: str, settings: "Settings", stop: threading.Event) -> None:
    """Run a process to its end; raises `Stop` where it ends although nobody asked."""
    if name == "kafka":
        from infra.servers.jars import default_cache  # noqa: PLC0415 - only this process needs it
        from infra.servers.kafka import KafkaServer  # noqa: PLC0415 - same

        KafkaServer(settings.home, default_cache(os.environ)).run_foreground()
        return
    if name == "page":
        from dashboard.server import become_page  # noqa: PLC0415 - only this process needs it

        become_page(settings)
    place = "streams-faust" if name == "streams" and settings.streams.runner == "faust" else name
    if place not in PROCESSES:
        raise BadSettings(f"There is no process {name!r}; there are kafka, page, {', '.join(PROCESSES)}.")
    run = _function(PROCESSES[place])
    if name in {"sandbox", "api"}:  # the API works without the log, too
        run(settings, stop)
    else:
        from infra.servers.broker import open_log  # noqa: PLC0415 - the sandbox needs no log
        from streams import process as around  # noqa: PLC0415 - same

        with open_log(settings) as log:
            if name == "execute":  # it cancels and sells without the log, too, and waits for it meanwhile
                run(settings, log, stop)
            elif around.wait_for_log(settings, log, stop):
                if name not in {"feed", "predict", "trade"}:  # they write their own, with what they alone know
                    around.open_run(name, settings, log)
                with around.lines_into_the_log(name, log):
                    run(settings, log, stop)
    if not stop.is_set() and place != "streams-faust":  # Faust takes the signals itself
        raise Stop("it ended although nobody asked it to")


def _function(place: str) -> Callable[..., Any]:
    module, name = place.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _run_figures(
    context: typer.Context, known: dict[str, str], name: str, options: dict[str, Any], *, is_json: bool
) -> None:
    if name == "list":
        show_table("", [{"name": one} for one in known], is_json=is_json)
        return
    if name not in known:
        raise typer.BadParameter(f"there is no {name!r}; there are {', '.join(known) or 'none yet'}")
    measure = _function(known[name])
    wanted = inspect.signature(measure).parameters.keys()
    if others := options.keys() - wanted:
        raise typer.BadParameter(f"{name} takes no --{', --'.join(sorted(others))}")
    if "settings" in wanted:
        options = {"settings": settings_of(context), **options}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a check that is ended ends what it started
    try:
        with _stderr_only():
            found: dict[str, Any] = measure(**options)
    finally:
        signal.signal(signal.SIGTERM, before)
    if is_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        show_table(
            f"{found['name']}: {'passed' if found['passed'] else 'NOT passed'}",
            [{"figure": key, "value": value} for key, value in found["figures"].items()]
            + [{"figure": f"({key})", "value": value} for key, value in found["conditions"].items()],
            is_json=False,
        )
    if not found["passed"]:
        raise typer.Exit(1)


@contextmanager
def _stderr_only() -> Iterator[None]:
    """Keep stdout for the one object: what a measurement prints meanwhile goes to stderr, its logging too."""
    from contextlib import redirect_stdout  # noqa: PLC0415 - help must answer at once

    from infra import logs as lines  # noqa: PLC0415 - same

    lines.set_up("observator", level="WARNING", is_json=False)
    with redirect_stdout(sys.stderr):
        yield


def _tell(what: str, done: int, total: int) -> None:
    print(f"{what} ({done} of {total})", file=sys.stderr)


if __name__ == "__main__":
    main()
