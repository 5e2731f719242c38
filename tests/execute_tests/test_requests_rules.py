"""The pure halves of people's requests: when they fire, what the assistant does, what it saved, what is refused."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.execute.requests import schedule
from consumers.execute.requests.assistant import (
    CONTROL_SHARE,
    Cancel,
    Finish,
    Job,
    Leg,
    Now,
    Post,
    Wait,
    is_control,
    left,
    next_step,
)
from consumers.execute.requests.check import is_valid_price, problem_of, valid_prices
from consumers.execute.requests.clock import RequestClock
from consumers.execute.requests.form import (
    Person,
    Typed,
    changed_request,
    description,
    estimate,
    every_ms,
    interval,
    new_request,
    priced,
    time_ms,
)
from consumers.execute.requests.saving import Outcome, compare, saved, walked
from consumers.execute.requests.watch import Book
from consumers.execute.requests.words import WORDS, sentence
from consumers.execute.requests.words import korean as korean_time
from infra.errors import BadSettings
from streams.market.patience import Choice, Outlook, Patience, choose, is_outbid, lean_bp
from streams.messages import Market, OrderRequested

NOW = 1_795_219_200_000
LATE = 600_000
DAY = 86_400_000
D = Decimal


def asked(**values: Any) -> OrderRequested:
    fields: dict[str, Any] = {
        "id": "r1",
        "account": "paper",
        "pocket": "paper-main",
        "exchange": "upbit",
        "market": "KRW-BTC",
        "side": "buy",
        "order_type": "price",
        "funds": D(10_000),
        "event_ms": NOW,
        "by": "test",
    }
    return OrderRequested(**(fields | values))


MARKET = Market(
    exchange="upbit", market="KRW-BTC", event_ms=NOW, tick_size=D(1000), minimum_total=D(5000), maximum_total=D(10**9)
)


# --- when


def test_at_once_and_at_a_time():
    found = schedule.judge(schedule.first(asked()), NOW, None, LATE)
    assert isinstance(found, schedule.Fire)
    assert (found.number, found.missed, found.after.state) == (1, 0, "fired")
    later = schedule.first(asked(at_ms=NOW + 5000))
    assert schedule.judge(later, NOW + 4999, None, LATE) is None
    assert isinstance(schedule.judge(later, NOW + 5000, None, LATE), schedule.Fire)


def test_what_was_due_while_away_fires_once_or_is_missed():
    daily = schedule.first(asked(at_ms=NOW, every_ms=DAY, times=10))
    found = schedule.judge(daily, NOW + 3 * DAY + LATE, None, LATE)
    assert isinstance(found, schedule.Fire)
    assert (found.number, found.missed, found.due_ms) == (4, 3, NOW + 3 * DAY)
    assert (found.after.number, found.after.next_ms, found.after.state) == (5, NOW + 4 * DAY, "waiting")
    missed = schedule.judge(daily, NOW + 3 * DAY + LATE + 1, None, LATE)
    assert isinstance(missed, schedule.Miss)
    assert (missed.missed, missed.after.number, missed.after.state) == (4, 5, "waiting")
    once = schedule.judge(schedule.first(asked()), NOW + LATE + 1, None, LATE)
    assert isinstance(once, schedule.Miss)
    assert once.after.state == "missed"
    over = schedule.judge(daily, NOW + 40 * DAY, None, LATE)
    assert isinstance(over, schedule.Miss)
    assert (over.missed, over.after.state) == (10, "missed")


def test_at_a_price():
    below = schedule.first(asked(trigger="at-or-below", trigger_price=D(100)))
    assert schedule.judge(below, NOW + DAY, D("100.01"), LATE) is None
    assert schedule.judge(below, NOW + DAY, None, LATE) is None
    assert isinstance(schedule.judge(below, NOW + DAY, D(100), LATE), schedule.Fire)
    above = schedule.first(asked(trigger="at-or-above", trigger_price=D(100), at_ms=NOW + 10))
    assert schedule.judge(above, NOW, D(100), LATE) is None
    assert isinstance(schedule.judge(above, NOW + 10, D(101), LATE), schedule.Fire)


def test_its_time_runs_out():
    request = schedule.first(asked(trigger="at-or-below", trigger_price=D(1), expires_ms=NOW + 100))
    assert schedule.judge(request, NOW + 100, D(2), LATE) is None
    over = schedule.judge(request, NOW + 101, D(1), LATE)
    assert isinstance(over, schedule.Miss)
    assert over.after.state == "missed"


def test_changes_keep_the_numbers():
    daily = schedule.first(asked(at_ms=NOW, every_ms=DAY, times=3))
    fired = schedule.judge(daily, NOW, None, LATE)
    assert isinstance(fired, schedule.Fire)
    cheaper = schedule.changed(fired.after, asked(at_ms=NOW, every_ms=DAY, times=3, funds=D(7000)))
    assert (cheaper.number, cheaper.next_ms) == (2, NOW + DAY)
    moved = schedule.changed(fired.after, asked(at_ms=NOW + 7 * DAY, every_ms=DAY, times=3))
    assert (moved.number, moved.next_ms) == (2, NOW + 7 * DAY)
    faster = schedule.changed(fired.after, asked(at_ms=NOW, every_ms=DAY // 2, times=3))
    assert faster.next_ms == NOW + DAY // 2
    assert schedule.changed(fired.after, asked(at_ms=NOW, every_ms=DAY, times=1)).state == "fired"


requests = st.builds(
    lambda at, every, times, trigger, expires: asked(
        at_ms=at, every_ms=every, times=times if every else None, trigger=trigger,
        trigger_price=D(100) if trigger else None, expires_ms=expires,
    ),
    st.one_of(st.none(), st.integers(NOW - 100_000, NOW + 100_000)),
    st.one_of(st.none(), st.integers(1_000, 200_000)),
    st.one_of(st.none(), st.integers(1, 5)),
    st.sampled_from(["", "at-or-below", "at-or-above"]),
    st.one_of(st.none(), st.integers(NOW - 10, NOW + 2_000_000)),
)  # fmt: skip
moments = st.lists(
    st.tuples(
        st.integers(NOW - 500_000, NOW + 5_000_000),
        st.one_of(st.none(), st.integers(98, 102).map(D)),
        st.one_of(st.none(), requests),
    ),
    max_size=40,
)


@given(requests, moments)
def test_no_time_fires_twice_however_time_jumps(request, moments):
    standing, numbers = schedule.first(request), []
    for now_ms, price, change in moments:
        if change is not None and standing.state == "waiting":
            standing = schedule.changed(standing, change)
        request = standing.request
        found = schedule.judge(standing, now_ms, price, LATE)
        if found is None:
            continue
        assert standing.state == "waiting"
        assert found.after.number >= standing.number
        if isinstance(found, schedule.Fire):
            assert now_ms >= found.due_ms
            assert request.trigger or now_ms - found.due_ms <= LATE
            assert not request.trigger or schedule.is_reached(request, price)
            assert request.expires_ms is None or now_ms <= request.expires_ms
            assert request.times is None or found.number <= max(request.times, standing.number)
            numbers.append(found.number)
        standing = found.after
    assert numbers == sorted(set(numbers))
    assert standing.fired == len(numbers)


# --- the rule of the assistant


def test_the_rule():
    rule = Patience()
    calm = Outlook(99.95, 100.05, imbalance=-0.5, expected_bp=-1.0)
    assert lean_bp(calm, "buy") == pytest.approx((1.0 + 0.5 * 10.0 / 2) / 2)
    assert lean_bp(calm, "sell") == pytest.approx(-1.75)
    assert choose(calm, "buy", rule, may_post=True) is Choice.POST
    assert choose(calm, "buy", rule, may_post=False) is Choice.WAIT
    assert choose(calm, "sell", rule, may_post=True) is Choice.NOW
    falling = Outlook(99.95, 100.05, expected_bp=-25.0)
    assert choose(falling, "buy", rule, may_post=True) is Choice.WAIT
    assert choose(Outlook(99.95, 100.05), "buy", rule, may_post=True) is Choice.NOW
    assert choose(Outlook(100.05, 99.95, imbalance=-1.0), "buy", rule, may_post=True) is Choice.NOW
    assert choose(None, "buy", rule, may_post=True) is Choice.NOW
    assert is_outbid(calm, "buy", 99.9)
    assert not is_outbid(calm, "buy", 99.95)
    assert is_outbid(calm, "sell", 100.1)
    assert not is_outbid(None, "sell", 100.1)


# --- the assistant

JOB = Job("buy", D(100_000), D(5000), may_wait=True)
CALM = Outlook(99.0, 100.0, imbalance=-0.5)
AGAINST = Outlook(99.0, 100.0, imbalance=0.5)


def step(*legs: Leg, job: Job = JOB, outlook: Outlook | None = CALM, over: bool = False, cancelled: bool = False):
    return next_step(job, legs, outlook, Patience(), is_over=over, is_cancelled=cancelled)


def test_it_posts_holds_and_sends_the_rest():
    posted = step()
    assert posted == Post(D("99.0"), D("1010.10101010"))
    resting = Leg("open", is_resting=True, price=D(99))
    assert step(resting) == Wait()
    assert step(resting, outlook=AGAINST) == Cancel()
    assert step(resting, over=True) == Cancel()
    assert step(resting._replace(is_cancelling=True), over=True) == Wait()
    assert step(resting._replace(price=D(98))) == Wait()
    assert step(resting._replace(price=D(98), rested_ms=2000)) == Cancel()
    half = Leg("ended", is_resting=True, price=D(99), quantity=D(500), funds=D(49_500))
    assert step(half, over=True) == Now(D(50_500))
    assert step(half, Leg("ended", is_resting=False, quantity=D(1), funds=D(50_500)), over=True) == Finish("done")
    most = half._replace(funds=D(95_001))
    assert step(most) == Finish("done", "rest-too-small")
    assert step(half._replace(funds=D(99_999))) == Finish("done")


def test_it_sends_at_once_where_it_must():
    assert step(outlook=AGAINST) == Now(D(100_000))
    assert step(outlook=None) == Now(D(100_000))
    assert step(over=True) == Now(D(100_000))
    assert step(job=Job("buy", D(100_000), D(5000), may_wait=False)) == Now(D(100_000))
    assert step(job=Job("buy", D(6_000), D(5000), may_wait=True)) == Wait()  # too small to be posted
    assert step(*[Leg("ended", is_resting=True)] * 7) == Now(D(100_000))
    sale = Job("sell", D(2), D(5000), may_wait=True)
    assert step(job=sale, outlook=Outlook(50_000.0, 50_100.0, imbalance=0.5)) == Post(D("50100.0"), D("2.00000000"))


def test_it_ends():
    assert step(cancelled=True) == Finish("cancelled")
    assert step(Leg("under-way", is_resting=False), cancelled=True) == Cancel()
    assert step(Leg("refused", is_resting=True, name="too-many")) == Finish("refused", "too-many")
    assert step(Leg("unsent", is_resting=False)) == Finish("missed")
    assert step(Leg("unproven", is_resting=True)) == Finish("unproven")
    assert step(Leg("ended", is_resting=False), cancelled=True) == Finish("cancelled")
    assert step(Leg("ended", is_resting=False, quantity=D(1)), cancelled=True) == Finish("done")


outlooks = st.one_of(
    st.none(),
    st.builds(
        lambda bid, spread, imbalance, expected: Outlook(bid, bid + spread, imbalance, expected),
        st.floats(90, 110),
        st.floats(0.01, 3),
        st.one_of(st.none(), st.floats(-1, 1)),
        st.one_of(st.none(), st.floats(-50, 50)),
    ),
)


@given(st.data(), st.sampled_from(["buy", "sell"]), st.decimals(6_000, 10_000_000, places=0))
def test_never_more_than_asked_never_two_at_once_and_the_deadline_is_kept(data, side, funds):
    """An exchange that fills, cancels, loses and refuses as it likes."""
    job = Job(side, funds if side == "buy" else funds / 100, D(5000), may_wait=data.draw(st.booleans()))
    legs: list[Leg] = []
    sent: list[Decimal] = []
    is_over = False
    for _ in range(60):
        is_over = is_over or data.draw(st.integers(0, 9)) == 0
        outlook = data.draw(outlooks)
        found = next_step(job, legs, outlook, Patience(), is_over=is_over, is_cancelled=False)
        is_live = bool(legs) and legs[-1].state in {"under-way", "open"}
        if isinstance(found, Finish):
            break
        if isinstance(found, Cancel):
            assert legs[-1].state == "open"
            legs[-1] = legs[-1]._replace(is_cancelling=True)
        elif isinstance(found, Post | Now):
            assert not is_live
            assert not (is_over and isinstance(found, Post))
            amount = found.amount if isinstance(found, Now) else found.quantity
            if isinstance(found, Post) and side == "buy":
                amount = found.price * found.quantity
            assert 0 < amount <= left(job, legs)
            sent.append(amount)
            is_resting = isinstance(found, Post)
            legs.append(Leg("under-way", is_resting, found.price if is_resting else None))
        elif is_over:
            assert is_live, "after the deadline nothing waits but for a proof"
            assert legs[-1].is_cancelling or not legs[-1].is_resting or legs[-1].state == "under-way"
        if legs and legs[-1].state in {"under-way", "open"}:
            legs[-1] = _moved(data, side, legs[-1], sent[-1])
    done = sum((leg.funds if side == "buy" else leg.quantity for leg in legs), D(0))
    assert done <= job.amount
    assert len(legs) <= Patience().maximum_legs


def _moved(data: Any, side: str, leg: Leg, amount: Decimal) -> Leg:
    already = leg.funds if side == "buy" else leg.quantity
    more = (amount - already) * data.draw(st.integers(0, 4)) / 4
    funds, quantity = (leg.funds + more, leg.quantity + more / 100) if side == "buy" else (
        leg.funds + more * 100, leg.quantity + more
    )  # fmt: skip
    states = ["under-way", "open", "open", "ended", "refused", "unsent", "unproven"]
    state = data.draw(st.sampled_from(states if leg.state == "under-way" else ["open", "open", "ended", "unproven"]))
    if state in {"refused", "unsent"}:
        return leg._replace(state=state)
    return leg._replace(state=state, funds=funds, quantity=quantity)


def test_one_in_five_is_drawn_by_its_content():
    drawn = [is_control(f"request-{n}", 1) for n in range(5000)]
    assert drawn == [is_control(f"request-{n}", 1) for n in range(5000)]
    assert 900 < sum(drawn) < 1100
    assert CONTROL_SHARE == 5
    assert {is_control("r", number) for number in range(1, 40)} == {True, False}


# --- what was saved


def test_saved_by_hand():
    asks = ((100.0, 10.0), (101.0, 10.0))
    assert walked(asks, D(15)) == D(1505)
    assert walked(asks, D(21)) is None
    fee = D("1.485")
    assert saved("buy", asks, D(15), D(1485), fee) == D(1505) * (1 + fee / D(1485)) - (D(1485) + fee)
    bids = ((99.0, 10.0), (98.0, 10.0))
    assert saved("sell", bids, D(10), D(1000), D(1)) == (D(1000) - 1) - D(990) * (1 - D(1) / D(1000))
    assert saved("buy", asks, D(0), D(0), D(0)) is None


def test_the_groups_are_compared():
    better, same = [Outcome(2.0 + n % 3, 1000.0) for n in range(60)], [Outcome(n % 3 - 1.0, 1000.0) for n in range(30)]
    found = compare(better, same)
    assert (found.assisted.orders, found.control.orders) == (60, 30)
    assert found.assisted.mean_bp == pytest.approx(30.0)
    assert found.difference_bp == pytest.approx(30.0)
    assert found.low_bp is not None
    assert found.high_bp is not None
    assert 0 < found.low_bp < 30.0 < found.high_bp
    assert compare(better, same) == found
    assert compare([], []).assisted == (0, 0, None, None, None)
    assert compare(better, same[:1]).difference_bp is None


# --- what is refused


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"exchange": "binance"}, "no-exchange"),
        ({"funds": None}, "bad-amount"),
        ({"funds": D(-1)}, "bad-amount"),
        ({"funds": D("NaN")}, "bad-amount"),
        ({"quantity": D(1)}, "bad-amount"),
        ({"side": "sell"}, "bad-amount"),
        ({"order_type": "limit"}, "bad-amount"),
        ({"order_type": "best"}, "bad-time-in-force"),
        ({"time_in_force": "ioc"}, "bad-time-in-force"),
        ({"every_ms": 10}, "bad-times"),
        ({"times": 3}, "bad-times"),
        ({"every_ms": 1000, "times": 0}, "bad-times"),
        ({"trigger": "at-or-below"}, "bad-trigger"),
        ({"trigger_price": D(5)}, "bad-trigger"),
        ({"patience_ms": -1}, "bad-patience"),
        ({"funds": D(4999)}, "under-minimum"),
        ({"funds": D(10**10)}, "over-maximum"),
        ({"order_type": "limit", "price": D("100000500"), "quantity": D(1), "funds": None}, "off-tick"),
        ({"order_type": "limit", "price": D("100000000"), "quantity": D("0.00001"), "funds": None}, "under-minimum"),
        ({"order_type": "market", "side": "sell", "quantity": D("0.00001"), "funds": None}, "under-minimum"),
    ],
)
def test_refusals(values, reason):
    found = problem_of(asked(**values), MARKET, 100_000_000.0)
    assert found is not None
    assert found.reason == reason
    for language in ("en", "ko"):
        assert "?" not in sentence(reason, found.values, language)


def test_what_is_fine():
    for values in (
        {},
        {"order_type": "limit", "price": D("100001000"), "quantity": D(1), "funds": None, "time_in_force": "post_only"},
        {"order_type": "best", "time_in_force": "ioc"},
        {"order_type": "market", "side": "sell", "quantity": D(1), "funds": None},
        {"every_ms": DAY, "times": 3, "trigger": "at-or-below", "trigger_price": D(5)},
    ):
        assert problem_of(asked(**values), MARKET, 100_000_000.0) is None
    assert problem_of(asked(), None, None, is_known=False) == ("no-market", {"market": "KRW-BTC"})
    assert problem_of(asked(funds=D(4000)), None) == ("under-minimum", {"total": "4000", "minimum": "5000"})


def test_valid_prices_are_offered():
    assert valid_prices("KRW-BTC", D("100000500"), MARKET, NOW) == (D(100_000_000), D(100_001_000))
    assert valid_prices("KRW-XRP", D("812.3"), None, NOW) == (D(812), D(813))
    assert is_valid_price("KRW-XRP", D(813), None, NOW)
    assert not is_valid_price("KRW-XRP", D("812.3"), None, NOW)


def test_words_stand_in_both_languages():
    for word, (english, korean) in WORDS.items():
        assert english
        assert any("가" <= letter <= "힣" for letter in korean), word
    assert sentence("new-word", {}) == "new-word"
    assert sentence("late", {}).startswith("?")


# --- what people type

PERSON = Person("paper", "paper-main", D("0.05"), "me")


def typed_request(side: str = "buy", available: Decimal | None = None, **values: Any) -> OrderRequested:
    return new_request("r1", PERSON, side, "KRW-BTC", Typed(**values), available, NOW)


def test_amounts_are_read():
    assert typed_request(funds="10,000").funds == D(10_000)
    quarter = typed_request(percent="25", available=D(1_000_000))
    assert quarter.funds == D(249_875)  # with the fee on top not more than a quarter
    assert typed_request("sell", D("0.5"), percent="50").quantity == D("0.25000000")
    limit = typed_request(funds="10000", price="3000")
    assert (limit.order_type, limit.quantity, limit.funds) == ("limit", D("3.33333333"), None)
    for wrong in (
        {},
        {"funds": "1", "quantity": "1"},
        {"funds": "much"},
        {"quantity": "1"},
        {"percent": "101", "available": D(1)},
        {"percent": "50"},
        {"funds": "9000", "at": "2020-01-01 09:00"},
        {"funds": "9000", "when_below": "1", "when_above": "2"},
    ):
        with pytest.raises(BadSettings):
            typed_request(**wrong)


def test_a_price_is_picked_from_the_book():
    book = Book(((99.5, 1.0),), ((101.0, 1.0),), NOW)
    assert priced(Typed(price="bid"), book).price == "99.5"
    assert priced(Typed(price="ask"), book).price == "101"
    assert priced(Typed(price="7"), None).price == "7"
    with pytest.raises(BadSettings, match="number"):
        priced(Typed(price="bid"), None)


def test_times_are_korean():
    assert korean_time(NOW).endswith(" KST")
    assert korean_time(3 * 10**14) == "300000000000000 ms"  # in no calendar, and no reason to end
    assert time_ms("2026-11-22 09:00") == time_ms("2026-11-22T00:00:00+00:00")
    assert (every_ms("1d"), every_ms("30m"), every_ms("2w")) == (DAY, 1_800_000, 14 * DAY)
    assert [interval(every_ms(text)) for text in ("1d", "90m", "2w", "24h")] == ["1d", "90m", "2w", "1d"]
    for wrong in ("1y", "d", "0d", "-1d"):
        with pytest.raises(BadSettings):
            every_ms(wrong)
    with pytest.raises(BadSettings, match="2026-11-22 09:00"):
        time_ms("tomorrow")
    request = typed_request(funds="9000", at="2096-11-22 09:00", every="1d", times=10, when_above="5", patience_s=2.5)
    assert (request.every_ms, request.times, request.trigger, request.patience_ms) == (DAY, 10, "at-or-above", 2500)


def test_a_change_keeps_what_is_not_named():
    old = typed_request(funds="9000", every="1d")
    new = changed_request(old, Typed(funds="8000"), NOW + 1)
    assert new == msgspec.structs.replace(old, funds=D(8000), event_ms=NOW + 1)
    for wrong in ({"quantity": "1"}, {"percent": "10"}):
        with pytest.raises(BadSettings):
            changed_request(old, Typed(**wrong), NOW)


def test_what_an_order_will_cost():
    book = Book(((99.0, 1000.0),), ((101.0, 1000.0),), NOW)
    buy = estimate(typed_request(funds="10100"), book, D("0.05"))
    assert buy is not None
    assert (buy.quantity, buy.average, buy.fee) == (100.0, 101.0, pytest.approx(5.05))
    assert buy.spread_cost == pytest.approx(100.0)
    assert buy.back == pytest.approx(9900 * 0.9995)
    sale = estimate(typed_request("sell", quantity="10"), book, D("0.05"))
    assert sale is not None
    assert (sale.funds, sale.spread_cost, sale.back) == (990.0, pytest.approx(10.0), None)
    lines = description(typed_request(funds="10100", every="1d", times=2), buy)
    assert lines[1] == "Again every 1d, 2 times in all."
    assert "Sold at once it gives about 9,895 KRW." in lines
    assert estimate(typed_request(funds="1000000"), book, D("0.05")) is None
    assert estimate(typed_request(funds="10000"), None, D("0.05")) is None


def test_market_time_is_wall_time_at_live_pace_and_its_own_elsewhere():
    wall = NOW
    live = RequestClock(lambda: wall)
    assert live.now_ms() == NOW
    live.observe(NOW - 700, NOW)
    wall += 5000
    assert live.now_ms() == NOW + 5000
    recorded = RequestClock(lambda: wall)
    recorded.observe(1_600_000_000_000, NOW)
    assert recorded.now_ms() == 1_600_000_005_000
    fast = RequestClock(lambda: wall, speed=10.0)
    fast.observe(NOW, NOW)
    assert fast.now_ms() == NOW + 50_000
