"""`verify halts` and `bench saturation` in their short form, for real, and how trials are counted."""

import gc
import socket

import pytest

from consumers.verify.bench_saturation import bench_saturation
from consumers.verify.halts import (
    ACCOUNTS,
    LATENCIES_S,
    TRIALS,
    figures_of,
    plans_of,
    plans_on_postgres,
    verify_halts,
)
from consumers.verify.halts_trials import Plan, Trial
from consumers.verify.halts_wire import Passed, Wire


def passed(result: dict[str, object]) -> dict[str, float]:
    figures = result["figures"]
    assert isinstance(figures, dict)
    assert result["passed"], result
    return figures


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_halts_hold_over_restarts_and_without_a_broker() -> None:
    figures = passed(verify_halts(quick=True, stores=("sqlite",)))
    assert figures["halts over a restart"] >= figures["halts without a log"] > 0
    assert figures["placed after settled"] == figures["answers 429"] == figures["trials on PostgreSQL"] == 0


@pytest.mark.kafka
@pytest.mark.postgres
@pytest.mark.usefixtures("postgres")  # there is one here, so another one can be started
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_halts_hold_over_restarts_with_the_journal_on_postgresql() -> None:
    figures = passed(verify_halts(quick=True, stores=("postgresql",)))
    assert figures["halts over a restart"] == figures["trials on PostgreSQL"] == figures["trials"] > 0


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_pocket_is_never_refused() -> None:
    figures = passed(bench_saturation(quick=True))
    assert figures["answers 429"] == figures["answers 418"] == 0
    assert figures["protective-exit: wait p50 ms"] < figures["entry: wait p50 ms"]


def test_the_plan_has_every_latency_with_restarts_and_a_lost_broker() -> None:
    plans = plans_of(TRIALS, ACCOUNTS)
    assert len(plans) * ACCOUNTS >= TRIALS
    for latency_s in LATENCIES_S:
        mine = [plan for plan in plans if plan.latency_s == latency_s]
        assert len(mine) >= len(plans) // 3
        assert {"restart", "everybody"} <= {plan.special for plan in mine}
        assert {plan.fault for plan in mine} == ({"late-answer", "late-request"} if latency_s else {""})
    assert sum(plan.special == "no-log" for plan in plans) == 1
    on_postgres = {(plan.latency_s, plan.special) for plan in plans_on_postgres()}
    each = {(latency_s, special) for latency_s in LATENCIES_S for special in ("", "restart", "everybody")}
    assert on_postgres == each | {(0.0, "no-log")}


def test_the_wire_leaves_no_line_open() -> None:
    """Warnings are errors: a socket that is left to the garbage collector fails whichever test runs then."""
    with socket.create_server(("127.0.0.1", 0)) as exchange:
        with Wire(f"http://127.0.0.1:{exchange.getsockname()[1]}") as wire:
            port = int(wire.url.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b'POST /v1/orders {"identifier":"halts-h00-1-1"}')
                there, _ = exchange.accept()
                with there:
                    assert there.recv(100)
                    assert [one.name for one in wire.passed()] == ["halts-h00-1-1"]
        del wire
        gc.collect()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)


def trial(account: str, **times: float) -> Trial:
    return Trial(account, Plan(0.3, "late-answer"), "no-new-orders", **times)  # type: ignore[arg-type]  # all are times


def test_what_comes_after_the_command_and_after_rest_is_counted() -> None:
    trials = [
        trial("h00", began_s=10.0, closed_s=10.01, settled_s=11.0, resumed_s=20.0),
        trial("h01", began_s=10.0, closed_s=10.02, settled_s=12.0, resumed_s=20.0),
        trial("h02", began_s=10.0, closed_s=10.02, resumed_s=20.0),
    ]
    passed = [
        Passed("order", "halts-h00-000001-1", 9.5),
        Passed("order", "halts-h00-000002-1", 10.03),
        Passed("cancel", "halts-h00-000003-1", 10.9),
        Passed("order", "halts-h01-000004-1", 15.0),
        Passed("order", "halts-h01-000005-1", 21.0),
    ]
    placed = [("h00", 10_950.0), ("h00", 11_040.0), ("h01", 13_000.0), ("h01", 21_500.0)]
    figures = figures_of(trials, passed, placed)
    assert figures["gate closed, worst ms"] == 5000.0
    assert figures["gate closed, p50 ms"] == 30.0
    assert figures["trials with orders in the second before"] == 1
    assert figures["requests after settled"] == 1
    assert figures["placed after settled"] == 1
    assert figures["trials with a flaw"] == 1
    assert figures["settled at 300 ms, no-new-orders, p99 s"] == 2.0
