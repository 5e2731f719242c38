"""What is inside a sealed box: whose key it is, and the key. Sealed by whoever holds it, opened by the executor alone.

The names inside are held against those outside, so that nobody can put one account's key into another's place. Pure.
"""

import msgspec

from consumers.execute.keys_words import KeyReason
from infra.secrets import Secret
from infra.secrets_box import CannotOpen, KeyPair, seal
from streams.messages import KeyDeposited

LONGEST = 200


class BadBox(Exception):  # noqa: N818 - named by what happened
    """The box is refused; `reason` says why."""

    def __init__(self, reason: KeyReason) -> None:
        super().__init__(reason)
        self.reason = reason


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """JSON inside a box. It must not be shown: use `opened`, which hides the key at once."""

    account: str
    pocket: str
    key_id: str
    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        """Nothing of the key."""
        return f"Content({self.account!r}, {self.pocket!r}, {self.key_id!r})"


def sealed_for(public: bytes, account: str, pocket: str, key_id: str, access_key: str, secret_key: Secret) -> str:
    """A box for the executor's public key; raises `ValueError` for what can be no key."""
    for name, text in (("access key", access_key), ("secret key", secret_key.reveal())):
        if not text or len(text) > LONGEST or not text.isascii() or any(one.isspace() for one in text):
            raise ValueError(f"the {name} is empty, too long, or has characters that no key has")
    content = Content(account, pocket, key_id, access_key, secret_key.reveal())
    return seal(public, msgspec.json.encode(content))


def opened(pair: KeyPair, sealed: str) -> tuple[Content, Secret]:
    """What a box holds, and its secret; raises `BadBox`."""
    try:
        content = msgspec.json.decode(pair.open(sealed), type=Content)
    except (CannotOpen, msgspec.MsgspecError, UnicodeDecodeError):
        raise BadBox(KeyReason.UNREADABLE_BOX) from None
    return content, Secret(content.secret_key)


def check_names(deposited: KeyDeposited, content: Content) -> None:
    """Raise `BadBox` unless the names inside are those outside."""
    inside = (content.account, content.pocket, content.key_id)
    if inside != (deposited.account, deposited.pocket, deposited.key_id):
        raise BadBox(KeyReason.NOT_THIS_ACCOUNT)
