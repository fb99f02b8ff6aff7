"""Schema source that reads a schema file: JSON, plain or gzipped.

    start_ts, end_ts
    initial          [{ts, db, table}]     the tables at start_ts
    changes          [{ts, op, kind, db, table_id, table}]   by commit ts of the meta key;
                     op is put or drop, kind is table or db
    schema_versions  [[ts, version]]                    when the cluster's schema version was raised

The file is complete up to `end_ts`: there are no other changes at or below it.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pyspark_theflash.base.errors import OptionError, SchemaFileError
from pyspark_theflash.base.types import SchemaVersion, TableID, TimeStamp
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, brief, int64, text, uint64
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.history import SchemaHistory, SchemaVersionAt, TableEvent
from pyspark_theflash.tidb.schema.json_file import read_json
from pyspark_theflash.tidb.schema.meta_key import Outcome
from pyspark_theflash.tidb.schema.model import parse_table_info

MAX_SCHEMA_BYTES: Final = 1 << 30
_PIECE_BYTES: Final = 1 << 20
_GZIP_MAGIC: Final = b"\x1f\x8b"


class FileSchema:
    """Schema source over a file, which is read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[int, int] | None = None

    def read(
        self, after: SchemaHistory | None = None, at_least: TimeStamp | None = None
    ) -> SchemaHistory:
        """Return the file's history, which must continue `after`.

        Raises:
            OptionError: The file does not exist.
            SchemaFileError: The file is not a schema file.
            SchemaConflictError: The file contradicts `after` in the time that both cover.
        """
        state = self._state()
        if after is not None and self._read is not None and self._read == state:
            return after
        source = _digest(self._path)
        if after is not None and source is not None and source == after.source:
            # The content is the same: skip parsing, which is slow.
            self._read = state
            return after
        history = read_schema_file(self._path, source)
        self._read = self._state()
        if self._read != state:
            # The file changed while it was read: the digest may not be that of the parsed content.
            history = history.without_source()
        return history if after is None else after.extend(history)

    def outcome(self, _primary: RawKey, _start_ts: TimeStamp) -> Outcome | None:
        """Return None: a schema file has no transaction records."""
        return None

    def has_written(self, _key: RawKey, _start_ts: TimeStamp) -> bool | None:
        """Return None: a schema file has no rows."""
        return None

    def had_row(self, _key: RawKey, _ts: TimeStamp) -> bool | None:
        """Return None: a schema file has no rows."""
        return None

    def _state(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size


def read_schema_file(path: Path, source: str | None = None) -> SchemaHistory:
    """Read the schema history of a file; `source` is the digest of its content.

    Raises:
        OptionError: The file does not exist.
        SchemaFileError: The file is not a schema file.
    """
    document = _load_json(path)
    try:
        return SchemaHistory(
            TimeStamp(uint64(document["start_ts"])),
            TimeStamp(uint64(document["end_ts"])),
            [*_initial(document), *_changes(document)],
            [
                SchemaVersionAt(TimeStamp(uint64(ts)), SchemaVersion(int64(version)))
                for ts, version in document.get("schema_versions", [])
            ],
            source,
        )
    except SHAPE_ERRORS as error:
        raise SchemaFileError(str(path), f"not a schema file: {brief(error)}") from error


def _digest(path: Path) -> str | None:
    """Return the digest of a file's content; None if it is too large or cannot be read."""
    hashed = hashlib.blake2b(digest_size=16)
    try:
        if path.stat().st_size > MAX_SCHEMA_BYTES:
            return None
        with path.open("rb") as content:
            while piece := content.read(_PIECE_BYTES):
                hashed.update(piece)
    except OSError:
        return None
    return hashed.hexdigest()


def _load_json(path: Path) -> Any:  # noqa: ANN401 (JSON)
    if not path.is_file():
        raise OptionError("schema", f"no file at {path}")
    try:
        with path.open("rb") as plain:
            zipped = plain.read(2) == _GZIP_MAGIC
        with gzip.open(path) if zipped else path.open("rb") as source:
            return read_json(source, MAX_SCHEMA_BYTES, str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise SchemaFileError(str(path), f"cannot be read: {error}") from error


def _initial(document: dict[str, Any]) -> Iterator[TableEvent]:
    for entry in document["initial"]:
        table = parse_table_info(entry["db"], entry["table"])
        yield TableEvent(TimeStamp(uint64(document["start_ts"])), table.db, table.id, table)


def _changes(document: dict[str, Any]) -> Iterator[TableEvent]:
    for entry in document["changes"]:
        if entry["kind"] != "table":
            continue
        dropped = entry["op"] == "drop"
        yield TableEvent(
            TimeStamp(uint64(entry["ts"])),
            text(entry["db"]),
            TableID(int64(entry["table_id"])),
            None if dropped else parse_table_info(entry["db"], entry["table"]),
        )
