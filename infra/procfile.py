"""The processes of a deployment: what the `Procfile` declares, thinned out and multiplied by the settings.

Read by `infra.supervisor` and by the command line; starts nothing.
"""

import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from infra.errors import BadSettings, Unsupported
from infra.settings import Settings

PROCFILE = Path(__file__).resolve().parents[1] / "Procfile"
_LINE = re.compile(r"^([a-z][a-z0-9-]*):\s*(\S.*)$")


class Program(NamedTuple):
    """One process to keep running; `command` is ready to be executed."""

    name: str
    command: tuple[str, ...]


def read(file: Path = PROCFILE) -> list[Program]:
    """What the file declares, in its order; raises `BadSettings` with the line that cannot be read."""
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        raise Unsupported(f"{file} is missing: run `observator` from a checkout.") from None
    found: dict[str, Program] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None or match[1] in found:
            raise BadSettings(f"{file}, line {number}: expected `name: command` with a name of its own, not {line!r}.")
        found[match[1]] = Program(match[1], tuple(shlex.split(match[2])))
    return list(found.values())


def programs(settings: Settings, file: Path = PROCFILE) -> list[Program]:
    """What runs here: no `kafka` beside an external broker, no `archive` or `nightly` where it is off, only
    `settings.processes` where given, `streams` and `trade` as often as they have workers.
    """
    workers = {"streams": settings.streams.workers, "trade": settings.trade.workers}
    declared = read(file)
    unknown = set(settings.processes) - {program.name for program in declared}
    if unknown:
        raise BadSettings(f"`processes` names {sorted(unknown)}, which {file.name} does not declare.")
    chosen: list[Program] = []
    for program in declared:
        if program.name == "kafka" and settings.kafka.bootstrap:
            continue
        if settings.processes and program.name not in settings.processes:
            continue
        if program.name == "archive" and not settings.archive.is_on:
            continue
        if program.name == "nightly" and not settings.nightly.is_on:
            continue
        command = runnable(program.command)
        chosen.append(Program(program.name, command))
        chosen += [
            Program(f"{program.name}-{number}", (*command, "--worker", str(number)))
            for number in range(1, workers.get(program.name, 1))
        ]
    return chosen


def runnable(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command with this very interpreter where it starts with `observator` or `python`."""
    if command[0] == "observator":
        return (sys.executable, "-P", "-m", "observator", *command[1:])
    if command[0] == "python":
        return (sys.executable, *command[1:])
    return command
