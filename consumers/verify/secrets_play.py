"""What happens in `verify secrets`: orders, keys handed over, rotated, refused and sealed anew, and all that breaks.

Called by `secrets` on a running stage; every step says what must come of it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from consumers.verify.processes import wait_until
from consumers.verify.secrets_api import ask_api
from consumers.verify.secrets_canaries import POCKET
from consumers.verify.secrets_run import ACCOUNT, STEP_S, Stage
from consumers.verify.secrets_wire import Mode
from infra.errors import ObservatorError
from infra.secrets_box import read_pair
from streams.messages import encode


def play(stage: Stage, *, quick: bool) -> None:
    """Orders, keys added, rotated, refused, removed, and whatever can go wrong around them."""
    many = 2 if quick else 6
    canaries = stage.canaries
    stage.order(many)
    stage.hand_over("add", "first", canaries.access("first"), canaries.secret("first"), "taken")
    stage.order(many)
    stage.hand_over("rotate", "second", canaries.access("second"), canaries.secret("second"), "taken")
    _refuse(stage, quick=quick)
    ask_api(stage)
    stage.order(many)
    _break(stage, many, quick=quick)
    stage.running.children.kill("execute")
    stage.running.start("execute")
    stage.hand_over("rotate", "third", canaries.access("third"), canaries.secret("third"), "taken")
    stage.order(many)
    stage.command("keys", "list", "--json")
    stage.command("keys", "check", "--account", ACCOUNT, "--pocket", POCKET, "--json")
    stage.command("keys", "reseal", "--json")
    second = read_pair(stage.home).private
    canaries.unmarked |= {"executor's second private key": second, "the same in its file": second.hex().encode()}
    stage.command("keys", "check", "--account", ACCOUNT, "--pocket", POCKET, "--json")
    stage.order(many)


def _refuse(stage: Stage, *, quick: bool) -> None:
    """Keys that must not be taken, boxes that must not be opened, and people who mistype."""
    canaries = stage.canaries
    access = canaries.access
    stage.hand_over("rotate", "withdrawing", access("withdrawing"), canaries.secret("withdrawing"), "may-withdraw")
    stage.hand_over("rotate", "wrong", access("third"), canaries.plain("wrong secret key"), "wrong-key")
    if not quick:
        stage.hand_over("rotate", "looking", access("looking"), canaries.secret("looking"), "no-order-right")
        stage.hand_over("rotate", "expired", access("expired"), canaries.secret("expired"), "expired")
        stage.hand_over("rotate", "unknown", access("unknown"), canaries.secret("unknown"), "wrong-key")
    stage.publish("commands", stage.box("swapped", account="somebody-else"))
    good = stage.box("broken")
    stage.publish("commands", encode(good)[:-40])
    stage.publish("commands", encode(good).replace(good.sealed.encode(), good.sealed[:-8].encode()))
    stage.happened.count("boxes refused", 3)
    mistyped = canaries.plain("mistyped key")
    named = ("--account", ACCOUNT, "--pocket", POCKET, "--key", "mistyped", "--from", "-", "--json")
    given_keys = (f"{mistyped} x\ny", mistyped, f"{mistyped}\n{mistyped}\n{mistyped}", f'{{"access_key": "{mistyped}"')
    for given in given_keys[:1] if quick else given_keys:
        stage.command("keys", "rotate", *named, given=given, expected=2)


def _break(stage: Stage, many: int, *, quick: bool) -> None:
    """500s, lost answers, limits, answers that are no JSON, and answers that repeat the request's own headers."""
    faults: tuple[tuple[str, dict[str, Any]], ...] = (
        ("server-error", {"count": 2}),
        ("refused", {"count": 1, "error": "invalid_access_key"}),
        ("lost-answer", {"count": 1}),
        ("lost-request", {"count": 1}),
        ("rate-limited", {"count": 1, "method": "*", "path": "*"}),
        ("server-error", {"count": 3, "method": "GET", "path": "*"}),
    )
    for name, values in faults[:1] if quick else faults:  # a refused key is tried again after a minute
        stage.fault(name, **values)
        stage.order(1, must_fill=False)
    stage.clear_faults()
    modes: tuple[Mode, ...] = ("broken", "echo")
    for mode in modes:
        stage.wire.mode = mode
        enough = stage.wire.broken + many
        stage.publish("order-intents", stage.intent())
        stage.command("keys", "check", "--account", ACCOUNT, "--pocket", POCKET, "--wait", "4", "--json", expected=1)
        _wait_for(partial(_has_broken, stage, enough), stage)
        stage.wire.mode = "through"
    stage.happened.count("answers broken", stage.wire.broken)


def _has_broken(stage: Stage, enough: int) -> bool:
    return stage.wire.broken >= enough


def _wait_for(question: Callable[[], bool], stage: Stage) -> None:
    try:
        wait_until(question, STEP_S, "broken answers")
    except (TimeoutError, ObservatorError) as error:
        stage.happened.wrong.append(str(error))
