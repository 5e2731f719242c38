"""Kill switches in the run folder: what people ordered, and what the executor answers. Neither needs Kafka.

`halts_verbs` writes commands, `halts_keeper` in the executor reads them and answers. A command is on disk (fsync of
file and folder) before its writer goes on, and files are replaced as a whole: a reader never sees half of one. What
closes something can be read before it is on disk, so that no gate waits for a disk.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from streams.messages import Halt

ALL_ACCOUNTS = "*"
KEPT = 200
"""Commands that stay in the file at most, the newest of each account apart."""


class Command(msgspec.Struct, frozen=True):
    """A kill switch or its end, and whether its writer brought it to `controls` itself."""

    halt: Halt
    is_told: bool = False


class Standing(msgspec.Struct, frozen=True):
    """What the executor says of one account's newest kill switch."""

    halt: Halt
    is_known: bool = True
    """Whether an order of this account was ever seen."""
    in_flight: int = 0
    """Requests whose outcome is not known yet."""
    open_orders: int = 0
    """Open orders that it has to cancel."""
    unsold: int = 0
    """Markets that are still to be sold (`sell-all`)."""
    is_settled: bool = False
    text: str = ""
    """What a person should know beside it."""


class Answer(msgspec.Struct, frozen=True):
    """The executor's answer: for every account with a kill switch how far it is. Whoever stands here is closed, or
    open again where it is `lifted`.
    """

    pid: int
    standings: dict[str, Standing]
    damage: str = ""
    """Why the file of commands cannot be read; then everything is closed."""


class DamagedFile(Exception):  # noqa: N818 - named by what happened
    """The file of commands cannot be read."""


class HaltFolder:
    """`run/halts` of a run folder. `commands.json` and, while one that closes is on its way to the disk, `urgent.json`
    are written by people's side, `answer.json` by the executor.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "run" / "halts"
        self._commands = self.path / "commands.json"
        self._urgent = self.path / "urgent.json"
        self._answer = self.path / "answer.json"

    # --- commands

    def stamp(self) -> tuple[int, int]:
        """Changes with every new command; a look at two inodes, so it may be asked all the time."""
        return _changed_ns(self._commands), _changed_ns(self._urgent)

    def commands(self) -> list[Command]:
        """What was ordered, oldest first, with the one that is being written; raises `DamagedFile`."""
        try:
            content = self._commands.read_bytes()
        except FileNotFoundError:
            content = b"[]"
        except OSError as error:
            raise DamagedFile(str(error)) from error
        try:
            found = msgspec.json.decode(content, type=list[Command])
        except msgspec.MsgspecError as error:
            raise DamagedFile(str(error)) from error
        known = {one.halt for one in found}
        return [*found, *(one for one in self._being_written() if one.halt not in known)]

    def order(self, halt: Halt) -> Halt:
        """Put a command behind the others; on disk when this returns. Its time is moved behind the account's last.

        One that closes can be read at once, and stays readable where it does not reach the disk: closed is safe.
        """
        with self._locked():
            commands = self._readable_commands()
            last_ms = max((one.halt.event_ms for one in commands if one.halt.account == halt.account), default=0)
            if halt.event_ms <= last_ms:
                halt = msgspec.structs.replace(halt, event_ms=last_ms + 1)
            if halt.kind != "lifted":
                _replace(self._urgent, msgspec.json.encode([Command(halt)]))
            self._write([*commands, Command(halt)])
            self._urgent.unlink(missing_ok=True)
        return halt

    def mark_told(self, halts: Sequence[Halt]) -> None:
        """These are in `controls`, or in an outbox on their way there."""
        with self._locked():
            commands = self._readable_commands()
            told = [msgspec.structs.replace(one, is_told=True) if one.halt in halts else one for one in commands]
            if told != commands:
                self._write(told)

    def _being_written(self) -> list[Command]:
        """One at most. An unreadable one was never on disk: its writer was told of no success."""
        try:
            return msgspec.json.decode(self._urgent.read_bytes(), type=list[Command])
        except (OSError, msgspec.MsgspecError):
            return []

    def _readable_commands(self) -> list[Command]:
        """The commands; a damaged file is put aside and begun anew."""
        try:
            return self.commands()
        except DamagedFile:
            self._commands.replace(self._commands.with_suffix(".damaged"))
            return []

    def _write(self, commands: Sequence[Command]) -> None:
        newest = {one.halt.account: number for number, one in enumerate(commands)}
        first = len(commands) - KEPT
        kept = [
            one
            for number, one in enumerate(commands)
            if number >= first or not one.is_told or newest[one.halt.account] == number
        ]
        before_ns = _changed_ns(self._commands)
        _replace(self._commands, msgspec.json.encode(kept), later_than_ns=before_ns, is_durable=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path / "commands.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    # --- the answer

    def answer(self) -> Answer | None:
        """What the executor said last; None where none did yet."""
        try:
            return msgspec.json.decode(self._answer.read_bytes(), type=Answer)
        except (OSError, msgspec.MsgspecError):
            return None

    def say(self, answer: Answer) -> None:
        """Answer; needs no flush, because it speaks for a process that is alive."""
        self.path.mkdir(parents=True, exist_ok=True)
        _replace(self._answer, msgspec.json.encode(answer))

    def come_alive(self) -> int:
        """Say, for as long as the handle that this returns is open, that an executor runs."""
        self.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path / "executor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(handle, fcntl.LOCK_SH)
        return handle

    def is_answered(self) -> bool:
        """Whether an executor runs that reads this folder."""
        try:
            handle = os.open(self.path / "executor.lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False


def _changed_ns(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - half the time of the Path's own
    except FileNotFoundError:
        return 0


def _replace(path: Path, content: bytes, *, later_than_ns: int = 0, is_durable: bool = False) -> None:
    """Replace a file as a whole. Its time is later than `later_than_ns`: within a tick of the file system's clock two
    files would have the same.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o644)  # the executor may be another user than whoever halts
            file.write(content)
            file.flush()
            if os.fstat(file.fileno()).st_mtime_ns <= later_than_ns:
                os.utime(file.fileno(), ns=(later_than_ns + 1, later_than_ns + 1))
            if is_durable:
                os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:  # whatever it is, it goes on: no half-written file stays
        with suppress(OSError):
            Path(name).unlink()
        raise
    if is_durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
