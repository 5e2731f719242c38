"""The rate budget of one pocket: who goes first, what is kept for whom, and what others' calls teach."""

import socket
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from infra.errors import Limited
from infra.upbit.pace import FLIGHT_S, Pace, Place, Rank, errand
from infra.upbit.rates import RATES


class Clock:
    """Stands until it is set."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


def header(left: int) -> str:
    return f"group=order; min=480; sec={left}"


def learned(clock: Clock) -> Pace:
    """A pace that knows that twelve orders may be sent, with nothing under way."""
    pace = Pace(RATES, now_s=clock)
    pace.answered(pace.wait("order"), header(11))
    clock.at_s += 1
    return pace


def until(check: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.002)


def test_each_rank_has_places_that_the_ranks_behind_it_never_get() -> None:
    pace = learned(Clock())
    given = dict.fromkeys(Rank, 0)
    for rank in reversed(Rank):
        while isinstance(pace.take("order", rank), Place):
            given[rank] += 1
    assert given == {Rank.ENTRY: 8, Rank.MANUAL: 0, Rank.EXIT: 2, Rank.PROTECTIVE: 2}


def test_the_smallest_budget_has_a_place_for_protective_exits() -> None:
    clock = Clock()
    fresh, closed = Pace(RATES, now_s=clock), learned(clock)
    closed.close("order", 1.0)
    clock.at_s += 1.001
    for pace in (fresh, closed):
        given = {rank: isinstance(pace.take("order", rank), Place) for rank in reversed(Rank)}
        assert given == {Rank.ENTRY: True, Rank.MANUAL: False, Rank.EXIT: False, Rank.PROTECTIVE: True}
        assert not isinstance(pace.take("order", Rank.PROTECTIVE), Place)


def test_who_waits_goes_by_rank_then_by_time() -> None:
    clock = Clock()
    pace = learned(clock)
    places = [pace.wait("order", Rank.PROTECTIVE) for _ in range(12)]
    given: list[tuple[int, Rank, int]] = []
    threads = []

    def call(rank: Rank, number: int) -> None:
        given.append((pace.wait("order", rank).number, rank, number))

    for number, rank in enumerate((Rank.ENTRY, Rank.MANUAL, Rank.EXIT, Rank.PROTECTIVE) * 2):
        threads.append(threading.Thread(target=call, args=(rank, number)))
        threads[-1].start()
        until(lambda number=number: pace.waiting("order") == number + 1)
    for place in places:
        pace.answered(place, header(0))
    clock.at_s += 1
    pace.wake()
    for thread in threads:
        thread.join(15)
    in_turn = [(rank, number) for _, rank, number in sorted(given)]
    assert in_turn == sorted(in_turn)
    assert len(in_turn) == 8


def test_what_others_take_from_the_pocket_is_left_to_them() -> None:
    clock = Clock()
    pace = learned(clock)
    mine = [pace.wait("order", Rank.PROTECTIVE) for _ in range(3)]
    pace.answered(mine[0], header(9))
    assert isinstance(pace.take("order", Rank.PROTECTIVE), Place), "all that is gone is ours"
    pace.answered(mine[1], header(2))  # four of ours, six of somebody's
    taken = 0
    while isinstance(pace.take("order", Rank.PROTECTIVE), Place):
        taken += 1
    assert taken == 2
    clock.at_s += 1.001
    assert isinstance(pace.take("order", Rank.PROTECTIVE), Place), "an interval later they are forgotten"


def test_one_place_is_always_left_to_ask_with() -> None:
    clock = Clock()
    pace = learned(clock)
    place = pace.wait("order")
    pace.answered(place, header(0))
    clock.at_s += FLIGHT_S
    assert isinstance(pace.take("order"), Place)


def test_a_call_may_be_called_back_while_it_waits() -> None:
    pace = learned(Clock())
    while isinstance(pace.take("order", Rank.PROTECTIVE), Place):
        pass
    is_called_back = threading.Event()

    def check() -> None:
        if is_called_back.is_set():
            raise Limited("called back")

    failures: list[Limited] = []

    def call() -> None:
        try:
            pace.wait("order", Rank.ENTRY, check)
        except Limited as error:
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    until(lambda: pace.waiting("order") == 1)
    is_called_back.set()
    pace.wake()
    thread.join(5)
    assert len(failures) == 1
    assert pace.waiting("order") == 0


def test_a_client_takes_the_rank_of_the_errand_it_is_on() -> None:
    clock = Clock()
    pace = learned(clock)
    for _ in range(8):
        pace.wait("order", Rank.ENTRY)
    before = pace.hooks()["request"][0]
    request = httpx.Request("POST", "http://127.0.0.1/v1/orders")
    for rank, count in ((Rank.EXIT, 2), (Rank.PROTECTIVE, 2)):
        with errand(rank):
            for _ in range(count):
                before(request)
    assert not isinstance(pace.take("order", Rank.PROTECTIVE), Place)

    def refuse() -> None:
        raise Limited("not now")

    with errand(Rank.PROTECTIVE, refuse), pytest.raises(Limited):
        before(request)


def test_a_call_that_never_left_holds_no_place() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    pace = Pace(RATES, now_s=Clock())
    with httpx.Client(event_hooks=pace.hooks(), trust_env=False) as client, pytest.raises(httpx.ConnectError):
        client.post(f"http://127.0.0.1:{port}/v1/orders")
    assert isinstance(pace.take("order", Rank.ENTRY), Place)
