"""Drills about what lies between us and the exchange: names, private messages, maintenance, partial fills, refunds.

Called by `drills`. Each plays one outage on a `Scene` and returns the figures of its own; what every drill is judged
by, `Scene.judge` adds. A figure that must have a value stands in `drills.NEEDED`.
"""

import threading
import time
from decimal import Decimal

from consumers.execute.keyring import ExchangeKey, HeldKeys
from consumers.execute.wakeup import Wakeups
from consumers.verify.drills_stage import TIMEOUT_S, Scene
from consumers.verify.drills_surroundings import SEEN

OUTAGE_S = 3.0
ANSWER_S = 1.5
IN_FLIGHT = 6
TRIES = 8


def names_gone(scene: Scene) -> dict[str, float]:
    """Six protective exits are out and unanswered when names can no longer be resolved, for a while."""
    executor = scene.executor(has_names=True)
    executor.begin()
    entries = scene.bought(3)
    scene.fault("lost-answer", count=IN_FLIGHT)
    scene.fault("lost-request", method="GET", path="*", count=None)  # nothing can be looked up meanwhile
    scene.publish(*(scene.exit_of(entry, share) for entry in entries for share in ("0.4", "0.5")))
    scene.wait(lambda: _unanswered(scene) == IN_FLIGHT, "six orders in flight")
    (scene.home / "hosts").write_text("\n")
    time.sleep(TIMEOUT_S)  # a request that was under way is over: what is left needs a name
    scene.no_faults()
    scene.publish(scene.intent(3, "entry"))  # decided while the exchange has no address
    time.sleep(OUTAGE_S)
    in_flight = scene.in_doubt()
    (scene.home / "hosts").write_text(SEEN)
    seconds = scene.wait(scene.is_settled, "settled")
    return {"in flight": in_flight, "seconds until settled": seconds, "real": executor.has_namespace}


def _unanswered(scene: Scene) -> int:
    """Orders that have left and whose answer is lost; one that has not left yet would be refused for want of a name."""
    return sum(state == "UNKNOWN" for state in scene.states().values())


def told_before_the_answer(scene: Scene) -> dict[str, float]:
    """The private websocket tells of every order long before its REST answer comes."""
    scene.executor().begin()
    entries = scene.bought(2)
    stop, early = threading.Event(), set[str]()

    def heard(identifier: str) -> None:
        rows = scene.rows("SELECT state FROM attempt WHERE identifier = :id", id=identifier)
        if rows and rows[0][0] == "SENDING":
            early.add(identifier)

    address = f"ws{scene.hall.sandbox.url.removeprefix('http')}/websocket/v1/private"
    keys = HeldKeys({scene.pocket: ExchangeKey(scene.pocket, scene.secret)})
    wakeups = Wakeups(address, keys, heard, stop, idle_s=600)
    wakeups.want(scene.pocket)
    listener = threading.Thread(target=wakeups.run, daemon=True)
    listener.start()
    time.sleep(1.0)  # its subscription has no answer to wait for
    scene.fault("late-answer", seconds=ANSWER_S, count=4)
    scene.publish(*(scene.exit_of(entry) for entry in entries), scene.intent(2, "entry"), scene.intent(3, "entry"))
    seconds = scene.wait(scene.is_settled, "settled")
    stop.set()
    listener.join(5)
    return {"told before the answer": len(early), "seconds until settled": seconds}


def maintenance(scene: Scene) -> dict[str, float]:
    """The exchange closes for a while with an order resting, another on its way, and decisions still coming."""
    scene.executor().begin()
    entries = scene.bought(2)
    resting = scene.resting(2, Decimal("0.97"))
    scene.publish(resting)
    scene.wait_accepted(resting)
    scene.fault("late-answer", seconds=ANSWER_S)
    scene.publish(scene.exit_of(entries[0]))
    scene.wait(lambda: scene.in_doubt() > 0, "an order on its way")
    scene.fault("maintenance", kind="", seconds=OUTAGE_S)
    refused = scene.exit_of(entries[1])
    scene.publish(refused, scene.intent(3, "entry"))
    scene.wait(lambda: scene.states().get(refused.id) in {"REJECTED", "RETRY", "DONE"}, "refused while closed")
    time.sleep(OUTAGE_S)
    scene.publish(scene.exit_of(entries[1]), scene.cancel_of(resting))  # trade tries an exit again
    seconds = scene.wait(scene.is_settled, "settled")
    rejected = sum(state in {"REJECTED", "EXPIRED"} for state in scene.states().values())
    return {"refused while closed": rejected, "seconds until settled": seconds}


def partial_fills(scene: Scene) -> dict[str, float]:
    """Somebody sells into our resting order in parts, before and while it is cancelled."""
    scene.executor().begin()
    other = f"{scene.pocket}-other"
    secret = scene.deposit(other, dict.fromkeys((market.partition("-")[2] for market in scene.markets), "1000000"))
    for number in range(TRIES):
        order = scene.resting(number, Decimal(1), funds=400_000)
        scene.publish(order)
        scene.wait_accepted(order)
        part = (order.quantity or Decimal(0)) / 4
        scene.sell_into(other, secret, order, part)
        scene.publish(scene.cancel_of(order))
        scene.sell_into(other, secret, order, part)
        scene.wait(scene.is_settled, "settled")
        if _in_part(scene) >= TRIES // 3:
            break
    return {"filled in part and cancelled": _in_part(scene), "orders": number + 1}


def _in_part(scene: Scene) -> int:
    rows = scene.rows("SELECT executed_quantity FROM attempt WHERE state = 'CANCELLED'")
    return sum(Decimal(row[0]) > 0 for row in rows)


def refunded_buys(scene: Scene) -> dict[str, float]:
    """Market buys that end in `cancel` at the exchange: what their money does not buy is given back."""
    scene.executor().begin()
    entries = [
        scene.intent(place, "entry", funds=Decimal(funds)) for place, funds in enumerate((12_347, 55_501, 9_999))
    ]
    scene.publish(*entries)
    seconds = scene.wait(scene.is_settled, "settled")
    orders = scene.truth()
    states = scene.states()
    rest = sum(Decimal(str(order["price"])) - Decimal(order["executed_funds"]) for order in orders)
    return {
        "ended in cancel": sum(order["state"] == "cancel" for order in orders),
        "won given back": float(rest),
        "taken as filled": sum(states[entry.id] == "DONE" for entry in entries),
        "seconds until settled": seconds,
    }
