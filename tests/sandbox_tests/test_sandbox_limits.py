"""Rate limits over real sockets, with three sizes of buckets: who keeps to them, who does not, and cancels first."""

import contextlib
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import websocket
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from consumers.execute.gateway import UpbitGateway
from consumers.execute.venue import Accepted, Answer, OrderRequest, Refused
from infra.errors import ExchangeUnavailable
from infra.settings import Settings
from infra.upbit import signing
from infra.upbit.pace import FIRST_SIZE, FLIGHT_S, Pace, Place, Rank, block_seconds, errand
from infra.upbit.rates import RATES, group_of, rates_with
from producers.sandbox.configuration import from_settings
from producers.sandbox.limits import FIRST_BLOCK_S, FORGIVEN_S, Limits
from producers.sandbox.thread import SandboxThread
from producers.upbit.rest import Quotation

from .conftest import SMALL, connect, receive
from .test_sandbox_orders import limit, until

SIZES = {
    "default": {},
    "small": {"order": 2, "default": 3, "crix-trades": 2, "order-test": 1},
    "large": {"order": 24, "default": 60, "crix-trades": 20, "order-test": 16},
}
RESTING = OrderRequest("KRW-BTC", "bid", "limit", Decimal(10_000_000), Decimal("0.0005"), "")


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.at_s = 1_000.0

    def __call__(self) -> float:
        return self.at_s


@pytest.fixture(scope="module", params=SIZES)
def limited(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxThread]:
    """A sandbox that enforces its limits, in each of the three sizes."""
    home = tmp_path_factory.mktemp("limited")
    with SandboxThread(home, plan=SMALL, warmup_seconds=3, limits=SIZES[request.param]) as running:
        client = connect(running.ws_url, {"type": "orderbook", "codes": ["KRW-BTC"]})
        receive(client)
        running.control("POST", "/sandbox/accounts", {"access_key": "paper-main", "balances": {"KRW": "100000000"}})
        yield running
        client.shutdown()


@pytest.fixture
def account(limited: SandboxThread, request: pytest.FixtureRequest) -> tuple[str, str]:
    """A pocket with full buckets."""
    name = f"a{abs(hash(request.node.nodeid)) % 10**12}"
    body = {"access_key": name, "balances": {"KRW": "100000000"}}
    made = limited.control("POST", "/sandbox/accounts", body)
    return made["access_key"], made["secret_key"]


def size_of(sandbox: SandboxThread, group: str) -> int:
    return sandbox.sandbox.limits.rates[group].size


def larger(sandbox: SandboxThread) -> dict[str, int]:
    """What our clients are told: larger sizes only. Smaller ones they find out by themselves."""
    return {group: size for group, size in sandbox.configuration.limits.items() if size > RATES[group].size}


class Client:
    """One connection that sends as fast as it can."""

    def __init__(self, sandbox: SandboxThread, keys: tuple[str, str], address: str = "127.0.0.1") -> None:
        self.keys = keys
        self.line = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=10, source_address=(address, 0))

    def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, query: str = "", **headers: str
    ) -> tuple[int, bytes, str]:
        hashed = query or (signing.query_of(body) if body else "")
        sent = {"Authorization": signing.sign(*self.keys, hashed), **headers}
        data = json.dumps(body).encode() if body else None
        self.line.request(method, path + (f"?{query}" if query else ""), data, sent)
        answer = self.line.getresponse()
        return answer.status, answer.read(), answer.getheader("Remaining-Req") or ""


Opener = Callable[..., Client]


@pytest.fixture
def opened(limited: SandboxThread, account: tuple[str, str]) -> Iterator[Opener]:
    """Open clients of the account (or with other keys, from another address); they are closed at the end."""
    with contextlib.ExitStack() as stack:

        def open_client(keys: tuple[str, str] = account, address: str = "127.0.0.1") -> Client:
            client = Client(limited, keys, address)
            stack.callback(client.line.close)
            return client

        yield open_client


@pytest.fixture
def clock(limited: SandboxThread) -> Iterator[Clock]:
    """The limits' clock, which stands still until it is moved; all buckets are full at its start."""
    limits, clock = limited.sandbox.limits, Clock()
    real, limits.now_s = limits.now_s, clock
    limits._buckets.clear()
    yield clock
    limits._buckets.clear()
    limits.now_s = real


def blocked_for(body: bytes) -> float:
    assert json.loads(body)["error"]["name"] == "I'm a teapot"
    return block_seconds(body)


# --- who does not keep to them ----------------------------------------------------------------------------------------


def test_a_client_that_does_not_obey_gets_429_then_418_with_growing_times(
    limited: SandboxThread, opened: Opener, clock: Clock
) -> None:
    client = opened()
    size = size_of(limited, "order-test")
    told: list[float] = []
    for turn in range(4):
        answers = [client.call("POST", "/v1/orders/test", limit()) for _ in range(size + 8)]
        assert Counter(status for status, _, _ in answers) == {201: size, 429: 5, 418: 3}
        lefts = [header for _, _, header in answers[:2]]
        assert lefts == [f"group=order-test; min=480; sec={max(size - n, 0)}" for n in (1, 2)]
        assert answers[size][1] == b"Too many API requests."
        assert {header for _, _, header in answers[size:]} == {"group=order-test; min=480; sec=0"}
        told.append(blocked_for(answers[-1][1]))
        clock.at_s += told[-1] - 0.5
        assert client.call("POST", "/v1/orders/test", limit())[0] == 418, turn
        clock.at_s += 0.5 + 1.0
    assert told == [FIRST_BLOCK_S * factor for factor in (1, 2, 4, 8)]
    clock.at_s += FORGIVEN_S + 1
    answers = [client.call("POST", "/v1/orders/test", limit()) for _ in range(size + 6)]
    assert blocked_for(answers[-1][1]) == FIRST_BLOCK_S
    assert client.call("GET", "/v1/accounts")[0] == 200  # another group is not blocked


def test_the_same_in_real_time_and_one_who_waits_a_second_goes_on(limited: SandboxThread, opened: Opener) -> None:
    client = opened()
    size = size_of(limited, "order-test")
    seen: list[int] = []
    while 429 not in seen:
        seen.append(client.call("POST", "/v1/orders/test", limit())[0])
        assert len(seen) < 100 * size
    assert seen.count(201) >= size
    time.sleep(1.0)  # what the exchange asks of its clients
    assert client.call("POST", "/v1/orders/test", limit())[0] == 201
    deadline = time.monotonic() + 60
    while (status := client.call("POST", "/v1/orders/test", limit())[0]) != 418:
        assert status in {201, 429}
        assert time.monotonic() < deadline
    assert client.call("POST", "/v1/orders/test", limit())[0] == 418


def test_two_keys_of_one_pocket_share_its_buckets(
    limited: SandboxThread, account: tuple[str, str], opened: Opener, clock: Clock
) -> None:
    made = limited.control("POST", "/sandbox/keys", {"account": account[0]})
    clients = [opened(), opened((made["access_key"], made["secret_key"]))]
    size = size_of(limited, "default")
    seen = [clients[n % 2].call("GET", "/v1/accounts")[0] for n in range(size + 2)]
    assert seen == [200] * size + [429] * 2
    clock.at_s += 1
    assert clients[1].call("GET", "/v1/accounts")[0] == 200


# --- who does ---------------------------------------------------------------------------------------------------------


def test_our_gateway_is_never_refused_and_uses_what_it_may(limited: SandboxThread, account: tuple[str, str]) -> None:
    """Six threads through the executor's own gateway and pace, as fast as that lets them."""
    pace = Pace(rates_with(larger(limited)))
    gateways = [UpbitGateway(limited.url, *account, pace=pace) for _ in range(3)]
    before = dict(limited.status()["limited"])
    began_s = time.monotonic()
    end_s = began_s + 2.5
    answers: list[Answer] = []

    def trade(number: int) -> int:
        gateway, done = gateways[number % 3], 0
        with errand(Rank.ENTRY if number % 3 == 2 else Rank.PROTECTIVE):
            while time.monotonic() < end_s:
                answer = gateway.place(RESTING, f"{account[0]}-{number}-{done}")
                answers.append(answer)
                assert isinstance(answer, Accepted), answer
                gateway.find(answer.order.identifier)
                gateway.cancel(answer.order.uuid)
                done += 1
        return done

    with ThreadPoolExecutor(6) as pool:
        placed = sum(pool.map(trade, range(6)))
    took_s = time.monotonic() - began_s
    for gateway in gateways:
        gateway.close()
    assert limited.status()["limited"] == before
    assert placed == len(answers)
    # The narrowest group decides: an order, or two calls of the default group.
    bound = min(size_of(limited, "order"), size_of(limited, "default") / 2)
    assert placed >= min(bound * took_s / 3, 10), placed


def test_the_feeds_calls_are_never_refused(limited: SandboxThread) -> None:
    quotation = Quotation(limited.url, is_local=True)
    before = dict(limited.status()["limited"])
    wanted = min(2 * size_of(limited, "crix-trades") + 2, 25)
    for _ in range(wanted):
        quotation.ticks("KRW-BTC", count=1, cursor=None, days_ago=0)
    quotation.close()
    assert limited.status()["limited"] == before


def test_a_gateway_that_was_told_to_wait_sends_nothing_meanwhile(sandbox: SandboxThread) -> None:
    pace = Pace()
    gateway = UpbitGateway(sandbox.url, sandbox.access_key, sandbox.secret_key, pace=pace)
    try:
        sandbox.fault("blocked", seconds=30, method="*", path="*")
        first = gateway.place(RESTING, "told-1")
        assert isinstance(first, Refused)
        second = gateway.place(RESTING, "told-2")
        assert (second.name, second.is_passing) if isinstance(second, Refused) else "" == ("too_many_requests", True)
        assert {"told-1", "told-2"} & {row["identifier"] for row in sandbox.truth()} == set()
        assert gateway.open_orders() is not None  # another group
        sandbox.fault("blocked", seconds=30, method="*", path="*")
        with pytest.raises(ExchangeUnavailable, match="418"):
            gateway.holdings()
        with pytest.raises(ExchangeUnavailable, match="Limited"):
            gateway.holdings()
    finally:
        sandbox.clear_faults()
        gateway.close()


# --- cancels ----------------------------------------------------------------------------------------------------------


def test_cancels_go_through_while_creating_is_refused_and_blocked(opened: Opener) -> None:
    client, floods = opened(), [opened(), opened()]
    uuids = [json.loads(client.call("POST", "/v1/orders", limit())[1])["uuid"] for _ in range(2)]
    seen: Counter[int] = Counter()
    stop = threading.Event()

    def create(flood: Client) -> None:
        while not stop.is_set():
            seen[flood.call("POST", "/v1/orders", limit())[0]] += 1

    threads = [threading.Thread(target=create, args=(flood,)) for flood in floods]
    for thread in threads:
        thread.start()
    try:
        until(lambda: seen[418] > 20, 60)
        for uuid in uuids:
            assert client.call("DELETE", "/v1/order", query=f"uuid={uuid}")[0] == 200
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert seen[429] >= 5


def test_our_cancels_pass_our_own_queue(limited: SandboxThread, account: tuple[str, str]) -> None:
    """The gateway's look-ups saturate the group that cancels share: urgent calls go before those that wait."""
    pace = Pace(rates_with(larger(limited)))
    gateway = UpbitGateway(limited.url, *account, pace=pace)
    before = dict(limited.status()["limited"])
    order = gateway.place(RESTING, f"{account[0]}-kept")
    assert isinstance(order, Accepted)
    size = size_of(limited, "default")
    done: list[float] = []
    with ThreadPoolExecutor(8) as pool:
        look_ups = [
            pool.submit(lambda: (gateway.find("nobody"), done.append(time.monotonic()))) for _ in range(3 * size)
        ]
        until(lambda: len(done) >= size - size // 3, 20)
        with errand(Rank.PROTECTIVE):
            assert gateway.cancel(order.order.uuid)
        cancelled_s = time.monotonic()
        for look_up in look_ups:
            look_up.result()
    gateway.close()
    waiting = sum(at_s > cancelled_s for at_s in done)
    assert waiting >= size, "nothing was waiting behind it"
    assert limited.status()["limited"] == before


# --- which bucket -----------------------------------------------------------------------------------------------------


def test_every_answer_says_what_is_left(limited: SandboxThread, opened: Opener, clock: Clock) -> None:
    client = opened()
    left = Counter({group: rate.size for group, rate in limited.sandbox.limits.rates.items()})
    for method, path, query, status, group in [
        ("GET", "/v1/accounts", "", 200, "default"),
        ("GET", "/v1/order", "uuid=nope", 404, "default"),
        ("DELETE", "/v1/order", "", 400, "default"),
        ("POST", "/v1/orders", "", 400, "order"),
        ("GET", "/v1/market/all", "", 200, "market"),
        ("GET", "/v1/trades/ticks", "", 400, "crix-trades"),
        ("GET", "/v1/orderbook/instruments", "markets=KRW-NO", 404, "orderbook"),
    ]:
        found, _, header = client.call(method, path, query=query)
        left[group] -= 1
        assert (found, header.split(";")[0]) == (status, f"group={group}"), path
        assert header.endswith(f"sec={left[group]}"), path
    # A request that nobody signed counts for its address.
    refused = client.call("GET", "/v1/accounts", Authorization="Bearer x")
    assert (refused[0], refused[2][-7:]) == (401, f"; sec={size_of(limited, 'default') - 1}"[-7:])
    assert client.call("GET", "/v1/nothing")[::2] == (404, "")
    clock.at_s += 10
    # A form in the body, as pyupbit sends it.
    form = {"Authorization": signing.sign(*client.keys, "uuid=x"), "Content-Type": "application/x-www-form-urlencoded"}
    client.line.request("GET", "/v1/order", b"uuid=x", form)
    answer = client.line.getresponse()
    answer.read()
    assert (answer.status, (answer.getheader("Remaining-Req") or "")[:13]) == (404, "group=default")


def test_quotation_counts_by_address_in_whole_seconds(opened: Opener, clock: Clock) -> None:
    here, there = opened(address="127.0.0.21"), opened(address="127.0.0.22")
    clock.at_s += 0.9
    assert [here.call("GET", "/v1/market/all")[0] for _ in range(11)] == [200] * 10 + [429]
    assert there.call("GET", "/v1/market/all")[0] == 200
    assert here.call("GET", "/v1/orderbook/instruments", query="markets=KRW-BTC")[0] == 200
    clock.at_s += 0.1
    assert [here.call("GET", "/v1/market/all")[0] for _ in range(11)] == [200] * 10 + [429]


def test_a_browser_may_ask_once_in_ten_seconds(limited: SandboxThread, opened: Opener, clock: Clock) -> None:
    client = opened()
    first = client.call("GET", "/v1/market/all", Origin="http://page")
    assert first[::2] == (200, "group=origin; min=6; sec=0")
    assert client.call("GET", "/v1/orderbook/instruments", query="markets=KRW-BTC", Origin="http://page")[0] == 429
    assert client.call("GET", "/v1/market/all")[0] == 200
    assert client.call("GET", "/v1/accounts", Origin="http://page")[0] == 200
    clock.at_s += 10
    websocket.create_connection(limited.ws_url, timeout=5, origin="http://page").shutdown()
    with pytest.raises(websocket.WebSocketBadStatusException, match="429"):
        websocket.create_connection(limited.ws_url, timeout=5, origin="http://page")
    websocket.create_connection(limited.ws_url, timeout=5, suppress_origin=True).shutdown()


@pytest.mark.usefixtures("clock")
def test_websockets_are_opened_five_times_a_second(limited: SandboxThread, account: tuple[str, str]) -> None:
    def by_pocket() -> None:
        header = [f"Authorization: {signing.sign(*account)}"]
        websocket.create_connection(limited.ws_url + "/private", header=header, suppress_origin=True).shutdown()

    def by_address() -> None:
        websocket.create_connection(limited.ws_url, suppress_origin=True).shutdown()

    for connecting in (by_address, by_pocket):
        for _ in range(5):
            connecting()
        with pytest.raises(websocket.WebSocketBadStatusException, match="429"):
            connecting()


# --- without sockets --------------------------------------------------------------------------------------------------


@hypothesis_settings(max_examples=150)
@given(
    size=st.sampled_from([2, 3, 10, 12, 30, 60]),
    told=st.sampled_from([1, 2, 12, 60]),
    is_window=st.booleans(),
    calls=st.lists(
        st.tuples(st.floats(0, 0.3), st.floats(0, 1.5), st.floats(0, 1.5), st.booleans(), st.booleans()), max_size=80
    ),
)
def test_who_keeps_the_pace_is_never_refused_whatever_the_network_does(
    size: int, told: int, calls: list[tuple[float, float, float, bool, bool]], *, is_window: bool
) -> None:
    """(gap before, way there, way back, urgent, answer lost): arrivals are judged by a bucket or by whole seconds.

    The client was told a size that may be wrong; what is left is told by the answers.
    """
    clock = Clock()
    pace, limits = Pace(rates_with({"order": told}), now_s=clock), Limits(now_s=clock)
    limits.rates = RATES | {"order": RATES["order"]._replace(size=size, is_window=is_window)}
    events: list[tuple[float, int, Callable[[], None]]] = []
    headers: dict[int, str] = {}

    def arrive(number: int) -> None:
        verdict = limits.take("a", "order")
        assert verdict.is_allowed, verdict
        headers[number] = verdict.header

    def go_to(at_s: float) -> None:
        while events and events[0][0] <= at_s:
            clock.at_s, _, event = events.pop(0)
            event()
        clock.at_s = max(clock.at_s, at_s)

    for number, (gap, there, back, is_urgent, is_lost) in enumerate(calls):
        go_to(clock.at_s + gap)
        while not isinstance(taken := pace.take("order", Rank.PROTECTIVE if is_urgent else Rank.ENTRY), Place):
            go_to(clock.at_s + taken)
        arriving = partial(arrive, number)
        answering = partial(lambda place, number: pace.answered(place, headers[number]), taken, number)
        events.append((clock.at_s + there, 2 * number, arriving))
        if not is_lost:
            events.append((clock.at_s + there + back, 2 * number + 1, answering))
        events.sort(key=lambda event: event[:2])
    go_to(clock.at_s + 2 * FLIGHT_S)


def test_the_last_third_is_for_urgent_calls() -> None:
    clock = Clock()
    pace = Pace(RATES, now_s=clock)
    assert len([pace.take("order", Rank.PROTECTIVE) for _ in range(FIRST_SIZE)]) == FIRST_SIZE
    assert not isinstance(pace.take("order", Rank.PROTECTIVE), Place)  # not before the exchange has answered once
    clock.at_s += 2 * FLIGHT_S
    pace.answered(pace.wait("order"), "group=order; min=480; sec=11")
    clock.at_s += 1
    places = [pace.take("order") for _ in range(8)]
    assert all(isinstance(place, Place) for place in places)
    assert not isinstance(pace.take("order"), Place)
    assert all(isinstance(pace.take("order", Rank.PROTECTIVE), Place) for _ in range(4))
    assert not isinstance(pace.take("order", Rank.PROTECTIVE), Place)
    assert isinstance(pace.take("default"), Place)
    for place in places:
        assert isinstance(place, Place)
        pace.answered(place, None)
    clock.at_s += 0.99
    assert not isinstance(pace.take("order", Rank.PROTECTIVE), Place)
    clock.at_s += 0.01
    assert isinstance(pace.take("order"), Place)


@pytest.mark.parametrize("is_refused", [False, True], ids=["before the first answer", "after a refusal"])
def test_an_urgent_call_finds_a_place_while_nothing_is_answered(*, is_refused: bool) -> None:
    clock = Clock()
    pace = Pace(RATES, now_s=clock)
    if is_refused:
        pace.answered(pace.wait("order"), "group=order; min=480; sec=11")
        pace.close("order", 1.0)
        clock.at_s += 1.01
    assert isinstance(pace.take("order", Rank.ENTRY), Place)
    assert not isinstance(pace.take("order", Rank.ENTRY), Place)
    assert isinstance(pace.take("order", Rank.PROTECTIVE), Place)


def test_a_block_is_read_from_whatever_stands_there() -> None:
    assert block_seconds('{"error":{"name":"I\'m a teapot","message":"12초 후에 다시"}}'.encode()) == 12
    assert block_seconds(b"blocked for 7.5 s") == 7.5
    for unreadable in (b"\xff", b"", b"{}", b'{"error":{"message":7}}', b"[1]"):
        assert block_seconds(unreadable) == 60


def test_calls_have_their_groups() -> None:
    assert group_of("POST", "/v1/orders") == group_of("POST", "/v1/orders/cancel_and_new") == "order"
    assert group_of("POST", "/v1/orders/test") == "order-test"
    assert group_of("DELETE", "/v1/orders/open") == "order-cancel-all"
    assert group_of("GET", "/v1/orders/open") == group_of("DELETE", "/v1/orders/uuids") == "default"
    assert group_of("GET", "/v1/candles/minutes/5") == "candles"
    assert group_of("GET", "/v1/ticker/all") == "ticker"
    assert rates_with({"order": 8})["order"].size == 8


def test_addresses_without_number_do_not_fill_the_memory() -> None:
    limits = Limits()
    for number in range(30_000):
        limits.take(f"127.0.{number >> 8}.{number & 255}", "market")
    assert len(limits._buckets) == 20_000


def test_the_settings_say_the_sizes(tmp_path: Any) -> None:
    settings = Settings(home=tmp_path, sandbox={"limits": {"order": 8}, "is_limited": False})
    configuration = from_settings(settings, 1)
    assert (configuration.is_limited, dict(configuration.limits)) == (False, {"order": 8})
    for wrong in ({"orders": 8}, {"order": 0}):
        with pytest.raises(ValidationError):
            Settings(sandbox={"limits": wrong})
