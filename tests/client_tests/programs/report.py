"""Runs calls of a client one after the other and prints what came of each, one JSON line per call.

Lies beside the programs that the tests start in the clients' own environment; knows nothing of this project.
"""

import asyncio
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

PAUSE_S = 0.12
"""Between two calls: the exchange allows ten a second in the strictest group."""
PATIENCE_S = 20.0

if "127.0.0.1" not in os.environ.get("HTTPS_PROXY", ""):
    sys.exit("These programs are for the sandbox exchange only; HTTPS_PROXY does not lead there.")


class Unexpected(Exception):  # noqa: N818 - named by what happened
    """The call answered, but not with what it promises."""


def call(name: str, function: Callable[[], Any], check: Callable[[Any], Any] = bool) -> Any:
    """Run one call; it works where it raises nothing and `check` holds. Gives its answer, None where it failed."""
    time.sleep(PAUSE_S)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):  # one client prints the names of errors that it swallows
            value = function()
        _judge(value, check)
    except Exception as error:  # noqa: BLE001 - whatever the client raises is its outcome
        _tell(name, error, said.getvalue())
        return None
    _tell(name)
    return value


async def acall(name: str, function: Callable[[], Awaitable[Any]], check: Callable[[Any], Any] = bool) -> Any:
    """Run one call of an asynchronous client."""
    await asyncio.sleep(PAUSE_S)
    try:
        value = await asyncio.wait_for(function(), PATIENCE_S)
        _judge(value, check)
    except Exception as error:  # noqa: BLE001 - whatever the client raises is its outcome
        _tell(name, error)
        return None
    _tell(name)
    return value


def until(function: Callable[[], Any], check: Callable[[Any], Any], patience_s: float = 30.0) -> Any:
    """Ask again until `check` holds: orders are filled and cancelled after their answer."""
    deadline = time.monotonic() + patience_s
    while True:
        value = function()
        if check(value):
            return value
        if time.monotonic() > deadline:
            raise Unexpected(f"still {value!r}"[:300])
        time.sleep(PAUSE_S)


def _judge(value: Any, check: Callable[[Any], Any]) -> None:
    if not check(value):
        raise Unexpected(f"{value!r}"[:300])


def _tell(name: str, error: Exception | None = None, said: str = "") -> None:
    text = "" if error is None else f"{type(error).__name__}: {error} {said}".strip()
    print(json.dumps({"call": name, "error": text[:500]}, ensure_ascii=False), file=sys.stdout, flush=True)
