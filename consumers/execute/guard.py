"""Keeps a process away from the real exchange's order hosts, and the SDK away from keys that lie around.

`executor` calls both functions before anything else. Real money would need three things at once, kept in three places;
`missing_for_live` says which are not there. Even with all three there is no live path in this build: outside the
loopback interface no order can be sent, whatever a setting says, and nothing here can be switched off.
"""

import ipaddress
import sys
from collections.abc import MutableMapping
from urllib.parse import urlsplit

from infra.errors import BadSettings, Unsupported

REAL_HOSTS = ("upbit.com",)
"""Domains of the real exchange: all its regions' REST and websocket addresses stand below."""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(address: str) -> None:
    """Raise `Unsupported` unless an exchange's address is on this machine."""
    host = urlsplit(address).hostname or ""
    if not is_loopback(host):
        raise Unsupported(f"orders go to the sandbox exchange on this machine only, not to {host or address!r}")


def refuse_real_exchange() -> None:
    """From here on no part of this process can look up the real exchange's hosts; it cannot be undone.

    An audit hook, so that every library is covered, whichever client it brings.
    """

    def refuse(event: str, args: tuple[object, ...]) -> None:
        if event != "socket.getaddrinfo" or not args:
            return
        host = args[0].decode(errors="replace") if isinstance(args[0], bytes) else str(args[0])
        host = host.rstrip(".").lower()
        if any(host == real or host.endswith(f".{real}") for real in REAL_HOSTS):
            raise Unsupported(f"the order executor may not speak to {host}: live trading is not offered")

    sys.addaudithook(refuse)


REPLAY_PREFIX = "replay-"
"""Begins the prefix of every run that is a replay."""


def refuse_replay(prefix: str, *, is_live_allowed: bool) -> None:
    """Raise `BadSettings` where an executor that may use real money would read the intents of a replay."""
    if is_live_allowed and prefix.startswith(REPLAY_PREFIX):
        raise BadSettings(
            f"`kafka.prefix` is {prefix!r}, the run of a replay, and `execute.allow_live` is on: orders of a replay are"
            " never sent for real money. Turn `execute.allow_live` off for it, or leave `execute` out of `processes`."
        )


def missing_for_live(account: str, *, is_allowed: bool, is_armed: bool, has_checked_key: bool) -> list[str]:
    """Which of the three things that real money needs are missing, in words that say what to do."""
    missing = []
    if not is_allowed:
        missing.append("this deployment does not allow it (setting `execute.allow_live`)")
    if not is_armed:
        missing.append(f"the account is not armed (`observator arm --account {account}` on the executor's host)")
    if not has_checked_key:
        missing.append("there is no checked key without withdrawal rights (`observator keys add`)")
    return missing


def live_refusal(missing: list[str]) -> str:
    """Why an order for real money is not sent; never empty: this build knows no address of the real exchange."""
    if missing:
        return f"live trading is refused: {'; '.join(missing)}"
    return "live trading is refused: this build has no address of the real exchange, orders go to the sandbox only"


def remove_exchange_variables(environ: MutableMapping[str, str]) -> list[str]:
    """Take the SDK's fallbacks (`UPBIT_...`: keys, base address) out of the environment; returns their names."""
    names = [name for name in environ if name.upper().startswith("UPBIT_")]
    for name in names:
        del environ[name]
    return names
