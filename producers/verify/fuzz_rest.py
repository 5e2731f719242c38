"""Mutated, correctly signed requests to every route that the sandbox mounts, by a seeded engine of our own.

Called by `fuzz`. A library would bring no more here: the routes come from the server's router, the hash covers what is
really sent, and what goes wrong is a status of 500 or more, a line that ends, or an answer that does not come.
"""

import asyncio
import json
import random
import re
from collections import Counter, deque
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from infra.upbit.signing import query_of_request, sign
from producers.sandbox.faults import NAMES as FAULT_NAMES
from producers.verify.sandbox_process import SandboxProcess

HANG_S = 30.0
_EXAMPLES = 5
_EXAMPLE_LENGTH = 1_000
BAD_REQUEST = 400
_METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS")
_TYPES = ("application/json", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", "x")
_MAKES_ORDERS = ("/v1/orders", "/v1/orders/cancel_and_new")
_VARIES = re.compile(r"\{[^}]*\}")

LIMIT = {"market": "KRW-XRP", "side": "bid", "ord_type": "limit", "price": "2000", "volume": "5"}
ORDERS: tuple[dict[str, Any], ...] = (
    LIMIT,
    LIMIT | {"time_in_force": "ioc", "identifier": "mine", "smp_type": "cancel_maker"},
    LIMIT | {"price": "8000", "time_in_force": "fok"},
    {"market": "KRW-XRP", "side": "ask", "ord_type": "limit", "price": "3000", "volume": "3"},
    {"market": "KRW-XRP", "side": "bid", "ord_type": "price", "price": "6000"},
    {"market": "KRW-XRP", "side": "ask", "ord_type": "market", "volume": "3"},
    {"market": "KRW-XRP", "side": "bid", "ord_type": "best", "price": "6000", "time_in_force": "ioc"},
)
TEMPLATES: tuple[dict[str, Any], ...] = (
    *ORDERS,
    {"prev_order_uuid": "$uuid", "new_ord_type": "limit", "new_price": "2100", "new_volume": "remain_only"},
    {"uuid": "$uuid"},
    {"identifier": "mine"},
    {"uuids[]": "$uuid"},
    {"market": "KRW-XRP", "states[]": "wait", "page": "1", "limit": "10", "order_by": "asc"},
    {"market": "KRW-XRP", "count": "5", "to": "2026-01-01T00:00:00Z"},
    {"market": "KRW-XRP", "to": "12:00:00", "days_ago": "1", "cursor": "17000000000000000"},
    {"markets": "KRW-BTC,KRW-XRP", "level": "0", "count": "15"},
    {"quote_currencies": "KRW,BTC", "cancel_side": "all", "excluded_pairs": "KRW-BTC", "pairs": "KRW-XRP"},
    {"start_time": "1700000000000", "end_time": "2026-01-01T00:00:00+09:00", "state": "done"},
    {"name": "refused", "path": "/v1/nowhere", "count": 1, "probability": 0.5, "seconds": 0.1, "error": "x"},
    {"access_key": "other", "balances": {"KRW": "1000"}},
    {"account": "fuzz", "permissions": ["view_orders"], "addresses": ["127.0.0.1"], "expires_in_seconds": 60},
    {"burn_refused_identifiers": True, "smp_default": "cancel_maker"},
    {"is_details": "true"},
    {},
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e300, float("nan"), float("inf"), 10**30, -(10**400), "", " ", "0", "-0", "-1",
    "1e5", "1E-9", "NaN", "Infinity", "0x10", "1" * 400, "0." + "0" * 400 + "1", "\x00", "\r\n", "💥", "١٢٣", "²",
    "\uff11\uff12", "KRW-BTC", "krw-btc", "KRW-", "-", "BTC-KRW", "KRW-NONE", "KRW-BTC," * 300, "bid", "ask", "all",
    "limit", "price", "market", "best", "ioc", "fok", "post_only", "wait", "watch", "done", "cancel", "desc", "true",
    "TRUE", "remain_only", "cancel_maker", "reduce", "none", "10000000", "0.00000001", "0.000000001", [], ["x"], [[]],
    {}, {"a": [1]}, [None], "'; drop", "x" * 65, "x" * 7_000, "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59",
    "2026-13-01", "2026-01-01T25", "253402300800000", "99999999999999999999", "-62135596800000", "24:00:00", "999999",
    "../..", "%", "%00", "\ud800", "minutes", "1", "240", "7", "\u202e", {"": ""}, "127.0.0.1", "0.0.0.0/0",
    "1.5\n",
)  # fmt: skip
RAW_BODIES = (
    b"", b"{", b"null", b"[]", b"1", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"{}" * 2,
    b'{"market":"KRW-XRP","market":"KRW-BTC"}', b'{"a":1e999}', b'{"price":' + b"9" * 5_000 + b"}", b"\x00" * 100,
    b"market=KRW-XRP&side=bid", b"--x\r\n\r\n--x--", b'{"\xed\xa0\x80":1}',
)  # fmt: skip
RAW_QUERIES = (
    "%",
    "%ff=%ff",
    "=&=",
    "&&&",
    "a",
    "market=%ED%A0%80",
    "market=KRW-BTC;b",
    "[]=[]",
    "states[]=&states[]=",
)


class Drawn:
    """One request, and the route it was drawn for."""

    def __init__(
        self, route: tuple[str, str], method: str, path: str, query: str, body: bytes, headers: dict[str, str]
    ) -> None:
        self.route = route
        self.method = method
        self.path = path
        self.query = query
        self.body = body
        self.headers = headers

    def __str__(self) -> str:
        """For the report; without its token."""
        return f"{self.method} {self.path}?{self.query[:200]} {self.body[:200]!r}"


class RestFuzzer:
    """Draws requests, sends them over a few lines at once and keeps score."""

    def __init__(self, sandbox: SandboxProcess, access_key: str, secret_key: str, seed: int) -> None:
        self._sandbox = sandbox
        self._keys = access_key, secret_key
        self._control = sandbox.secret("sandbox-control")
        self._draw = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._routes = [route for route in sandbox.routes if "websocket" not in route[1]]
        self._uuids: deque[str] = deque(["none"], maxlen=200)
        self._left = 0
        self.sent = 0
        self.statuses: Counter[int] = Counter()
        self.carried_out: set[tuple[str, str]] = set()
        self.reached: set[tuple[str, str]] = set()
        self.accepted = 0
        """Orders; the sandbox keeps them."""
        self.internal = 0
        self.hangs = 0
        self.unanswered = 0
        self.examples: list[str] = []

    @property
    def routes(self) -> int:
        """How many there are."""
        return len(self._routes)

    # --- drawing ----------------------------------------------------------------------------------------------

    def request(self) -> Drawn:
        """The next request."""
        draw = self._draw
        route = method, template = draw.choice(self._routes)
        self.reached.add(route)
        path = _VARIES.sub(lambda _: quote(self._text(), safe="", errors="surrogatepass"), template)
        if draw.random() < 0.03:
            method = draw.choice(_METHODS)
        if draw.random() < 0.02:
            path += draw.choice(("/", "//", "/x", "%2e%2e", "%00"))
        is_order = template in {"/v1/orders", "/v1/orders/test"} and method == "POST" and draw.random() < 0.8
        pairs = self._pairs(ORDERS if is_order else TEMPLATES, is_control=template.startswith("/sandbox"))
        in_body = method in {"POST", "PUT", "PATCH"} if draw.random() < 0.95 else draw.random() < 0.5
        query, body = "", b""
        if in_body:
            body = draw.choice(RAW_BODIES) if draw.random() < 0.06 else json.dumps(dict(pairs)).encode()
        else:
            query = draw.choice(RAW_QUERIES) if draw.random() < 0.03 else _query(pairs)
        headers = {"Authorization": self._token(template, query, body)}
        if body:
            headers["Content-Type"] = draw.choice(_TYPES) if draw.random() < 0.1 else _TYPES[0]
        return Drawn(route, method, path, query, body, headers)

    def _pairs(self, templates: tuple[dict[str, Any], ...], *, is_control: bool) -> list[tuple[str, Any]]:
        """A good request with some of its parts changed, dropped or joined by others."""
        draw = self._draw
        pairs = list(draw.choice(templates).items())
        names = [name for template in TEMPLATES for name in template]
        for _ in range(draw.choice((0, 1, 1, 2, 3))):
            act = draw.randrange(4)
            if act == 0 and pairs:
                pairs.pop(draw.randrange(len(pairs)))
            elif act == 1 and pairs:
                at = draw.randrange(len(pairs))
                pairs[at] = (pairs[at][0], self._value())
            else:
                pairs.append((draw.choice(names) if act == 2 else self._text()[:40], self._value()))
        if is_control:  # a fault that is really switched on does what this looks for
            pairs = [(name, value) for name, value in pairs if name != "name" or value not in FAULT_NAMES]
        return [(name, draw.choice(self._uuids) if value == "$uuid" else value) for name, value in pairs]

    def _value(self) -> Any:
        draw = self._draw
        return draw.choice(self._uuids) if draw.random() < 0.1 else draw.choice(VALUES)

    def _text(self) -> str:
        return _text(self._value())[:200] or "x"

    def _token(self, template: str, query: str, body: bytes) -> str:
        """The control token there, else a signature over what is sent; now and then a spoilt one."""
        if template.startswith("/sandbox"):
            return f"Bearer {self._control}"
        try:
            covered = query_of_request(query, body)
            token = sign(*self._keys, covered, algorithm=self._draw.choice(("HS256", "HS512")))
        except (ValueError, RecursionError):
            token = sign(*self._keys)
        if self._draw.random() < 0.03:
            at = self._draw.randrange(len(token))
            token = token[:at] + self._draw.choice(("", ".", "A", "==")) + token[at + 1 :]
        return token

    # --- sending ----------------------------------------------------------------------------------------------

    async def run(self, count: int, lanes: int) -> None:
        """Send so many requests."""
        self._left = count
        timeout = aiohttp.ClientTimeout(total=HANG_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=lanes)) as session:
            await asyncio.gather(*(self._lane(session) for _ in range(lanes)))

    async def _lane(self, session: aiohttp.ClientSession) -> None:
        while self._left > 0:
            self._left -= 1
            drawn = self.request()
            try:
                await self._send(session, drawn)
            except TimeoutError:
                self.hangs += 1
                self._note("no answer", drawn)
            except aiohttp.ClientResponseError as error:
                # A line that is too long is refused before its method is known: to HEAD too with a body, which is an
                # answer all the same, though the client will not have it.
                if drawn.method != "HEAD" or error.status != BAD_REQUEST:
                    self.unanswered += 1
                    self._note(f"{type(error).__name__}: {error}", drawn)
                self.statuses[error.status] += 1
            except aiohttp.ClientError as error:
                self.unanswered += 1
                self._note(f"{type(error).__name__}: {error}", drawn)

    async def _send(self, session: aiohttp.ClientSession, drawn: Drawn) -> None:
        url = URL(self._sandbox.url + drawn.path + ("?" + drawn.query if drawn.query else ""), encoded=True)
        async with session.request(
            drawn.method, url, data=drawn.body or None, headers=drawn.headers, allow_redirects=False
        ) as answer:
            text = await answer.text(errors="replace")
        self.sent += 1
        self.statuses[answer.status] += 1
        if answer.status >= 500:
            self.internal += 1
            self._note(f"{answer.status} {text[:200]}", drawn)
        if answer.status < 300 and drawn.method == drawn.route[0]:
            self.carried_out.add(drawn.route)
        if answer.status < 300 and drawn.method == "POST" and drawn.route[1] in _MAKES_ORDERS:
            self.accepted += 1
        if answer.status == 201 and '"uuid":"' in text:
            self._uuids.append(text.split('"uuid":"', 1)[1].split('"', 1)[0])

    def _note(self, what: str, drawn: Drawn) -> None:
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{what} <- {drawn}"[:_EXAMPLE_LENGTH])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _query(pairs: list[tuple[str, Any]]) -> str:
    return "&".join(
        f"{quote(name, safe='[]', errors='surrogatepass')}={quote(_text(value), safe=',:', errors='surrogatepass')}"
        for name, value in pairs
    )
