"""Keeps a process away from the real exchange's order hosts, and the SDK away from keys that lie around.

`executor` calls both functions before anything else. There is no live path in this deployment: outside the loopback
interface no order can be sent, whatever an address in the settings says.
"""

import ipaddress
import sys
from collections.abc import MutableMapping
from urllib.parse import urlsplit

from infra.errors import Unsupported

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


def remove_exchange_variables(environ: MutableMapping[str, str]) -> list[str]:
    """Take the SDK's fallbacks (`UPBIT_...`: keys, base address) out of the environment; returns their names."""
    names = [name for name in environ if name.upper().startswith("UPBIT_")]
    for name in names:
        del environ[name]
    return names
