"""Which reader a file needs, found from its bytes and columns. Called by the import."""

import gzip
import zlib
from pathlib import Path

from infra.errors import BadSettings
from producers.imports.formats import Format
from producers.imports.frames import Frames
from producers.imports.rows import File
from producers.imports.sheets import Sheet, is_sheet
from producers.imports.tables import Table
from producers.recordings import frame_of

_HEAD_LINES = 50


def open_file(path: Path, wanted: Format | None = None, market: str = "") -> File:
    """The file's reader; `market` is for files that do not tell. Raises `BadSettings` for what cannot be read."""
    if not path.is_file():
        raise BadSettings(f"{path} is no file")
    if path.stat().st_size == 0:
        raise BadSettings(f"{path.name} is empty")
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    if is_parquet and wanted not in {"upbit-raw", "csv"}:
        return Table(path, wanted, market)
    if wanted == "upbit-raw" or (wanted is None and _has_frames(path)):
        return Frames(path)
    if wanted == "csv" or (wanted is None and is_sheet(path)):
        return Sheet(path)
    if wanted is not None:
        raise BadSettings(f"{path.name} is no Parquet file, as {wanted} would be")
    raise BadSettings(
        f"{path.name}: neither raw Upbit frames (`seconds: frame`), nor Parquet, nor CSV with a header that has"
        " `exchange_ms`. `--format` reads it as one of them all the same."
    )


def _has_frames(path: Path) -> bool:
    """Whether one of its first lines is a frame; raises `BadSettings` where it is cut off before that."""
    try:
        with path.open("rb") as plain:
            is_gzip = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            lines = gzip.GzipFile(fileobj=plain) if is_gzip else plain
            return any(frame_of(line) is not None for line, _ in zip(lines, range(_HEAD_LINES), strict=False))
    except (OSError, EOFError, zlib.error) as error:
        raise BadSettings(f"{path.name} cannot be read: {error}. Nothing was imported.") from error
