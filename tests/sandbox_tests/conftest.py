import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

from producers.sandbox.synthetic import Plan
from producers.sandbox.thread import SandboxThread

SMALL = Plan(market_count=3, books_per_second=10.0)


def book_line(at_s: float, market: str, asks: list[tuple[float, float]], bids: list[tuple[float, float]]) -> str:
    units = [
        {"ask_price": a, "bid_price": b, "ask_size": n, "bid_size": m}
        for (a, n), (b, m) in zip(asks, bids, strict=True)
    ]
    body = {
        "type": "orderbook", "code": market, "timestamp": int(at_s * 1000), "total_ask_size": 1, "total_bid_size": 1,
        "orderbook_units": units, "stream_type": "REALTIME", "level": 0,
    }  # fmt: skip
    return f"{at_s}: {json.dumps(body).encode()!r}\n"


def trade_line(at_s: float, market: str, price: float, size: float, side: str) -> str:
    body = {
        "type": "trade", "code": market, "timestamp": int(at_s * 1000), "trade_timestamp": int(at_s * 1000),
        "trade_price": price, "trade_volume": size, "ask_bid": side, "sequential_id": int(at_s * 1e7),
        "stream_type": "REALTIME",
    }  # fmt: skip
    return f"{at_s}: {json.dumps(body).encode()!r}\n"


def connect(url: str, *parts: dict[str, Any], ticket: str = "t", **options: Any) -> websocket.WebSocket:
    client = websocket.create_connection(url, timeout=10, suppress_origin=True, **options)
    client.send(json.dumps([{"ticket": ticket}, *parts]))
    return client


def receive(client: websocket.WebSocket) -> tuple[int, Any]:
    opcode, data = client.recv_data()
    return opcode, json.loads(data)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxThread]:
    """A synthetic market at live pace with a short warm-up, without rate limits."""
    with SandboxThread(tmp_path_factory.mktemp("sandbox"), plan=SMALL, warmup_seconds=3, is_limited=False) as running:
        client = connect(running.ws_url, {"type": "orderbook", "codes": ["KRW-BTC"]})
        receive(client)
        yield running
        client.shutdown()


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Callable[..., SandboxThread]]:
    """Start a sandbox on hand-made lines and play them at once."""
    running: list[SandboxThread] = []

    def start(*lines: str, kinds: tuple[str, ...] = ("orderbook", "trade"), **values: Any) -> SandboxThread:
        path = tmp_path / f"{len(running)}.log"
        path.write_text("".join(lines))
        values = {"speed": 1e6, "is_limited": False, "home": tmp_path / f"home{len(running)}"} | values
        thread = SandboxThread(kind="recording", recording=path, **values)
        thread.__enter__()
        running.append(thread)
        if values["speed"] >= 1e6:
            client = connect(thread.ws_url, *({"type": kind, "codes": ["KRW-BTC"]} for kind in kinds))
            while not thread.status()["is_ended"]:
                pass
            client.shutdown()
        return thread

    yield start
    for thread in running:
        thread.stop()
