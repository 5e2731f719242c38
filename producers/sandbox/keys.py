"""Access keys: whose they are, what they may do, until when, from which addresses. Several may belong to one account.

Called by `rest` for every signed request and by the control interface. Every account has one key of its own name from
the start, with all rights; others are made through the control interface and kept in a file without secrets, which lie
beside the account's own in the folder of secrets.
"""

import ipaddress
import os
import secrets
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec
from aiohttp import web

from infra.errors import BadSettings
from infra.secrets import keep_secret
from infra.upbit.rates import PERMISSIONS
from infra.upbit.signing import BadToken

YEAR_MS = 365 * 86_400_000
"""How long a key is good where nothing else is said, as documented."""
RIGHTS = web.RequestKey("rights", tuple[str, ...])
"""Where a signed upgrade request carries what its key may do."""
MOST_KEYS = 10
MOST_ADDRESSES = 10


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One access key. No addresses: from anywhere."""

    access_key: str
    account: str
    permissions: tuple[str, ...]
    expires_ms: int
    addresses: tuple[str, ...] = ()


class Keys:
    """All keys of one exchange."""

    def __init__(self, path: Path, secrets_path: Path, accounts: Collection[str], now_ms: Callable[[], int]) -> None:
        """`accounts` are read as they come and go; raises `BadSettings` where the file is damaged."""
        self._path = path
        self._secrets_path = secrets_path
        self._accounts = accounts
        self._now_ms = now_ms
        self._first_expiry_ms = now_ms() + YEAR_MS
        self._made = {key.access_key: key for key in _read(path)}
        self._secrets: dict[str, str] = {}

    def find(self, access_key: str) -> Key | None:
        """The key, also one that has run out; an account's own name is one."""
        if (made := self._made.get(access_key)) is not None:
            return made
        if access_key in self._accounts:
            return Key(access_key, access_key, PERMISSIONS, self._first_expiry_ms)
        return None

    def secret_of(self, access_key: str) -> str | None:
        """What it signs with; None for an unknown key."""
        if access_key not in self._secrets:
            if self.find(access_key) is None:
                return None
            self._secrets[access_key] = keep_secret(self._secrets_path, access_key)
        return self._secrets[access_key]

    def of(self, account: str) -> list[Key]:
        """The account's keys, oldest first."""
        own = self.find(account)
        return ([own] if own is not None else []) + [key for key in self._made.values() if key.account == account]

    def make(
        self, account: str, permissions: Collection[str], expires_ms: int | None, addresses: Collection[str]
    ) -> Key:
        """Make one; it is on disk before it is told. `ValueError` says what is wrong."""
        if account not in self._accounts:
            raise ValueError("account is unknown")
        if unknown := set(permissions) - set(PERMISSIONS):
            raise ValueError(f"permissions do not exist: {', '.join(sorted(unknown))}")
        if len(addresses) > MOST_ADDRESSES:
            raise ValueError(f"at most {MOST_ADDRESSES} addresses per key")
        if len(self.of(account)) >= MOST_KEYS:
            raise ValueError(f"at most {MOST_KEYS} keys per account")
        expires_ms = self._now_ms() + YEAR_MS if expires_ms is None else expires_ms
        places = tuple(str(ipaddress.ip_address(text)) for text in addresses)
        key = Key(secrets.token_hex(20), account, tuple(permissions), expires_ms, places)
        self._write(self._made | {key.access_key: key})
        return key

    def drop(self, access_key: str) -> bool:
        """Take a made key back; False where there is none."""
        if access_key not in self._made:
            return False
        self._write({name: key for name, key in self._made.items() if name != access_key})
        (self._secrets_path / access_key).unlink(missing_ok=True)
        self._secrets.pop(access_key, None)
        return True

    def admit(self, access_key: str, address: str) -> None:
        """Whether a well-signed key may be used now and from there; raises `BadToken`."""
        key = self.find(access_key)
        if key is None:
            raise BadToken("invalid_access_key", "잘못된 엑세스 키입니다.")
        if key.expires_ms <= self._now_ms():
            raise BadToken("expired_access_key", "API 키가 만료되었습니다.")
        if key.addresses and address not in key.addresses:
            raise BadToken("no_authorization_ip", "This is not a verified IP.")

    def _write(self, made: dict[str, Key]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".keys.", dir=self._path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(list(made.values())))
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self._path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
        self._made = made


def _read(path: Path) -> list[Key]:
    if not path.exists():
        return []
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Key])
    except msgspec.MsgspecError as error:
        raise BadSettings(f"{path} cannot be read ({error}): move it away to start without made keys") from None
