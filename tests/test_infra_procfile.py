"""What the `Procfile` declares and what of it runs under which settings."""

import sys
from pathlib import Path

import pytest

from infra.errors import BadSettings, Unsupported
from infra.procfile import Program, programs, read, runnable
from infra.settings import KafkaSettings, Settings, StreamsSettings, TradeSettings


def test_the_projects_own_starts_with_kafka_and_names_every_process() -> None:
    names = [program.name for program in programs(Settings())]
    assert names == [
        "kafka",
        "archive",
        "sandbox",
        "feed",
        "streams",
        "predict",
        "trade",
        "execute",
        "views",
        "nightly",
        "page",
        "api",
    ]


def test_an_external_broker_is_not_started() -> None:
    settings = Settings(kafka=KafkaSettings(bootstrap="kafka.example:9092"))
    assert "kafka" not in [program.name for program in programs(settings)]


def test_workers_and_a_choice_of_processes() -> None:
    settings = Settings(streams=StreamsSettings(workers=3), processes=["streams", "views"])
    chosen = programs(settings)
    assert [program.name for program in chosen] == ["streams", "streams-1", "streams-2", "views"]
    assert chosen[2].command[-4:] == ("process", "streams", "--worker", "2")
    several = programs(Settings(trade=TradeSettings(workers=2), processes=["trade"]))
    assert [program.command[-3:] for program in several] == [
        ("observator", "process", "trade"), ("trade", "--worker", "1"),
    ]  # fmt: skip
    with pytest.raises(BadSettings, match="stream"):
        programs(Settings(processes=["stream"]))


def test_commands_run_with_this_interpreter() -> None:
    assert runnable(("observator", "version")) == (sys.executable, "-P", "-m", "observator", "version")
    assert runnable(("python", "x.py")) == (sys.executable, "x.py")
    assert runnable(("sleep", "1")) == ("sleep", "1")


def test_lines_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = tmp_path / "Procfile"
    file.write_text("# words\n\na: sleep 1\n")
    assert read(file) == [Program("a", ("sleep", "1"))]
    for text in ("a sleep\n", "a: x\na: y\n", "A: x\n"):
        file.write_text(text)
        with pytest.raises(BadSettings, match="line"):
            read(file)
    with pytest.raises(Unsupported, match="missing"):
        read(tmp_path / "nothing")
