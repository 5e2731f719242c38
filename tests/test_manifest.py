import json
import subprocess
from pathlib import Path

from infra.manifest import (
    MASK,
    Manifest,
    as_fields,
    cpu_model,
    file_hash,
    flattened,
    git_sha,
    make_manifest,
    project_version,
)


def manifest(root: Path, started_ms: int = 1, **settings: object) -> Manifest:
    return make_manifest("streams", {"grid": settings}, started_ms=started_ms, root=root, kernel_hash="k", backend="b")


def test_the_id_is_the_hash_of_the_conditions_and_not_of_the_moment(tmp_path: Path) -> None:
    one = manifest(tmp_path, grid_ms=1000)
    assert one.id == manifest(tmp_path, started_ms=2, grid_ms=1000).id
    assert one.id != manifest(tmp_path, grid_ms=500).id
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "base.txt").write_text("numpy==2.4.6")
    assert one.id != manifest(tmp_path, grid_ms=1000).id


def test_its_fields_are_plain_text(tmp_path: Path) -> None:
    fields = as_fields(manifest(tmp_path, grid_ms=1000))
    assert fields["settings"] == {"grid.grid_ms": "1000"}
    assert fields["process"] == "streams"
    assert fields["cpu"]
    assert fields["python"].startswith("CPython 3.")
    json.dumps(fields)


def test_settings_are_flattened_with_secrets_masked() -> None:
    nested = {
        "kafka": {"prefix": None, "bootstrap": "127.0.0.1:1"},
        "markets": ["KRW-BTC", "KRW-ETH"],
        "account": {"secret_key": "abc", "api_key": "", "keyboard": "us"},
        "database": "postgresql+psycopg://user:pass@host/db",
    }
    assert flattened(nested) == {
        "account.api_key": "",
        "account.keyboard": "us",
        "account.secret_key": MASK,
        "database": f"postgresql+psycopg://{MASK}@host/db",
        "kafka.bootstrap": "127.0.0.1:1",
        "kafka.prefix": "",
        "markets": "KRW-BTC,KRW-ETH",
    }


def test_what_is_missing_is_left_empty(tmp_path: Path) -> None:
    assert git_sha(tmp_path / "nowhere") == ""
    assert file_hash(tmp_path / "nowhere") == ""
    assert cpu_model(tmp_path / "nowhere")
    (tmp_path / "cpuinfo").write_text("vendor_id\t: X\nmodel name\t: Fast One\n")
    assert cpu_model(tmp_path / "cpuinfo") == "Fast One"
    assert project_version()


def test_a_changed_checkout_is_marked(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e", *arguments], check=True)

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    sha = git_sha(tmp_path)
    assert len(sha) == 40
    (tmp_path / "file").write_text("2")
    assert git_sha(tmp_path) == f"{sha}+"
