"""Secrets in the hands of a process: a type that never shows itself, and the shapes that logs must hide.

Used by whatever holds or keeps a key. A `Secret` is opened by `reveal` alone, in the call that needs it; `infra.logs`
hides what looks like a key as a second line of defence, should one ever be put into a text.
"""

import contextlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Collection, MutableMapping
from pathlib import Path

HIDDEN = "[hidden]"
KEY_SHAPES = re.compile(
    r"(Bearer\s+)?eyJ[\w-]+\.[\w-]+\.[\w-]+"  # a JSON web token
    r"|(?i:(secret|password|token)(_key)?)[\"']?\s*[=:]\s*\S+"
    r"|(?<![\w-])(?:[A-Za-z0-9]{40}|[\w-]{86})(?![\w-])"  # Upbit's keys, and those that the sandbox exchange makes
)
"""What is hidden in a log line. A git commit has 40 digits too: better one of those hidden than a key shown."""
_SECRET_NAMES = re.compile(r"secret|password|passwd|token|credential|api_?key|access_?key|private_?key", re.IGNORECASE)
_SECRET_PREFIXES = ("UPBIT_",)
DECLARED: dict[str, tuple[str, ...]] = {"execute": ("PGPASSWORD",)}
"""Which secrets of its environment a process uses; what the supervisor starts gets none at all."""


class Secret:
    """A text that is not shown by `repr`, `str` or a format, and cannot be pickled or written as JSON."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself: hand it straight to what needs it."""
        return self._text

    def __repr__(self) -> str:
        return HIDDEN

    def __format__(self, _spec: str) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other.reveal().encode())

    def __hash__(self) -> int:
        return hash(Secret)  # its own would tell something of the text

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


def masked(access_key: str) -> str:
    """An access key as people may see it: enough to tell two apart, too little to use."""
    return f"{access_key[:4]}...{access_key[-2:]}" if len(access_key) >= 12 else "..."


def hide(text: str) -> str:
    """The text with everything hidden that looks like a key."""
    return KEY_SHAPES.sub(HIDDEN, text)


def remove_secrets(environ: MutableMapping[str, str], declared: Collection[str] = ()) -> list[str]:
    """Take every variable that is named like a secret out of an environment, `declared` ones excepted.

    The keys that processes use are files of their own. Returns the names.
    """
    names = [
        name
        for name in environ
        if name not in declared and (_SECRET_NAMES.search(name) or name.upper().startswith(_SECRET_PREFIXES))
    ]
    for name in names:
        del environ[name]
    return names


def keep_secret(folder: Path, name: str) -> str:
    """The secret in `folder/name`, made at the first call, readable by its owner only.

    It appears under its name whole or not at all, and of two processes that make it at once both get the same.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / name
    if not path.exists():
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)  # readable by its owner only
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(64))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # a rename would take the other one's secret away
                os.link(temporary, path)
        finally:
            Path(temporary).unlink()
    return path.read_text().strip()
