"""The place that an import goes to: whole or no archive, over crashes; never over what belongs to others."""

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

import observator
from infra.errors import BadSettings
from streams.history import merged
from streams.topics import TOPICS

CHILD = """
import os, signal, sys
from pathlib import Path
from infra.settings import Settings
from infra.store import FolderStore
from producers.imports.importing import import_files

class Killed(FolderStore):
    writes = 0
    def write(self, name, data):
        self.writes += 1
        if self.writes == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(name, data)

import_files([Path(one) for one in sys.argv[3:]], Killed(Path(sys.argv[2])), Settings())
"""


def everything(made: Any, to: str) -> list[Any]:
    history = made.history(to)
    found = [one for one in merged(history, history.spans(TOPICS)) if one.topic != "manifests"]
    assert len(found) > 100
    return found


@pytest.mark.parametrize("at", [3, 26])
def test_an_import_that_is_killed_is_no_archive_and_is_resumed(made: Any, at: int) -> None:
    files = [made.books(), made.trades()]
    whole = made.imported(*files, to="whole")
    assert whole["parts"] == 25
    folder = made.folder / "archive"
    child = subprocess.run(
        [sys.executable, "-P", "-c", CHILD, str(at), str(folder), *map(str, files)], check=False, timeout=60
    )
    assert child.returncode == -signal.SIGKILL
    assert len(made.store().names()) == at - 1
    with pytest.raises(FileNotFoundError):
        made.history()
    with pytest.raises(BadSettings, match="of another import, broken off"):
        made.imported(made.books([made.book(1)], name="other.csv"))
    assert made.imported(*files)["imported"] == "resumed"
    assert everything(made, "archive") == everything(made, "whole")


def test_importing_again_says_so_and_changes_nothing(made: Any) -> None:
    files = [made.books(), made.trades()]
    first = made.imported(*files)
    assert first["imported"] == "now"
    before = {name: made.store().read(name) for name in made.store().names()}
    again = made.imported(*reversed(files))
    assert (again["run"], again["imported"]) == (first["run"], "before: nothing was done")
    assert {name: made.store().read(name) for name in made.store().names()} == before


def test_another_run_or_a_folder_with_something_in_it_is_left_alone(made: Any) -> None:
    made.imported(made.books())
    with pytest.raises(BadSettings, match="is the archive of another run"):
        made.imported(made.trades())
    (made.folder / "full").mkdir()
    (made.folder / "full" / "letter.txt").write_text("mine")
    with pytest.raises(BadSettings, match=r"is not empty \(letter.txt\) and no archive"):
        made.imported(made.trades(), to="full")
    assert [one.name for one in (made.folder / "full").iterdir()] == ["letter.txt"]


def test_a_file_that_changes_meanwhile_ends_the_import(made: Any) -> None:
    path = made.trades()

    def tell(what: str, _done: int, _total: int) -> None:
        if what == "writing":
            with path.open("a") as file:
                file.write(made.trade(99) + "\n")

    with pytest.raises(BadSettings, match=r"trades\.csv was changed while it was read"):
        made.imported(path, tell=tell)
    with pytest.raises(FileNotFoundError):
        made.history()


def test_the_verb_prints_one_object_or_tables_and_ends_with_a_sentence(
    made: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def observator_(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["observator", "--home", str(made.folder), "import", *arguments])
        code: Any = 0
        try:
            observator.main()
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    files = [str(made.books()), str(made.trades())]
    code, out, err = observator_(*files, "--to", str(made.folder / "archive"), "--json")
    assert (code, json.loads(out)["books"]) == (0, 60)
    assert "Writing" in err
    code, out, _ = observator_(*files, "--to", str(made.folder / "second"))
    assert code == 0
    assert "imported = now" in out
    assert "trades.csv" in out
    code, out, err = observator_(str(made.books([])), "--to", str(made.folder / "other"))
    assert (code, out) == (2, "")
    assert "holds no book and no trade" in err
