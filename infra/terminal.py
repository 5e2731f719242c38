"""Draws phases, panels and tables in a terminal, or prints plain lines where the output is none.

Used by the demo and the command line; knows nothing of what the words and figures mean.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TextIO

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

_WIDEST = 10_000
_SENTENCE = 24


class Section(NamedTuple):
    """A titled table; `header` may be empty. The first column is words, the others are set right."""

    title: str
    rows: Sequence[Sequence[str]]
    header: Sequence[str] = ()


class Screen:
    """A terminal that shows what a long run does; plain lines every `every_s` seconds where it is no terminal."""

    def __init__(self, stream: TextIO | None = None, *, every_s: float = 3.0) -> None:
        self.console = Console(file=stream or sys.stdout, highlight=False)
        self.is_live = self.console.is_terminal and not self.console.is_dumb_terminal
        self._every_s = every_s
        self._printed_at = float("-inf")
        self._live: Live | None = None

    def say(self, text: str, style: str = "") -> None:
        """Print one line that stays."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    @contextmanager
    def phases(self) -> Iterator["Phases"]:
        """Show phases, one after the other, each with its time."""
        phases = Phases(self)
        try:
            yield phases
        finally:
            phases.close()

    @contextmanager
    def live(self) -> Iterator[None]:
        """Between enter and exit `update` draws in place."""
        if not self.is_live:
            yield
            return
        with Live(Text(""), console=self.console, refresh_per_second=4, transient=True) as self._live:
            yield
        self._live = None

    def update(self, title: str, sections: Sequence[Section], line: str) -> None:
        """Show the newest state: the sections in a terminal, else now and then the one line."""
        if self._live is not None:
            self._live.update(Panel(columns(sections, self.console.width), title=title))
        elif not self.is_live and (now := time.monotonic()) - self._printed_at >= self._every_s:
            self._printed_at = now
            self.say(line)

    def show(self, sections: Sequence[Section]) -> None:
        """Print tables that stay; a line may be longer than the terminal's, a word or an amount is never broken."""
        for section in sections:
            self.say(section.title, "bold")
            table = drawn(section._replace(title=""), is_whole=True)
            needed = Measurement.get(self.console, self.console.options.update(max_width=_WIDEST), table).minimum
            wide = Console(file=self.console.file, width=max(self.console.width, needed), highlight=False)
            wide.print(table)


class Phases:
    """The start of a run, phase by phase."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._begun = time.monotonic()
        self._last = ""
        self._printed_at = float("-inf")
        self._task: TaskID | None = None
        self._progress: Progress | None = None
        if screen.is_live:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TimeElapsedColumn(),
                console=screen.console,
            )
            self._progress.start()

    def begin(self, text: str) -> None:
        """End the phase before and begin the next one."""
        self.finish()
        self._last, self._begun = text, time.monotonic()
        if self._progress is None:
            self._screen.say(f"{text} ...")
        else:
            self._task = self._progress.add_task(text, total=None)

    def progress(self, done: float, total: float, text: str = "") -> None:
        """Say how far the phase is."""
        words = f"{self._last}{': ' if text else ''}{text}"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=words, completed=done, total=total or None)
        elif text and time.monotonic() - self._printed_at > 3:
            self._printed_at = time.monotonic()
            self._screen.say(f"  {words}")

    def finish(self) -> None:
        """End the phase."""
        took = time.monotonic() - self._begun
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=f"{self._last} ✓", completed=1, total=1)
            self._progress.stop_task(self._task)
        elif self._last and self._progress is None:
            self._screen.say(f"  done in {took:.1f} s")
        self._task, self._last = None, ""

    def close(self) -> None:
        """Stop drawing; a phase under way stays unfinished."""
        if self._progress is not None:
            self._progress.stop()


def drawn(section: Section, *, is_whole: bool = False) -> Table:
    """A section as a table; with `is_whole` no word is broken, and sentences keep `_SENTENCE` cells."""
    table = Table(
        title=section.title or None,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_header=bool(section.header),
        pad_edge=False,
    )
    width = max([len(section.header), *(len(row) for row in section.rows)], default=1)
    for number in range(width):
        name = section.header[number] if number < len(section.header) else ""
        cells = [name, *(row[number] for row in section.rows if number < len(row))]
        table.add_column(
            name,
            justify="left" if number == 0 else "right",
            overflow="fold",
            no_wrap=number == 0,
            min_width=_least(cells, is_first=number == 0) if is_whole else None,
        )
    for row in section.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _least(cells: Sequence[str], *, is_first: bool) -> int:
    """How narrow a column may be: its longest word, and more for sentences."""
    longest = max(map(cell_len, cells))
    words = max((cell_len(word) for cell in cells for word in cell.split()), default=1)
    return longest if is_first else max(words, min(longest, _SENTENCE))


def columns(sections: Sequence[Section], width: int) -> RenderableType:
    """Sections side by side where the terminal is wide enough, else below one another."""
    if width < 110:
        return Group(*(drawn(section) for section in sections))
    grid = Table.grid(padding=(0, 3))
    grid.add_column()
    grid.add_column()
    half = (len(sections) + 1) // 2
    grid.add_row(Group(*map(drawn, sections[:half])), Group(*map(drawn, sections[half:])))
    return grid
