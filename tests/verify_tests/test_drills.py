"""`verify drills`: three of the outages for real, and the parts that judge and disturb."""

import json
import os
import signal
import struct
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from consumers.verify import drills_books as books
from consumers.verify.drills import CLEAN, CONTROL, DRILLS, QUICK, Drill, problem_of, verify_drills
from consumers.verify.drills_surroundings import set_clock
from infra.errors import BadSettings

D = Decimal


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_outages_leave_every_account_the_same() -> None:
    result = verify_drills(quick=True)
    figures = result["figures"]
    assert isinstance(figures, dict)
    assert result["passed"], result
    assert figures["drills"] == figures["passed"] == len(QUICK)
    for name in QUICK:
        assert [figures[f"{name}: {one}"] for one in CLEAN] == [0] * len(CLEAN)
        assert figures[f"{name}: {CONTROL}"] > 0
        assert figures[f"{name}: orders accepted"] > 1
    assert figures["names-gone: in flight"] == 6


def test_an_unknown_drill_is_named() -> None:
    with pytest.raises(BadSettings, match="no drill 'nothing'; there are names-gone"):
        verify_drills(only="nothing")


def test_every_outage_that_was_promised_is_there() -> None:
    assert len(DRILLS) == 13
    assert all(drill.what for drill in DRILLS.values())


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        ({}, ""),
        ({"doubled": 1}, "doubled is 1"),
        ({"exposure error": 1e-8}, "exposure error is 1e-08"),
        ({"in flight": 5}, "in flight is 5"),
        ({"held": 0.1}, "held is 0.1"),
        ({CONTROL: 0}, "a forgotten fill would not be seen"),
    ],
)
def test_a_drill_is_judged_by_its_figures(found: dict[str, float], wrong: str) -> None:
    drill = Drill(lambda _: {}, {"in flight": 6}, {"held": 0})
    clean = dict.fromkeys(CLEAN, 0.0) | {CONTROL: 1.0, "in flight": 6, "held": 0}
    assert problem_of(drill, clean | found) == wrong


def test_the_three_accounts_are_compared_to_the_last_digit() -> None:
    fills = [
        books.Fill("KRW-BTC", True, D("0.1"), D("10000"), D("5")),
        books.Fill("KRW-BTC", False, D("0.04"), D("4100"), D("2.05")),
        books.Fill("KRW-ETH", True, D("1"), D("50"), D("0.025")),
    ]
    held = books.of_fills(fills)
    assert held == {"BTC": D("0.06"), "KRW": D("-5957.075"), "ETH": D("1")}
    rows = [
        {"account": "a", "currency": "KRW", "balance": "94042.925", "locked": "0"},
        {"account": "a", "currency": "BTC", "balance": "1.05", "locked": "0.01"},
        {"account": "a", "currency": "ETH", "balance": "1", "locked": "0"},
        {"account": "b", "currency": "BTC", "balance": "9", "locked": "0"},
    ]
    before = {"KRW": D(100_000), "BTC": D(1)}
    change = books.less(books.of_exchange(rows, "a"), before)
    assert books.largest_difference(held, change) == 0
    rows[1]["locked"] = "0.01000000000000000001"
    change = books.less(books.of_exchange(rows, "a"), before)
    assert books.largest_difference(held, change) == D("1e-20")


def test_the_clock_of_a_process_jumps(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    set_clock(file, 0)
    code = """
import sys, time
from pathlib import Path
from consumers.verify.drills_surroundings import shifted_clock
real = time.time_ns
shifted_clock(Path(sys.argv[1]))
for _ in range(3):
    print(round((time.time_ns() - real()) / 1e9), round(time.time() - real() / 1e9), flush=True)
    sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        seen = []
        for shift_ms in (86_400_000, -86_400_000, 0):
            seen.append(child.stdout.readline().split())
            set_clock(file, shift_ms)
            child.stdin.write("\n")
            child.stdin.flush()
    assert seen == [["0", "0"], ["86400", "86400"], ["-86400", "-86400"]]
    assert struct.calcsize("<q") == file.stat().st_size


def test_a_life_stops_itself_at_a_point_and_can_be_woken() -> None:
    code = """
import os
from consumers.verify.drills_child import acting_at
reach = acting_at("a", 2, "stop", 0)
for name in ("b", "a", "a", "a"):
    reach(name)
    print(name, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        os.kill(child.pid, signal.SIGCONT)
        assert child.communicate(timeout=30)[0].split() == ["b", "a", "a", "a"]
    finally:
        child.kill()
        child.wait()


def test_a_point_ends_another_process() -> None:
    victim = subprocess.Popen(["sleep", "60"])
    code = f"""
from consumers.verify.drills_child import acting_at
reach = acting_at("a", 1, "kill", {victim.pid})
reach("a")
reach("a")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert victim.wait(10) == -signal.SIGKILL


def test_names_that_cannot_be_resolved(tmp_path: Path) -> None:
    code = """
import json, socket, sys
from pathlib import Path
from consumers.verify import drills_surroundings as around
home = Path(sys.argv[1])
(home / "hosts").write_text(around.SEEN)
for prepare in (around.own_names, around.watched_names):
    if prepare is around.own_names and not around.own_mounts():
        continue
    prepare(home)
    seen = []
    for text in (around.SEEN, "\\n", around.SEEN):
        (home / "hosts").write_text(text)
        try:
            socket.getaddrinfo("localhost", 80)
            seen.append(True)
        except socket.gaierror:
            seen.append(False)
    print(json.dumps(seen))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True, timeout=60
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines
    assert all(line == [True, False, True] for line in lines)


def test_the_page_lists_every_drill() -> None:
    page = (Path(__file__).parents[2] / "docs" / "orders.md").read_text(encoding="utf-8")
    told = [line.split("`")[1] for line in page.split("| drill |")[1].splitlines() if line.startswith("| `")]
    assert told == list(DRILLS)
