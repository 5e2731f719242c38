"""Whether a file of an archive is whole, and whether it may be written over another one of its name.

Called by the keeper, by `archive verify` and by `archive fetch`; it changes nothing.
"""

import io
from contextlib import suppress

import msgspec

from consumers.archive import days
from infra.errors import Stop
from infra.store import Store
from streams.parts import DamagedPart, Footer, Part, read_footer, records_of


class OtherRecords(Stop):
    """Two whole parts of one name hold different records."""


class SaysMore(Stop):
    """A day's file says more of the day than the one that would replace it."""


def check_replaces(data: bytes, there: bytes | None, name: str) -> None:
    """Raise `Stop` unless this may be written over what is there under the same name."""
    if days.is_complete_name(name):
        mine, said = said_of(data, name), said_of(there, f"the copy of {name}")
        if mine is not None and said is not None and not days.covers(mine, said):
            raise SaysMore(f"{name}: what is there says more of the day than what would replace it: it stays as it is")
    if Part.of_name(name) is None:
        return
    here = check_whole(data, name)
    with suppress(DamagedPart):
        if there is not None and check_whole(there, name) != here:
            raise OtherRecords(f"{name}: its copy holds other records. Neither is changed.")


def said_of(data: bytes | None, place: str) -> days.Complete | None:
    """What a day's file says; None where there is none. Raises `Stop` for one that cannot be read."""
    try:
        return None if data is None else msgspec.json.decode(data, type=days.Complete)
    except msgspec.DecodeError as error:
        raise Stop(f"{place}: what says that the day is complete cannot be read ({error}): take it out") from error


def content(store: Store, name: str) -> bytes | None:
    """What stands there; None where nothing does."""
    try:
        return store.read(name)
    except FileNotFoundError:
        return None


def check_whole(data: bytes, name: str) -> Footer:
    """The footer of a part whose every record was read and whose count and digest agree; raises `DamagedPart`."""
    for _ in records_of(io.BytesIO(data), name):
        pass
    return read_footer(io.BytesIO(data), name)


def whole(store: Store, name: str) -> Footer:
    """The same of a file in a store."""
    return check_whole(store.read(name), name)
