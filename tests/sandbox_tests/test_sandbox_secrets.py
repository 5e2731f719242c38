"""The secrets file: whole or not there, and the same for everybody who asks."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.secrets import keep_secret


def test_a_secret_whose_writing_failed_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="full"):
            keep_secret(tmp_path, "paper-main")
    assert list(tmp_path.iterdir()) == []
    assert len(keep_secret(tmp_path, "paper-main")) > 80


def test_all_who_make_a_secret_at_once_get_the_same_one(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: keep_secret(folder, "paper-main"), range(32)))
    (path,) = folder.iterdir()
    assert found == {path.read_text()}
    assert (path.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
