"""Signed REST clients that load a sandbox exchange with orders of all kinds and remember every word they were told.

Called by `journal`. Each client is one account with a pace below the exchange's limits; it speaks HTTP and the private
websocket only. What was asked without an answer is remembered as unknown.
"""

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from websocket import WebSocket, WebSocketException

from consumers.verify.told import Told
from infra.upbit.signing import query_of, sign
from infra.upbit.wire import plain

TIMEOUT_S = 30.0
"""A busy machine may let an answer wait; a killed exchange ends the connection at once."""
PAUSE_S = 0.04
ORDER_PAUSE_S = 0.1
"""Between two calls of the order group: ten a second, the exchange allows twelve."""
BATCH_PAUSE_S = 2.2
_ENDED = {"done", "cancel"}


class Client:
    """One account."""

    def __init__(self, port: int, access_key: str, secret_key: str, ticks: Mapping[str, Decimal], seed: int) -> None:
        self.access_key = access_key
        self._port = port
        self._secret_key = secret_key
        self._ticks = dict(ticks)
        self._random = random.Random(seed)  # noqa: S311 - a load, no secret
        self._connection: http.client.HTTPConnection | None = None
        self._number = 0
        self._order_at = 0.0
        self._batch_at = 0.0
        self._lock = threading.Lock()
        self.prices: dict[str, float] = {}
        self.told: list[Told] = []
        self._by_uuid: dict[str, Told] = {}
        self._by_identifier: dict[str, Told] = {}
        self.answers: Counter[str] = Counter()
        self.doubled = 0
        """Identifiers that the exchange accepted a second time."""
        self.messages = 0

    # --- calls ------------------------------------------------------------------------------------------------------

    def call(
        self, method: str, path: str, *, query: str = "", body: Mapping[str, Any] | None = None
    ) -> tuple[int, Any]:
        """One signed call; raises `OSError` or `HTTPException` where no answer comes."""
        header = sign(self.access_key, self._secret_key, query or (query_of(body) if body else ""))
        headers = {"Authorization": header, "Content-Type": "application/json"}
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            data = None if body is None else json.dumps(body).encode()
            self._connection.request(method, path + (f"?{query}" if query else ""), data, headers)
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        try:
            found = json.loads(text)
        except ValueError:
            found = {}
        self.answers[f"{method} {path.split('?', maxsplit=1)[0]} {answer.status}"] += 1
        if answer.status in {418, 429}:
            time.sleep(0.5)
        return answer.status, found

    def meet(self, prices: Mapping[str, float]) -> None:
        """Begin with an exchange that has just started: no connection is left of the one before."""
        self.prices = dict(prices)
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def load(self, stop: threading.Event) -> None:
        """Send until told to stop; a dead exchange is waited for."""
        while not stop.is_set():
            try:
                self._one()
            except (OSError, http.client.HTTPException):
                self.answers["no answer"] += 1
                time.sleep(0.1)
            time.sleep(PAUSE_S)

    def _one(self) -> None:
        doing = self._random.choices(
            (self.create, self.look_up, self.cancel, self.reuse, self.list_open, self.cancel_all, self.replace),
            (50, 15, 12, 5, 4, 6, 6),
        )[0]
        doing()

    def create(self) -> None:
        """A new order of any kind."""
        self._wait_for_the_group()
        body = self._body()
        told = self._remember(Told(str(body["identifier"]), body))
        status, found = self.call("POST", "/v1/orders", body=body)
        if status == 201:
            self._name_it(told, str(found["uuid"]))
        else:
            told.refused = _name(found) or str(status)

    def _remember(self, told: Told) -> Told:
        self.told.append(told)
        self._by_identifier[told.identifier] = told
        return told

    def _name_it(self, told: Told, uuid: str) -> None:
        with self._lock:
            told.uuid = uuid
            self._by_uuid[uuid] = told

    def look_up(self) -> None:
        """One order by uuid or identifier."""
        told = self._recent()
        if told is not None:
            by = f"uuid={told.uuid}" if self._random.random() < 0.5 else f"identifier={told.identifier}"
            status, found = self.call("GET", "/v1/order", query=by)
            if status == 200:
                self._take(found)

    def cancel(self) -> None:
        """Cancel one."""
        told = self._recent()
        if told is not None:
            status, _ = self.call("DELETE", "/v1/order", query=f"uuid={told.uuid}")
            told.is_cancelled = told.is_cancelled or status == 200

    def reuse(self) -> None:
        """Send an identifier again that was used; a second order is what must never be."""
        told = self._recent()
        if told is not None:
            self.use_again(told)

    def use_again(self, told: Told) -> bool:
        """Send one identifier again; whether the exchange refused it as used."""
        self._wait_for_the_group()
        body = {**self._body("limit"), "identifier": told.identifier}
        status, found = self.call("POST", "/v1/orders", body=body)
        self.doubled += status == 201
        return status == 400 and _name(found) == "duplicated_identifier"

    def list_open(self) -> None:
        """All open orders."""
        status, found = self.call("GET", "/v1/orders/open", query="limit=100")
        if status == 200:
            for row in found:
                self._take(row)

    def cancel_all(self) -> None:
        """Cancel a market's orders in one call; seldom, as the exchange allows."""
        if time.monotonic() < self._batch_at + BATCH_PAUSE_S:
            return
        self._batch_at = time.monotonic()
        market = self._random.choice(sorted(self._ticks))
        status, found = self.call("DELETE", "/v1/orders/open", query=f"pairs={market}&count=5")
        if status == 200:
            for row in found["success"]["orders"]:
                if row["uuid"] in self._by_uuid:
                    self._by_uuid[row["uuid"]].is_cancelled = True

    def replace(self) -> None:
        """Cancel one and ask for a new one in its place."""
        told = self._recent()
        if told is None or told.body["ord_type"] != "limit":
            return
        self._wait_for_the_group()
        price = str(told.body["price"])
        new = self._remember(Told(self._identifier(), told.body, is_replacement=True))
        body = {
            "prev_order_uuid": told.uuid, "new_ord_type": "limit", "new_price": price,
            "new_volume": told.body["volume"], "new_identifier": new.identifier,
        }  # fmt: skip
        status, found = self.call("POST", "/v1/orders/cancel_and_new", body=body)
        if status in {200, 201}:
            told.is_cancelled = True
            self._name_it(new, str(found["new_order_uuid"]))
        else:
            new.refused = _name(found) or str(status)

    # --- what was said ----------------------------------------------------------------------------------------------

    def _take(self, row: Mapping[str, Any]) -> None:
        with self._lock:
            told = self._by_uuid.get(str(row["uuid"]))
            if told is None:
                return
            told.executed = max(told.executed, Decimal(row["executed_volume"]))
            told.fills |= {str(trade["uuid"]) for trade in row.get("trades", ())}
            if row["state"] in _ENDED:
                told.state = str(row["state"])

    def listen(self, stop: threading.Event) -> None:
        """Hear the private websocket until told to stop."""
        while not stop.is_set():
            socket = WebSocket()
            socket.settimeout(1.0)
            try:
                header = [f"Authorization: {sign(self.access_key, self._secret_key)}"]
                address = f"ws://127.0.0.1:{self._port}/websocket/v1/private"
                socket.connect(address, header=header, http_no_proxy=["127.0.0.1"], suppress_origin=True)  # type: ignore[no-untyped-call]  # the library's
                socket.send(json.dumps([{"ticket": "journal"}, {"type": "myOrder"}]))
                while not stop.is_set():
                    self._hear(socket)
            except (WebSocketException, OSError, ValueError):
                stop.wait(0.5)
            finally:
                socket.shutdown()  # type: ignore[no-untyped-call]  # same

    def _hear(self, socket: WebSocket) -> None:
        try:
            message = json.loads(socket.recv(), parse_float=Decimal, parse_int=Decimal)
        except TimeoutError:
            return
        if "uuid" not in message:
            return
        self.messages += 1
        with self._lock:
            told = self._by_identifier.get(message["identifier"])
            if told is None:
                return
            told.uuid = message["uuid"]  # the message may be faster than the answer
            self._by_uuid[told.uuid] = told
            told.executed = max(told.executed, message["executed_volume"])
            if message["state"] == "trade":
                told.fills.add(message["trade_uuid"])
            if message["state"] in _ENDED:
                told.state = message["state"]

    # --- drawing ----------------------------------------------------------------------------------------------------

    def _wait_for_the_group(self) -> None:
        left = self._order_at + ORDER_PAUSE_S - time.monotonic()
        if left > 0:
            time.sleep(left)
        self._order_at = time.monotonic()

    def _recent(self) -> Told | None:
        known = [told for told in self.told[-30:] if told.uuid]
        return self._random.choice(known) if known else None

    def _identifier(self) -> str:
        self._number += 1
        return f"{self.access_key}-{self._number}"

    def _body(self, kind: str = "") -> dict[str, Any]:
        r = self._random
        market = r.choice(sorted(self._ticks))
        kind = kind or r.choice(("limit", "limit", "limit", "post_only", "ioc", "fok", "price", "market", "best"))
        side = {"price": "bid", "market": "ask"}.get(kind) or r.choice(("bid", "ask"))
        behind = r.choice((r.randint(-6, 6), r.randint(5, 60)))  # half of the orders come to rest
        price = Decimal(str(self.prices[market])) + (-behind if side == "bid" else behind) * self._ticks[market]
        worth = Decimal(r.randint(6_000, 60_000))
        body: dict[str, Any] = {"market": market, "side": side, "identifier": self._identifier()}
        body["ord_type"] = kind if kind in {"price", "market", "best"} else "limit"
        if body["ord_type"] == "limit" or side == "ask":
            body["volume"] = plain((worth / price).quantize(Decimal("1e-8")))
        if body["ord_type"] == "limit":
            body["price"] = plain(price)
        elif side == "bid":
            body["price"] = plain(worth)
        if kind in {"post_only", "ioc", "fok"}:
            body["time_in_force"] = kind
        elif kind == "best":
            body["time_in_force"] = r.choice(("ioc", "fok"))
        if kind != "post_only" and r.random() < 0.3:
            body["smp_type"] = r.choice(("cancel_maker", "cancel_taker", "reduce"))
        return body


def _name(found: Any) -> str:
    error = found.get("error") if isinstance(found, dict) else None
    return str(error.get("name", "")) if isinstance(error, dict) else ""
