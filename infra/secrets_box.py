"""Sealed boxes: whoever holds a key seals it for the executor's public key; the private part never leaves its folder.

libsodium's sealed box (PyNaCl). The private key lies in a folder of its own (0700, the file 0600) of the run folder and
is made at the first start; the public part with its id lies beside the run folder's other public files. Knows nothing
of what is inside a box.
"""

import base64
import binascii
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from infra.errors import BadMessage, BadSettings

PRIVATE = Path("run") / "executor" / "sealing-key"
PUBLIC = Path("run") / "executor-public-key.json"


class CannotOpen(BadMessage):
    """The box was not made for this key, or was changed."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """What opens boxes; the private part does not show itself."""

    private: bytes = field(repr=False)

    @property
    def public(self) -> bytes:
        """What boxes are sealed for."""
        return bytes(PrivateKey(self.private).public_key)

    @property
    def id(self) -> str:
        """Names the public key."""
        return id_of(self.public)

    def open(self, sealed: str) -> bytes:
        """What is in a box (base64); raises `CannotOpen`."""
        try:
            return bytes(SealedBox(PrivateKey(self.private)).decrypt(unpack(sealed)))
        except (CryptoError, ValueError, TypeError) as error:
            raise CannotOpen(f"the box cannot be opened ({type(error).__name__})") from None

    def sign(self, *parts: str) -> bytes:
        """A mark that only the holder of the private part can make: BLAKE2b keyed with it."""
        content = json.dumps(parts).encode()
        return hashlib.blake2b(content, key=self.private, digest_size=32, person=b"observator-mark").digest()


def id_of(public: bytes) -> str:
    """The id of a public key: twelve bytes of its hash, in hex."""
    return hashlib.blake2b(public, digest_size=12).hexdigest()


def seal(public: bytes, content: bytes) -> str:
    """A box that only the private part opens, in base64; every call gives another one."""
    return base64.b64encode(SealedBox(PublicKey(public)).encrypt(content)).decode()


def unpack(sealed: str) -> bytes:
    """The bytes of a box; raises `CannotOpen` for anything but plain base64, so that a box has one spelling."""
    try:
        content = base64.b64decode(sealed, validate=True)
    except (binascii.Error, ValueError):
        raise CannotOpen("the box is no base64") from None
    if base64.b64encode(content).decode() != sealed:
        raise CannotOpen("the box is no base64")
    return content


def box_id(sealed: str) -> str:
    """Names a box, so that the same one is known when it comes again; raises `CannotOpen`."""
    return hashlib.blake2b(unpack(sealed), digest_size=16).hexdigest()


# --- the files ----------------------------------------------------------------------------------------------------


def keep_pair(home: Path) -> KeyPair:
    """The key pair of a run folder, made when there is none; its public part is written as well."""
    with locked(home):
        if not (home / PRIVATE).exists():
            put_pairs(home, [new_pair()])
        pair = read_pair(home)
        if not (home / PUBLIC).exists() or read_public(home / PUBLIC) != pair.public:
            tell_public(home, pair)
        return pair


def new_pair() -> KeyPair:
    """A fresh one, nowhere written yet."""
    return KeyPair(bytes(PrivateKey.generate()))


def read_pair(home: Path) -> KeyPair:
    """The key pair that new boxes are sealed for; raises `BadSettings` where it cannot be read."""
    return read_pairs(home)[0]


def read_pairs(home: Path) -> list[KeyPair]:
    """It, and behind it those that are being replaced by it; raises `BadSettings`."""
    path = home / PRIVATE
    try:
        pairs = [KeyPair(bytes(PrivateKey(bytes.fromhex(line)))) for line in path.read_text().split()]
    except FileNotFoundError:
        raise BadSettings(f"{path} is not there: the executor makes it when it is started first") from None
    except PermissionError:
        raise BadSettings(f"{path} may not be read: run this as the executor's own user, on its host") from None
    except (ValueError, TypeError, CryptoError):
        pairs = []
    if not pairs:
        raise BadSettings(f"{path} is damaged: move it away, start the executor, and add the keys again")
    return pairs


def put_pairs(home: Path, pairs: Sequence[KeyPair]) -> None:
    """Write the key pairs, the one in use first, and tell its public part (inside `locked`)."""
    _replace(home / PRIVATE, "".join(f"{pair.private.hex()}\n" for pair in pairs).encode(), 0o600)
    tell_public(home, pairs[0])


def tell_public(home: Path, pair: KeyPair) -> None:
    """Write the public part."""
    content = {"id": pair.id, "public_key": base64.b64encode(pair.public).decode()}
    _replace(home / PUBLIC, (json.dumps(content) + "\n").encode(), 0o644)


def read_public(path: Path) -> bytes:
    """A public key from its file; raises `BadSettings` with what to do."""
    public = b""
    with suppress(ValueError, KeyError, TypeError):
        found = json.loads(_text_of(path))
        public = base64.b64decode(found["public_key"], validate=True)
        if found["id"] != id_of(public):
            public = b""
    if len(public) != PublicKey.SIZE:
        raise BadSettings(f"{path} is no public key of an executor: copy the file from the executor's host")
    return public


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise BadSettings(
            f"{path} is not there: start the executor once (`observator up`), or copy the file from its host"
        ) from None


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Keep the key pair as it is: the executor stores no box, and nobody makes a new pair, while it is held."""
    folder = (home / PRIVATE).parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError:
        raise BadSettings(f"{folder} may not be read: run this as the executor's own user, on its host") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Appear whole or not at all; a private file is never readable by others, not for a moment."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
