"""Ports of the servers in one run folder: chosen once, kept in `ports.json`, so that a restart answers where it did.

Called by the servers (`claim_port`, before they listen) and by everything that wants to reach them (`port_of`).
Ports are drawn below the kernel's range for outgoing connections: a client that keeps knocking at a dead server's port
inside that range can be connected to itself, and then holds the port against the server's return.
"""

import fcntl
import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOWEST = 15_000
_ANSWER_HOST = "127.0.0.1"


def port_of(home: Path, name: str) -> int:
    """The port of `name` in this run folder; chosen on the first call and the same ever after.

    A port that was chosen is read without the lock, which another user's process could not take.
    """
    if (port := kept_ports(home).get(name)) is not None:
        return port
    with _ports(home) as ports:
        if name not in ports:
            ports[name] = _free_port(set(ports.values()))
        return ports[name]


def claim_port(home: Path, name: str, *, patience_s: float = 2.0) -> int:
    """Return a port on which the server `name` can listen now.

    The caller holds the server's own lock, so a listener on the kept port is a foreign one: another port is chosen and
    kept if it has not gone after `patience_s`.
    """
    port = port_of(home, name)
    deadline = time.monotonic() + patience_s
    while not is_free(port):
        if time.monotonic() >= deadline:
            with _ports(home) as ports:
                ports[name] = _free_port(set(ports.values()))
                return ports[name]
        time.sleep(0.1)
    return port


def kept_ports(home: Path) -> dict[str, int]:
    """All ports chosen so far, without choosing one."""
    try:
        return _read(home / "ports.json")
    except FileNotFoundError:
        return {}


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_ANSWER_HOST, port))
        except OSError:
            return False
        return True


@contextmanager
def _ports(home: Path) -> Iterator[dict[str, int]]:
    home.mkdir(parents=True, exist_ok=True)
    file = home / "ports.json"
    with (home / "ports.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = _read(file) if file.exists() else {}
        ports = dict(before)
        yield ports
        if ports != before:
            fresh = file.with_suffix(".new")
            fresh.write_text(json.dumps(ports, indent=1) + "\n")
            fresh.replace(file)


def _read(file: Path) -> dict[str, int]:
    try:
        found = json.loads(file.read_text())
    except json.JSONDecodeError:
        return {}  # written by hand or cut off by a full disk: chosen anew
    if not isinstance(found, dict):
        return {}
    return {str(name): port for name, port in found.items() if isinstance(port, int) and 0 < port < 65536}


def _free_port(taken: set[int], draw: Callable[[int], int] = secrets.randbelow) -> int:
    first_outgoing = _first_outgoing_port()
    for _ in range(200 if first_outgoing > LOWEST else 0):
        port = LOWEST + draw(first_outgoing - LOWEST)
        if port not in taken and is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((_ANSWER_HOST, 0))
        return int(probe.getsockname()[1])


def _first_outgoing_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768
