"""The REST quotation against the exchange's recorded answers: keys, their order, types, and the digits by checksum."""

import json
import os
import tarfile
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
import yaml

from producers.sandbox import quotation_views as views
from producers.sandbox.candle_rows import Candle
from producers.sandbox.feeds import Print
from producers.sandbox.thread import SandboxThread
from streams.market.matching import Level

FOLDER = Path(os.environ.get("OBSERVATOR_DATA", "../shared/data")) / "upbit_rest"
PAIRS = FOLDER / "upbit_rest_recorded_202603.jsonl"
CASSETTES = FOLDER / "upbit_rest_cassettes_202603.tar.gz"
WHOLE_SUMS = {
    "months": "2511125524827.97343", "weeks": "509244554633.83152", "years": "17343033068679.96786",
}  # fmt: skip
"""Turnovers that the recording cut to a float: the digits that give the recorded checksum."""
UNITS = {"seconds": "1s", "minutes/1": "1m", "days": "1d", "weeks": "1w", "months": "1M", "years": "1y"}


def _recorded() -> list[dict[str, Any]]:
    if not PAIRS.exists():
        return []
    rows = [json.loads(line) for line in PAIRS.read_text().splitlines()]
    return [row for row in rows if row["cassette"].startswith("quotation/")]


RECORDED = _recorded()
needs_data = pytest.mark.skipif(not RECORDED, reason=f"no recorded answers at {PAIRS}")


def path_of(row: dict[str, Any]) -> str:
    parts = urllib.parse.urlsplit(row["uri"])
    return f"{parts.path}?{parts.query}"


def recorded(path: str) -> Any:
    (row,) = [row for row in RECORDED if path_of(row).startswith(path)]
    return json.loads(row["response_body"], parse_float=Decimal)


def tag_and_length(name: str) -> tuple[str, int]:
    """`ETag` and length of the answer as the exchange sent it, before the recorder spelled its numbers anew."""
    with tarfile.open(CASSETTES) as archive:
        file = archive.extractfile(f"tests/cassettes/quotation/{name}.yaml")
        assert file is not None
        (pair,) = yaml.safe_load(file)["interactions"]
    headers = {key.lower(): value[0] for key, value in pair["response"]["headers"].items()}
    return headers["etag"], int(headers["content-length"])


def tag(text: str) -> str:
    return f'W/"0{md5(text.encode(), usedforsecurity=False).hexdigest()}"'


def ms_of(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def e8(value: Any, digits: int = 8) -> int:
    return int(Decimal(value).scaleb(digits))


# --- our own answers beside the recorded ones -----------------------------------------------------------------------


def shape(value: Any, key: str = "") -> Any:
    """Keys in order and types; a change of nothing is recorded as the integer 0."""
    if isinstance(value, dict):
        return {name: shape(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0], key)] if value else []
    is_change = "change_" in key
    return "number" if is_change and isinstance(value, int | float) else type(value).__name__


@needs_data
@pytest.mark.parametrize("row", RECORDED, ids=lambda row: row["cassette"].removeprefix("quotation/"))
def test_our_answer_has_the_recorded_shape(sandbox: SandboxThread, row: dict[str, Any]) -> None:
    with urllib.request.urlopen(sandbox.url + path_of(row), timeout=20) as answer:
        body = answer.read().decode()
        headers = answer.headers
    theirs = json.loads(row["response_body"])
    assert (answer.status, headers["Content-Type"]) == (row["status"], row["content_type"])
    assert headers["Remaining-Req"].split(";")[:2] == row["remaining_req"].split(";")[:2]
    ours = json.loads(body)
    assert json.dumps(shape(ours)) == json.dumps(shape(theirs))
    if "ticker/all" not in row["uri"]:
        assert len(ours) == len(theirs)
    if "units" in body:
        assert len(ours[0]["orderbook_units"]) == len(theirs[0]["orderbook_units"])
    assert headers["ETag"] == tag(body)


@needs_data
def test_the_instruments_are_the_recorded_bytes(sandbox: SandboxThread) -> None:
    with urllib.request.urlopen(sandbox.url + "/v1/orderbook/instruments?markets=KRW-BTC", timeout=5) as answer:
        assert answer.headers["ETag"] == tag_and_length("get_orderbook_instruments")[0]


# --- the recorded values in our spelling ------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize("name", UNITS)
def test_candles_are_spelled_to_the_byte(name: str) -> None:
    (row,) = recorded(f"/v1/candles/{name}?")
    turnover = WHOLE_SUMS.get(name, row["candle_acc_trade_price"])
    assert float(turnover) == float(row["candle_acc_trade_price"])
    start_ms = ms_of(row["candle_date_time_utc"])
    candle = Candle(
        start_ms, e8(row["opening_price"]), e8(row["high_price"]), e8(row["low_price"]), e8(row["trade_price"]),
        e8(row["candle_acc_trade_volume"]), 0, e8(turnover, 16), row["timestamp"], start_ms, start_ms,
    )  # fmt: skip
    closing_e8 = e8(row["prev_closing_price"]) if name == "days" else None
    text = views.listed([views.candle_line("KRW-BTC", UNITS[name], candle, closing_e8)])
    assert (tag(text), len(text)) == tag_and_length(f"get_candles_{name.partition('/')[0]}")


@needs_data
def test_a_trade_is_spelled_to_the_byte() -> None:
    (row,) = recorded("/v1/trades/ticks?")
    trade = Print(
        row["timestamp"], e8(row["trade_price"]), e8(row["trade_volume"]), row["ask_bid"] == "BID",
        row["sequential_id"],
    )  # fmt: skip
    text = views.listed([views.tick_line("KRW-BTC", trade, e8(row["prev_closing_price"]))])
    assert (tag(text), len(text)) == tag_and_length("get_trades")


@needs_data
@pytest.mark.parametrize("path", ["/v1/ticker?", "/v1/ticker/all?"])
def test_tickers_keep_keys_types_and_values(path: str) -> None:
    theirs = recorded(path)
    rows = []
    for row in theirs:
        digits = {"acc_trade_price": 16, "acc_trade_price_24h": 16, "change_rate": 10, "signed_change_rate": 10}
        rows.append(
            {
                key: value if key.endswith("timestamp") or not isinstance(value, int | Decimal)
                else e8(value, digits.get(key, 8))
                for key, value in row.items()
            }
        )  # fmt: skip
    ours = json.loads(views.listed([views.ticker_line(row) for row in rows]), parse_float=Decimal)
    assert json.dumps(ours, default=float) == json.dumps(theirs, default=float)
    assert [shape(row) for row in ours] == [shape(row) for row in theirs]


@needs_data
def test_a_book_keeps_keys_types_and_values() -> None:
    (theirs,) = recorded("/v1/orderbook?")
    bids, asks = (
        [Level(e8(unit[f"{side}_price"]), e8(unit[f"{side}_size"])) for unit in theirs["orderbook_units"]]
        for side in ("bid", "ask")
    )
    text = views.book_line("KRW-BTC", theirs["timestamp"], bids, asks, 30, 0)
    ours = json.loads(text, parse_float=Decimal)
    assert json.dumps(ours, default=float) == json.dumps(theirs, default=float)
    assert abs(len(text) + 2 - tag_and_length("get_orderbooks")[1]) < 30, "some sizes were sent with trailing zeros"
