"""Asks the exchange what a key is good for, before it is ever used to order, and again every day.

Called by `keys_keeper`. Each right is proven by a call that can change nothing: the list of keys (that it is known, and
until when), the assets, the order chances, a test order (placed nowhere), and cancelling a withdrawal that does not
exist. The last needs the right to withdraw: only `out_of_scope` proves that it is missing, any other answer does not
(a key whose withdrawals are locked in the app answers otherwise, and has the right). What is not proven is asked again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import httpx
import msgspec
from upbit import APIError, APIStatusError, Upbit

from consumers.execute.guard import check_address
from consumers.execute.keys_words import KeyReason
from infra.errors import ExchangeUnavailable, Limited
from infra.secrets import Secret
from infra.upbit.pace import Pace

TIMEOUT_S = 3.0
MARKET = "KRW-BTC"
NO_WITHDRAWAL = "00000000-0000-0000-0000-000000000000"
_WRONG = frozenset({"invalid_access_key", "jwt_verification"})
_ADDRESS = frozenset({"no_authorization_ip", "no_authorization_i_p"})
_PASSING = frozenset({"nonce_used", "market_offline"})


@dataclass(frozen=True, slots=True)
class Checked:
    """What the exchange says of a key. `reason` is empty for a good one."""

    reason: KeyReason | None
    expires_ms: int | None = None
    keys: tuple[str, ...] = field(default=(), repr=False)
    """Access keys of the same pocket."""


class _WireKey(msgspec.Struct):
    access_key: str
    expire_at: datetime


class _WireError(msgspec.Struct):
    name: str | int = ""


class _WireErrorBody(msgspec.Struct):
    error: _WireError


class _Refused(Exception):  # noqa: N818 - named by what happened
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def check_key(address: str, access_key: str, secret_key: Secret, now_ms: int, pace: Pace | None = None) -> Checked:
    """Look at a key from every side; raises `ExchangeUnavailable` where the exchange proves nothing."""
    with Asking(address, access_key, secret_key, pace) as asking:
        return asking.check(now_ms)


class Asking:
    """One key's questions to the exchange."""

    def __init__(self, address: str, access_key: str, secret_key: Secret, pace: Pace | None = None) -> None:
        check_address(address)
        self._access_key = access_key
        timeout = httpx.Timeout(TIMEOUT_S)
        self._client = Upbit(
            access_key=access_key,
            secret_key=secret_key.reveal(),
            base_url=address,
            websocket_base_url=address,
            timeout=timeout,
            max_retries=0,
            http_client=httpx.Client(
                base_url=address,
                timeout=timeout,
                follow_redirects=False,
                trust_env=False,
                event_hooks=pace.hooks() if pace is not None else {},
            ),
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._client.close()

    def check(self, now_ms: int) -> Checked:
        """Ask everything; raises `ExchangeUnavailable`."""
        keys: tuple[_WireKey, ...] = ()
        client = self._client
        try:
            keys = tuple(self._keys())
        except _Refused as error:
            return Checked(_reason_of(error.name, None))
        own = next((key for key in keys if key.access_key == self._access_key), None)
        expires_ms = int(own.expire_at.timestamp() * 1000) if own is not None else None
        reason: KeyReason | None = None
        if expires_ms is not None and expires_ms <= now_ms:
            reason = KeyReason.EXPIRED
        for missing, call in (
            (KeyReason.NO_ASSET_RIGHT, client.accounts.with_raw_response.list),
            (KeyReason.NO_VIEW_RIGHT, lambda: client.orders.with_raw_response.retrieve_chance(market=MARKET)),
            (KeyReason.NO_ORDER_RIGHT, self._test_order),
        ):
            reason = reason or self._missing(missing, call)
        if reason is None and self._may_withdraw():
            reason = KeyReason.MAY_WITHDRAW
        return Checked(reason, expires_ms, tuple(key.access_key for key in keys))

    def knows_order(self, uuid: str) -> bool:
        """Whether an order is one of this key's pocket; raises `ExchangeUnavailable`."""
        try:
            _ask(lambda: self._client.orders.with_raw_response.retrieve(uuid=uuid))
        except _Refused:
            return False
        return True

    def _keys(self) -> list[_WireKey]:
        content = _ask(self._client.api_keys.with_raw_response.list)
        try:
            return msgspec.json.decode(content, type=list[_WireKey])
        except msgspec.MsgspecError as error:
            raise ExchangeUnavailable("the exchange's list of keys cannot be read") from error

    def _test_order(self) -> Any:
        """A test order is checked as a real one and placed nowhere."""
        return self._client.orders.with_raw_response.test_create(
            market=MARKET, side="bid", ord_type="price", price="5000"
        )

    def _missing(self, missing: KeyReason, call: Callable[[], Any]) -> KeyReason | None:
        """`missing` where the right is not there; an order refused for another reason has passed that question."""
        try:
            _ask(call)
        except _Refused as error:
            return _reason_of(error.name, missing)
        return None

    def _may_withdraw(self) -> bool:
        try:
            _ask(lambda: self._client.withdraws.with_raw_response.cancel_withdrawal(uuid=NO_WITHDRAWAL))
        except _Refused as error:
            return error.name != "out_of_scope"
        return True


def _reason_of(name: str, missing: KeyReason | None) -> KeyReason | None:
    """What a refusal says of the key; raises `ExchangeUnavailable` for one that says nothing of it."""
    if name in _WRONG:
        return KeyReason.WRONG_KEY
    if name == "expired_access_key":
        return KeyReason.EXPIRED
    if name in _ADDRESS:
        return KeyReason.ADDRESS_NOT_ALLOWED
    if name == "out_of_scope" and missing is not None:
        return missing
    if name in _PASSING or missing is None:
        raise ExchangeUnavailable(f"the exchange answers {name} to a question about the key")
    return None


def _ask(call: Callable[[], Any]) -> bytes:
    """The body of an answer; raises `_Refused` with the error's name, or `ExchangeUnavailable`. Never shows the key."""
    try:
        return bytes(call().http_response.content)
    except APIStatusError as error:
        name = _name_of(error)
        if error.status_code in {400, 401, 403, 404} and name:
            raise _Refused(name) from None
        raise ExchangeUnavailable(f"the exchange answers {error.status_code} {name}".rstrip()) from None
    except APIError as error:
        if isinstance(error.__cause__, Limited):
            raise ExchangeUnavailable(str(error.__cause__)) from None
        raise ExchangeUnavailable(f"the exchange does not answer ({type(error.__cause__ or error).__name__})") from None


def _name_of(error: APIStatusError) -> str:
    try:
        return str(msgspec.json.decode(error.response.content, type=_WireErrorBody).error.name)
    except msgspec.MsgspecError:
        return ""
