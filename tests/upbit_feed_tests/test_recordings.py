"""The line format: read, written, cut off, full disk; and recording from a running exchange."""

import gzip
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from infra.errors import BadSettings, DiskFull, ExchangeUnavailable
from infra.settings import Settings
from producers.recordings import Frame, Recording, RecordingWriter, frame_of
from producers.upbit.recorder import record


@pytest.mark.parametrize(
    ("line", "frame"),
    [
        (b"1617646620.849474: b'{\"a\":1}'\n", Frame(1617646620849474000, b'{"a":1}')),
        (b'12.5: b"it\'s"\n', Frame(12_500_000_000, b"it's")),
        (b"12: b'\\xff\\''\r\n", Frame(12_000_000_000, b"\xff'")),
        (b'1.000000001: {"ty":"trade"}\n', Frame(1_000_000_001, b'{"ty":"trade"}')),
        (b'1.1: [{"ty":"trade"}]', Frame(1_100_000_000, b'[{"ty":"trade"}]')),
        (b'configuration: {"trades":[]}\n', None),
        (b"wss://example.test/v1 <-> 1617646619.694145\n", None),
        (b"\n", None),
        (b"1.1: b'open\n", None),
        (b"1.1: b'a' + b'b'\n", None),
        (b"1.1: b'\\xzz'\n", None),
        (b"1.1: text\n", None),
    ],
)
def test_lines(line: bytes, frame: Frame | None) -> None:
    assert frame_of(line) == frame


@pytest.mark.parametrize(("day", "frames", "skipped"), [("20210405", 1733, 3), ("20210417", 449, 4)])
def test_real_recordings(recordings_folder: Path, day: str, frames: int, skipped: int) -> None:
    recording = Recording(recordings_folder / f"upbit_ws_raw_{day}.log.gz")
    assert len(list(recording)) == frames
    assert (recording.frames, recording.skipped) == (frames, skipped)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    frames = [Frame(1_000_001_000, b'{"a":"\xea\xb0\x80"}'), Frame(2_000_000_000, bytes(range(256)))]
    path = tmp_path / "deep" / "out.gz"
    with RecordingWriter(path) as writer:
        for frame in frames:
            writer.write(frame)
        assert not path.exists()
    assert list(Recording(path)) == frames
    assert [entry.name for entry in path.parent.iterdir()] == ["out.gz"]


def test_plain_text_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "plain.log"
    path.write_bytes(b"1.5: b'x'\n\n2.5: {}\n")
    assert list(Recording(path)) == [Frame(1_500_000_000, b"x"), Frame(2_500_000_000, b"{}")]


def test_no_half_written_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.gz"
    with pytest.raises(AttributeError), RecordingWriter(path) as writer:
        writer.write(b"no frame")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:30] + b"\0" * 40 + data[70:]])
def test_a_damaged_recording_is_said_so(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(damage(gzip.compress(os.urandom(200).hex().encode())))
    with pytest.raises(BadSettings, match=r"cut\.gz cannot be read"):
        list(Recording(path))
    with pytest.raises(BadSettings, match="cannot be read"):
        list(Recording(tmp_path / "missing.gz"))


def test_a_full_disk_is_said_so(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / ".out.gz.part").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="nothing was kept"), RecordingWriter(tmp_path / "out.gz") as writer:
        writer.write(Frame(1, os.urandom(500_000)))
    (tmp_path / ".out.gz.part").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="No space left"), RecordingWriter(tmp_path / "out.gz") as writer:
        writer.write(Frame(1, b"x"))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskFull, match="cannot be written"), RecordingWriter(tmp_path / "file" / "out.gz"):
        pass


def settings_of(tmp_path: Path, port: int, **feed: Any) -> Settings:
    return Settings.model_validate({"home": tmp_path, "sandbox": {"port": port}, "feed": feed})


def test_recording_from_an_exchange_that_breaks_once(tmp_path: Path, exchange: Any, wire: Any) -> None:
    stop, counts = threading.Event(), []
    out = tmp_path / "out.gz"
    settings = settings_of(tmp_path, exchange.port)
    thread = threading.Thread(target=lambda: counts.append(record(settings, out, 30.0, stop)))
    thread.start()
    exchange.wait_subscribed(1)
    exchange.send(wire.book("KRW-BTC", wire.now_ms))
    exchange.drop()
    exchange.wait_subscribed(2)
    exchange.send('{"status":"UP"}')
    wire.wait_until((tmp_path / ".out.gz.part").exists)
    threading.Event().wait(0.5)
    stop.set()
    thread.join(10)
    assert counts == [2]
    assert [frame.raw for frame in Recording(out)] == [wire.book("KRW-BTC", wire.now_ms), b'{"status":"UP"}']


def test_recording_needs_an_exchange_and_a_market(tmp_path: Path, exchange: Any) -> None:
    out = tmp_path / "out.gz"
    with pytest.raises(BadSettings, match="KRW-NONE"):
        record(settings_of(tmp_path, exchange.port, markets=["KRW-NONE"]), out, 1.0, threading.Event())
    with pytest.raises(ExchangeUnavailable):
        record(settings_of(tmp_path, 1), out, 1.0, threading.Event())
    assert not out.exists()
