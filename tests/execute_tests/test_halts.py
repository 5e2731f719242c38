"""Kill switches without an exchange: the gate and its moment, the files of the run folder, and what survives."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

import observator
from consumers.execute.gateway import UpbitGateway
from consumers.execute.halts import Halted, HaltGate, rank_of
from consumers.execute.halts_file import KEPT, DamagedFile, HaltFolder
from consumers.execute.halts_keeper import HaltKeeper
from consumers.execute.halts_verbs import NO_EXECUTOR, UNSETTLED, Verbs
from consumers.execute.journal import Journal
from consumers.execute.venue import OrderRequest, Refused
from infra.errors import BadSettings
from infra.kafka import KafkaLog
from infra.log import Slot, TopicSpec
from infra.servers.kafka import KafkaServer
from infra.settings import Settings
from infra.upbit.pace import FIRST_SIZE, Pace, Place, Rank
from infra.upbit.rates import RATES
from streams import messages as m
from streams import topics

SECRET = "s" * 40
RESTING = OrderRequest("KRW-BTC", "bid", "limit", Decimal(1000), Decimal(10), "")


def halt(account: str = "a", kind: Any = "no-new-orders", event_ms: int = 100, by: str = "test") -> m.Halt:
    return m.Halt(account=account, kind=kind, event_ms=event_ms, by=by)


def intent(account: str = "a", purpose: m.Purpose = "entry") -> m.OrderIntent:
    return m.OrderIntent(
        id="i1", account=account, pocket="p", exchange="upbit", market="KRW-BTC", side="buy", order_type="limit",
        price=Decimal(1000), quantity=Decimal(10), funds=None, time_in_force="", purpose=purpose, cause_kind="signal",
        cause_id="c", event_ms=1, expires_ms=2, reason="test",
    )  # fmt: skip


# --- the gate ---------------------------------------------------------------------------------------------------------


def test_a_halt_stops_what_opens_and_lets_pass_what_closes() -> None:
    gate = HaltGate()
    assert gate.apply(halt())
    for purpose in ("entry", "manual"):
        assert "no-new-orders" in gate.refusal("a", purpose)
        assert not gate.refusal("b", purpose)
    for purpose in ("exit", "protective-exit"):
        assert not gate.refusal("a", purpose)
    assert gate.apply(halt("*", "sell-all"))
    assert "sell-all" in gate.refusal("a", "entry")
    assert "sell-all" in gate.refusal("b", "entry")
    assert gate.apply(halt("*", "lifted", 101))
    assert gate.halt_of("a") == "no-new-orders"
    assert not gate.halt_of("b")


def test_only_a_newer_end_lifts_and_each_record_counts_once() -> None:
    gate = HaltGate()
    gate.apply(halt(event_ms=100))
    assert gate.apply(halt(kind="lifted", event_ms=100)) is False
    assert gate.halt_of("a")
    assert gate.apply(halt(kind="lifted", event_ms=101)) is True
    assert gate.apply(halt(event_ms=100)) is None, "the copy that comes by the log later"
    assert not gate.halt_of("a")
    assert gate.apply(halt(event_ms=90)) is True, "a kill switch always holds, whatever its clock says"
    assert gate.halt_of("a")


def test_every_purpose_has_its_rank() -> None:
    ranks = [rank_of(purpose) for purpose in ("protective-exit", "exit", "manual", "entry")]
    assert ranks == sorted(ranks) == [Rank.PROTECTIVE, Rank.EXIT, Rank.MANUAL, Rank.ENTRY]


def test_closing_waits_for_the_request_that_is_being_written() -> None:
    gate = HaltGate()
    gate.enter("a")
    gate.apply(halt())
    assert not gate.wait_sent("a", 0.02)
    assert not gate.wait_sent("*", 0.02)
    assert gate.wait_sent("b", 0.02)
    threading.Timer(0.05, gate.leave, ["a"]).start()
    assert gate.wait_sent("a", 5)
    with pytest.raises(Halted):
        gate.enter("a")


class Exchange(BaseHTTPRequestHandler):
    """Takes every order and counts it."""

    protocol_version = "HTTP/1.1"
    came: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        type(self).came.append(self.rfile.read(int(self.headers["Content-Length"])))
        body = b'{"uuid":"u","market":"KRW-BTC","ord_type":"limit","state":"wait"}'
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def exchange() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Exchange)
    server.daemon_threads = True
    Exchange.came = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class CountingGate(HaltGate):
    """Counts what was written to its last byte."""

    written = 0

    def leave(self, account: str) -> None:
        self.written += 1
        super().leave(account)


def test_after_gate_closed_no_byte_of_an_order_leaves(exchange: str) -> None:
    """Eight threads send as fast as they can; what the exchange gets in the end is what was written by that moment."""
    for number in range(5):
        gate, stop = CountingGate(), threading.Event()
        gateways = [UpbitGateway(exchange, "k", SECRET) for _ in range(8)]
        Exchange.came = []
        refused: list[Refused] = []

        def send(
            gateway: UpbitGateway, gate: HaltGate = gate, stop: threading.Event = stop, refused: Any = refused
        ) -> None:
            while not stop.is_set():
                with gate.sending(intent()):
                    answer = gateway.place(RESTING, "x")
                if isinstance(answer, Refused):
                    refused.append(answer)

        with ThreadPoolExecutor(8) as pool:
            for gateway in gateways:
                pool.submit(send, gateway)
            until(lambda: len(Exchange.came) > 20)
            time.sleep(0.003 * number)
            gate.apply(halt())
            assert gate.wait_sent("a", 5)
            written = gate.written
            until(lambda refused=refused: len(refused) > 20)
            stop.set()
        for gateway in gateways:
            gateway.close()
        assert gate.written == written
        assert len(Exchange.came) == written
        assert {one.name for one in refused} == {"halted"}


def test_who_waits_for_the_rate_budget_is_turned_back_at_once(exchange: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.upbit.pace.POLL_S", 60.0)
    pace = Pace(RATES, now_s=lambda: 1000.0)  # its places are never free again
    gate = HaltGate(pace.wake)
    for _ in range(FIRST_SIZE):
        pace.take("order", Rank.PROTECTIVE)
    gateway = UpbitGateway(exchange, "k", SECRET, pace=pace)
    answers: list[tuple[float, Any]] = []

    def send() -> None:
        with gate.sending(intent()):
            answer = gateway.place(RESTING, "x")
        answers.append((time.monotonic(), answer))

    thread = threading.Thread(target=send)
    thread.start()
    until(lambda: pace.waiting("order") == 1, 60)
    closed_s = time.monotonic()
    gate.apply(halt())
    thread.join(30)
    gateway.close()
    (at_s, answer) = answers[0]
    assert isinstance(answer, Refused)
    assert answer.name == "halted"
    assert at_s - closed_s < 5.0, "it slept on"
    assert not Exchange.came


def test_an_order_that_is_turned_back_at_its_first_byte_holds_no_place(exchange: str) -> None:
    gate = HaltGate()

    class Closing(Pace):
        def wait(self, group: str, rank: Rank = Rank.ENTRY, check: Callable[[], None] | None = None) -> Place:
            place = super().wait(group, rank, check)
            gate.apply(halt())
            return place

    pace = Closing(RATES, now_s=lambda: 1000.0)
    gateway = UpbitGateway(exchange, "k", SECRET, pace=pace)
    with gate.sending(intent()):
        answer = gateway.place(RESTING, "x")
    gateway.close()
    assert isinstance(answer, Refused)
    assert answer.name == "halted"
    assert not Exchange.came
    assert isinstance(pace.take("order", Rank.ENTRY), Place)


def until(check: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.002)


# --- the files --------------------------------------------------------------------------------------------------------


def test_every_command_is_seen_and_later_than_the_one_before(tmp_path: Path) -> None:
    folder = HaltFolder(tmp_path)
    assert folder.stamp() == (0, 0)
    assert folder.commands() == []
    stamps = set()
    for number in range(50):  # many within one tick of the file system's clock
        folder.order(halt(kind="sell-all" if number % 2 else "lifted", event_ms=7))
        stamps.add(folder.stamp())
    assert len(stamps) == 50
    times = [command.halt.event_ms for command in folder.commands()]
    assert times == list(range(7, 57))


def test_what_closes_is_read_before_it_is_on_disk_and_stays_where_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = HaltFolder(tmp_path)
    folder.order(halt("b"))
    gate = HaltGate()
    keeper = HaltKeeper(tmp_path, gate)

    def fail(*_: Any) -> None:
        keeper.look()
        raise OSError(5, "the disk fails")

    with monkeypatch.context() as patched:
        patched.setattr(HaltFolder, "_write", fail)
        for kind in ("no-new-orders", "lifted"):
            with pytest.raises(OSError, match="the disk fails"):
                folder.order(halt(kind=kind))
    assert gate.halt_of("a"), "closed at once, and an end that is not on disk opens nothing"
    keeper.close()
    folder.order(halt("c"))
    assert [command.halt.account for command in folder.commands()] == ["b", "a", "c"]
    assert {path.name for path in folder.path.iterdir()} == {"commands.json", "commands.lock"}


def test_told_commands_are_forgotten_but_the_newest_of_each_account(tmp_path: Path) -> None:
    folder = HaltFolder(tmp_path)
    for number in range(KEPT):
        folder.order(halt(f"a{number}"))
    folder.order(halt("untold"))
    folder.mark_told([command.halt for command in folder.commands() if command.halt.account != "untold"])
    for number in range(KEPT):
        folder.order(halt(f"a{number}", "lifted"))
    kept = folder.commands()
    assert {"untold", "a0", f"a{KEPT - 1}"} <= {command.halt.account for command in kept}
    assert len(kept) <= 2 * KEPT + 1
    assert [c.halt.kind for c in kept if c.halt.account == "a0"][-1] == "lifted"


def test_an_executor_is_known_by_its_lock_once_it_is_its_turn(tmp_path: Path) -> None:
    folder = HaltFolder(tmp_path)
    assert not folder.is_answered()
    life = Life(tmp_path)
    assert not folder.is_answered()
    life.attach(tmp_path)
    assert folder.is_answered()
    life.end()
    assert not folder.is_answered()


# --- the keeper -------------------------------------------------------------------------------------------------------


class Life:
    """One life of an executor's keeper."""

    def __init__(self, home: Path) -> None:
        self.gate = HaltGate()
        self.keeper = HaltKeeper(home, self.gate)
        self.journal: Journal | None = None

    def attach(self, home: Path) -> Journal:
        self.journal = Journal(home / "execution.sqlite")
        self.keeper.attach(self.journal)
        self.look()
        return self.journal

    def look(self) -> None:
        self.keeper.look()
        self.keeper.tell()
        self.keeper.mark()

    def end(self) -> None:
        self.keeper.close()
        if self.journal is not None:
            self.journal.close()


def test_the_file_holds_before_the_database_is_open_and_the_database_without_the_file(tmp_path: Path) -> None:
    folder = HaltFolder(tmp_path)
    folder.order(halt())
    life = Life(tmp_path)
    assert life.gate.halt_of("a") == "no-new-orders"
    journal = life.attach(tmp_path)
    assert [row.topic for row in journal.unpublished()] == ["controls"]
    life.end()
    (tmp_path / "run" / "halts" / "commands.json").unlink()
    life = Life(tmp_path)
    assert not life.gate.halt_of("a")
    journal = life.attach(tmp_path)
    assert life.gate.halt_of("a") == "no-new-orders"
    assert len(journal.unpublished()) == 1, "told once, whatever is read again"
    life.end()


def test_a_killed_executor_tells_what_it_had_not_written(tmp_path: Path) -> None:
    """Closed from the file, dead before the database knew: the next life closes, writes and tells it."""
    HaltFolder(tmp_path).order(halt())
    life = Life(tmp_path)
    life.end()
    life = Life(tmp_path)
    journal = life.attach(tmp_path)
    assert [one.kind for one in journal.halts()] == ["no-new-orders"]
    assert len(journal.unpublished()) == 1
    assert all(command.is_told for command in HaltFolder(tmp_path).commands())
    life.look()
    life.end()
    life = Life(tmp_path)
    assert len(life.attach(tmp_path).unpublished()) == 1
    life.end()


def test_what_a_verb_told_the_executor_does_not_tell_again(tmp_path: Path) -> None:
    folder = HaltFolder(tmp_path)
    folder.mark_told([folder.order(halt())])
    life = Life(tmp_path)
    assert life.attach(tmp_path).unpublished() == []
    life.end()


def test_one_that_comes_by_the_log_survives_and_its_end_by_file_too(tmp_path: Path) -> None:
    life = Life(tmp_path)
    journal = life.attach(tmp_path)
    with journal.transaction():
        life.keeper.take(halt(event_ms=500), journal)
    assert life.gate.halt_of("a")
    life.end()
    life = Life(tmp_path)
    life.attach(tmp_path)
    assert life.gate.halt_of("a")
    HaltFolder(tmp_path).order(halt(kind="lifted", event_ms=400))
    life.look()
    assert life.gate.halt_of("a"), "older than the halt"
    HaltFolder(tmp_path).order(halt(kind="lifted", event_ms=501))
    life.look()
    assert not life.gate.halt_of("a")
    life.end()
    life = Life(tmp_path)
    life.attach(tmp_path)
    assert not life.gate.halt_of("a")
    life.end()


def test_an_unreadable_file_closes_everybody_until_somebody_resumes(tmp_path: Path) -> None:
    folder = HaltFolder(tmp_path)
    folder.order(halt("b"))
    (tmp_path / "run" / "halts" / "commands.json").write_bytes(b'[{"halt":')
    with pytest.raises(DamagedFile):
        folder.commands()
    life = Life(tmp_path)
    life.attach(tmp_path)
    assert life.gate.halt_of("anybody")
    answer = folder.answer()
    assert answer is not None
    assert "cannot be read" in answer.damage
    folder.order(halt("*", "lifted", time.time_ns() // 1_000_000 + 1))
    life.look()
    assert not life.gate.halt_of("anybody")
    life.end()


def test_a_full_disk_hinders_the_telling_but_not_the_closing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(tmp_path)
    life.attach(tmp_path)
    HaltFolder(tmp_path).order(halt())

    def refuse(*_: Any) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(HaltFolder, "say", refuse)
    monkeypatch.setattr(HaltFolder, "mark_told", refuse)
    life.look()
    assert life.gate.halt_of("a")
    life.end()


def test_no_gate_waits_for_the_database(tmp_path: Path) -> None:
    life, stop = Life(tmp_path), threading.Event()
    journal = life.attach(tmp_path)
    thread = threading.Thread(target=life.keeper.watch, args=(stop,), daemon=True)
    thread.start()
    with journal.transaction():  # nobody else writes meanwhile
        HaltFolder(tmp_path).order(halt())
        until(lambda: bool(life.gate.halt_of("a")))
        until(lambda: (told := HaltFolder(tmp_path).answer()) is not None and "a" in told.standings)
        HaltFolder(tmp_path).order(halt("b"))
        until(lambda: bool(life.gate.halt_of("b")))
    until(lambda: {row.account for row in journal.halts()} == {"a", "b"})
    stop.set()
    thread.join(60)
    life.end()


def test_the_database_holds_a_halt_whose_end_is_not_on_disk_yet(tmp_path: Path) -> None:
    """The gate may be ahead of the disk; each command is written by what the database itself says."""
    life = Life(tmp_path)
    journal = life.attach(tmp_path)
    HaltFolder(tmp_path).order(halt(event_ms=10))
    life.keeper.look()
    life.gate.apply(halt(kind="lifted", event_ms=20))
    life.keeper.tell()
    assert [(row.kind, row.event_ms) for row in journal.halts()] == [("no-new-orders", 10)]
    life.end()


def test_the_watch_says_what_it_ended_by(tmp_path: Path) -> None:
    life = Life(tmp_path)
    journal = life.attach(tmp_path)
    thread = threading.Thread(target=life.keeper.watch, args=(threading.Event(),), daemon=True)
    thread.start()
    journal.close()
    HaltFolder(tmp_path).order(halt())
    thread.join(60)
    assert life.keeper.failure is not None, "the process would go on without its watch"
    assert life.gate.halt_of("a"), "closed before the database was asked"
    life.keeper.close()


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_verbs_write_and_say_so_without_anybody_to_read(tmp_path: Path) -> None:
    runner = CliRunner()
    at_home = ["--home", str(tmp_path)]
    halted = runner.invoke(observator.app, [*at_home, "halt", "--account", "a", "--kind", "sell-all", "--json"])
    assert halted.exit_code == NO_EXECUTOR
    told = json.loads(halted.stdout)
    assert (told["account"], told["kind"], told["state"], told["told"]) == ("a", "sell-all", "written", False)
    assert "a" in {command.halt.account for command in HaltFolder(tmp_path).commands()}
    refused = runner.invoke(observator.app, [*at_home, "resume", "--account", "a"])
    assert isinstance(refused.exception, BadSettings)
    lifted = runner.invoke(observator.app, [*at_home, "resume", "--account", "a", "--yes-i-looked", "--language", "ko"])
    assert lifted.exit_code == NO_EXECUTOR
    assert "해제" in lifted.output
    assert [command.halt.kind for command in HaltFolder(tmp_path).commands()] == ["sell-all", "lifted"]


# --- another host's executor is the one that sends --------------------------------------------------------------------


@pytest.mark.kafka
@pytest.mark.parametrize("has_lock", [False, True])
def test_a_halt_beside_an_executor_that_waits_is_told_through_the_log(
    tmp_path: Path, broker: KafkaServer, kafka_log: KafkaLog, monkeypatch: pytest.MonkeyPatch, *, has_lock: bool
) -> None:
    """Here one waits for the lease or for its database, or hangs; the one that sends is on another host."""
    monkeypatch.setattr("consumers.execute.halts_verbs.ANSWER_S", 0.3)
    kafka_log.create_topics([TopicSpec(t.name, t.partitions, t.config) for t in topics.TOPICS.values()])
    life, stop = Life(tmp_path), threading.Event()
    handle = HaltFolder(tmp_path).come_alive() if has_lock else None
    thread = threading.Thread(target=life.keeper.watch, args=(stop,), daemon=True)
    thread.start()
    settings = Settings(home=tmp_path, kafka={"bootstrap": broker.bootstrap, "prefix": kafka_log.prefix})
    outcome = Verbs(settings, lambda _: None).halt("a", "sell-all", 5)
    stop.set()
    thread.join(60)
    life.end()
    if handle is not None:
        os.close(handle)
    assert outcome.code == (UNSETTLED if has_lock else NO_EXECUTOR)
    assert outcome.figures["told"] is True
    assert life.gate.halt_of("a") == "sell-all", "closed here all the same"
    reader = kafka_log.reader({Slot("controls", 0): 0})
    (told,) = [topics.decode("controls", record.value) for record in reader.read(10, 10.0)]
    reader.close()
    assert (told.account, told.kind) == ("a", "sell-all")
