"""`observator verify fuzz`: nonsense at every place of the sandbox exchange, while a healthy client is served.

Called by the command line and tests. Passes with no internal error, nobody left waiting, and flat memory, where half of
the routes carried something out and orders were accepted.
"""

import json
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

import uvloop
import websocket

from infra.figures import result_of, slope_of
from infra.upbit.signing import sign
from producers.sandbox.control_client import ControlClient
from producers.verify.fuzz_frames import HANG_S, FrameFuzzer
from producers.verify.fuzz_orders import kept_per_order
from producers.verify.fuzz_rest import RestFuzzer
from producers.verify.sandbox_process import SandboxProcess, running_sandbox

SEED = 1
REQUESTS = 30_000
FRAMES = 100_000
LANES = 16
LINES = 100
LONGEST_WAIT_S = 10.0
"""Of the healthy client; in the short form, which runs on busy machines, only a hang counts."""
NONCES = 2_000
"""So that the memory for them, which has a bound, is full before memory is judged."""
MB_PER_10_000 = 1.0
"""Largest upper bound of the memory's slope over what was sent, in the second half of either part; the part of it that
is kept of accepted orders is measured apart and left out."""
CARRIED_OUT = 0.5
"""Least share of the routes that carried a request out; a wall that refuses everything is harmless too."""
ORDERS = 2_000
_EVERY_S = 0.5
_ACCOUNT = "fuzz"


class _Sample(NamedTuple):
    """Tens of thousands sent so far, MB then, orders accepted by then."""

    sent: float
    megabytes: float
    accepted: int


class Healthy(threading.Thread):
    """A client that behaves: a signed request and a frame of the stream again and again, each timed."""

    def __init__(self, sandbox: SandboxProcess, secret_key: str) -> None:
        super().__init__(daemon=True)
        self._sandbox = sandbox
        self._secret_key = secret_key
        self._ending = threading.Event()
        self.served = 0
        self.longest_s = 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        """Ask until told to stop."""
        try:
            client = websocket.create_connection(self._sandbox.ws_url, timeout=3 * LONGEST_WAIT_S)
            client.send(json.dumps([{"ticket": "healthy"}, {"type": "orderbook", "codes": ["KRW-BTC.1"]}]))
            while not self._ending.wait(0.02):
                started = time.monotonic()
                client.recv()
                streamed = time.monotonic()
                self._ask()
                self.longest_s = max(self.longest_s, streamed - started, time.monotonic() - streamed)
                self.served += 1
            client.close()
        except Exception as error:  # noqa: BLE001 - outermost of a thread: the check fails by it
            self.error = error

    def _ask(self) -> None:
        request = Request(  # noqa: S310 - our own address
            self._sandbox.url + "/v1/accounts", headers={"Authorization": sign(_ACCOUNT, self._secret_key)}
        )
        with urlopen(request, timeout=3 * LONGEST_WAIT_S) as answer:  # noqa: S310 - our own address
            answer.read()

    def close(self) -> None:
        """End."""
        self._ending.set()
        self.join(4 * LONGEST_WAIT_S)


def verify_fuzz(*, quick: bool = False) -> dict[str, object]:
    """Requests first, then frames; each beside a healthy client."""
    requests_count, frames_count = (800, 1_500) if quick else (REQUESTS, FRAMES)
    with running_sandbox(
        plan={"market_count": 10, "books_per_second": 5.0}, warmup_seconds=0, is_limited=False, nonces=NONCES
    ) as sandbox:
        secret = sandbox.open_account(_ACCOUNT, {"KRW": "1000000000", "XRP": "1000000"})
        rest = RestFuzzer(sandbox, _ACCOUNT, secret, SEED)
        frames = FrameFuzzer(sandbox, _ACCOUNT, secret, SEED)
        lines = 20 if quick else LINES
        figures: dict[str, float] = {}
        samples: dict[str, list[_Sample]] = {"requests": [], "frames": []}
        figures |= _run("requests", rest, sandbox, secret, rest.run(requests_count, LANES), samples["requests"])
        figures |= _run("frames", frames, sandbox, secret, frames.run(frames_count, lines), samples["frames"])
        # last, because lists of so many orders take megabytes for a moment each time that they are asked for
        figures |= _of_orders(sandbox, secret, ORDERS // 10 if quick else ORDERS)
        for part, taken in samples.items():
            figures |= _growth(part, taken, figures["bytes kept per accepted order"])
        figures |= _of_rest(rest) | _of_frames(frames)
        figures |= {
            "internal errors: statuses of 500 and more": rest.internal,
            "internal errors: tracebacks in the log": sandbox.log.count("Traceback (most recent call last)"),
            "hangs: requests, frames": rest.hangs + frames.hangs,
            "requests without an answer": rest.unanswered,
            "connections left behind": left_behind(sandbox),
        }
        conditions = {
            "quick": quick,
            "seed": SEED,
            "lines": lines,
            "examples": rest.examples,
            "log": _traces(sandbox.log),
        }
    return result_of("fuzz", figures, conditions, passed=is_harmless(figures, quick=quick))


def is_harmless(figures: Mapping[str, float], *, quick: bool) -> bool:
    """Whether nothing went wrong, and enough was carried out to say so."""
    parts = ("requests", "frames")
    waits = [figures[f"{part}: longest wait of the healthy client, s"] for part in parts]
    return (
        not any(value for name, value in figures.items() if name.startswith(("internal", "hangs", "requests without")))
        and figures["connections left behind"] == 0
        and figures["requests: orders accepted"] > 0
        and figures["requests: routes that carried one out"] >= CARRIED_OUT * figures["requests: routes"]
        and max(waits) < (HANG_S if quick else LONGEST_WAIT_S)
        and (quick or all(figures[f"{part}: MB per 10,000, upper"] <= MB_PER_10_000 for part in parts))
    )


def _run(
    part: str,
    fuzzer: RestFuzzer | FrameFuzzer,
    sandbox: SandboxProcess,
    secret: str,
    work: Coroutine[Any, Any, None],
    samples: list[_Sample],
) -> dict[str, float]:
    """Run one part with memory sampled and a healthy client beside it."""
    healthy = Healthy(sandbox, secret)
    healthy.start()
    started = time.monotonic()
    with _sampled(fuzzer, sandbox, samples):
        uvloop.run(work)
    elapsed = time.monotonic() - started
    healthy.close()
    return {
        f"{part}: sent": fuzzer.sent,
        f"{part}: seconds": round(elapsed, 1),
        f"{part}: requests of the healthy client served": healthy.served,
        f"{part}: longest wait of the healthy client, s": round(healthy.longest_s, 3),
        f"hangs: healthy client cut off, {part}": int(healthy.error is not None or healthy.is_alive()),
        f"{part}: MB at the end": round(sandbox.own_memory_mb(), 1),
    }


def _growth(part: str, samples: list[_Sample], order_bytes: float) -> dict[str, float]:
    """Slope of the memory over what was sent, in the second half (caches fill at first), less what orders take."""
    order_mb = max(0.0, order_bytes) / 2**20
    later = [one for one in samples if one.sent >= samples[-1].sent / 2]
    slope, error = slope_of([(one.sent, one.megabytes - one.accepted * order_mb) for one in later])
    return {
        f"{part}: MB per 10,000": round(slope, 3),
        f"{part}: MB per 10,000, lower": round(slope - 1.96 * error, 3),
        f"{part}: MB per 10,000, upper": round(slope + 1.96 * error, 3),
    }


def _of_orders(sandbox: SandboxProcess, secret: str, count: int) -> dict[str, float]:
    accepted, order_bytes = uvloop.run(kept_per_order(sandbox, _ACCOUNT, secret, count, LANES))
    return {"orders accepted": accepted, "bytes kept per accepted order": round(order_bytes)}


@contextmanager
def _sampled(fuzzer: RestFuzzer | FrameFuzzer, sandbox: SandboxProcess, samples: list[_Sample]) -> Iterator[None]:
    """Take tens of thousands sent and MB every now and then, until left."""
    stop = threading.Event()

    def take() -> None:
        accepted = fuzzer.accepted if isinstance(fuzzer, RestFuzzer) else 0
        samples.append(_Sample(fuzzer.sent / 1e4, sandbox.own_memory_mb(), accepted))

    def sample() -> None:
        while not stop.wait(_EVERY_S):
            take()

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        take()


def _of_rest(rest: RestFuzzer) -> dict[str, float]:
    found: dict[str, float] = {
        "requests: routes": rest.routes,
        "requests: routes reached": len(rest.reached),
        "requests: orders accepted": rest.accepted,
        "requests: routes that carried one out": len(rest.carried_out),
    }
    return found | {f"requests: answered {status}": rest.statuses[status] for status in sorted(rest.statuses)}


def _of_frames(frames: FrameFuzzer) -> dict[str, float]:
    found: dict[str, float] = {f"frames: {end}": count for end, count in sorted(frames.ends.items())}
    return {"frames: lines opened": frames.lines} | found


def left_behind(sandbox: ControlClient) -> int:
    """Connections, public and private, that the server still holds a while after everybody left."""
    ended = time.monotonic() + LONGEST_WAIT_S
    while True:
        status = sandbox.status()
        left = int(status["connections"]) + int(status["private_connections"])
        if not left or time.monotonic() >= ended:
            return left
        time.sleep(0.1)


def _traces(log: str) -> list[str]:
    """What the first few tracebacks end with."""
    parts = log.split("Traceback (most recent call last):\n")[1:6]
    return [next((line for line in part.splitlines() if not line.startswith(" ")), "")[:200] for part in parts]
