"""ClickHouse in this process (chDB), with a folder of its own that has nothing durable.

A process opens at most one folder with chDB, and two processes cannot open the same. So each
process has a temporary folder, whose tables have symbolic links to the files of stores
(`storage.engine.ch.batch`). It is removed when the process ends, or by the next process if this one
is killed.
"""

import atexit
import fcntl
import os
import re
import shutil
import tempfile
import threading
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pyspark_theflash.base.errors import (
    CorruptionError,
    EngineError,
    MissingExtraError,
    StoreFullError,
)
from pyspark_theflash.storage.engine.ch.column import StoredColumn, quoted
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE

_PREFIX: Final = "theflash-ch-"
_OWNER: Final = "owner"
PART: Final = re.compile(r"all_\d+_\d+_0", re.ASCII)
"""The name of a part that no merge has made."""
BATCH_ROWS: Final = 1 << 16
_SETTINGS: Final = (
    "output_format_arrow_string_as_string = 0",
    "output_format_arrow_compression_method = 'none'",
    "input_format_null_as_default = 0",
    "insert_null_as_default = 0",
    f"max_block_size = {BATCH_ROWS}",
    "max_bytes_before_external_sort = 536870912",
)
_CODE: Final = re.compile(r"Code: (\d+)\.")
# Names and numbers: ClickHouse's ErrorCodes.cpp.
_DAMAGE: Final = {
    *(32, 33),  # ATTEMPT_TO_READ_AFTER_EOF, CANNOT_READ_ALL_DATA
    *(40, 76, 107),  # CHECKSUM_DOESNT_MATCH, CANNOT_OPEN_FILE, FILE_DOESNT_EXIST
    *(119, 226, 228),  # TOO_LARGE_SIZE_COMPRESSED, NO_FILE_IN_DATA_PART, BAD_SIZE_OF_FILE_...
    *(246, 271, 432),  # CORRUPTED_DATA, CANNOT_DECOMPRESS, UNKNOWN_CODEC
}
_FULL: Final = {243}  # NOT_ENOUGH_SPACE
_mutex: Final = threading.RLock()
_session: "ChdbSession | None" = None


def session() -> "ChdbSession":
    """Return this process's session, which the first call opens.

    Raises:
        MissingExtraError: chDB is not installed.
        EngineError: This process was forked from one that has a session.
    """
    global _session
    with _mutex:
        if _session is None:
            _session = ChdbSession()
        if _session.pid != os.getpid():
            reason = f"was opened by process {_session.pid} before it was forked"
            raise EngineError("chDB", reason)
        return _session


class ChdbSession:
    """Tables of this process; any number of threads may use it."""

    def __init__(self) -> None:
        try:
            import chdb
        except ImportError as error:
            raise MissingExtraError("chdb", "ch") from error
        self.pid = os.getpid()
        self._connect: Callable[[str], Any] = chdb.connect
        self._error = chdb.ChdbError
        _remove_abandoned()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._owner = _own(self.folder)
        atexit.register(self._close)
        self._idle: deque[Any] = deque()
        self._unused: deque[str] = deque()
        self._numbers = iter(range(1, 1 << 62))
        self.execute("SYSTEM STOP MERGES")

    def execute(self, sql: str, where: str = "chDB") -> None:
        """Run a statement; `where` is the place that errors name."""
        with self._connection(where) as connection:
            connection.query(sql, "Null")

    def rows(self, sql: str, where: str = "chDB") -> Sequence[Mapping[str, Any]]:
        """Return the rows of a small result."""
        return [row for batch in self.stream(sql, where) for row in batch.to_pylist()]

    def stream(self, sql: str, where: str = "chDB") -> Iterator[pa.RecordBatch]:
        """Yield the batches of a result as ClickHouse computes them.

        Raises:
            CorruptionError: ClickHouse has detected damage.
            EngineError: The query failed otherwise.
        """
        with self._connection(where) as connection:
            result = connection.send_query(sql, "Arrow")
            with closing(result):
                while (chunk := result.fetch()) is not None:
                    data = chunk.bytes()
                    if data:
                        yield from pa.ipc.open_file(pa.py_buffer(data)).read_all().to_batches()

    def insert(self, table: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """Insert batches into a table in one statement."""
        rows = pa.Table.from_batches(batches, schema)  # noqa: F841 (chDB looks it up by its name)
        with self._connection(table) as connection:
            sql = f"INSERT INTO {quoted(table)} SELECT * FROM Python(rows)"  # noqa: S608
            connection.query(sql, "Null")

    def create(self, columns: Sequence[StoredColumn]) -> "ChdbTable":
        """Create a table that is dropped when the object is no longer used."""
        self._drop_unused()
        number, id = next(self._numbers), str(uuid.uuid4())
        table = ChdbTable(self, f"t{number}", self.folder / "store" / id[:3] / id)
        definitions = ", ".join(column.definition for column in columns)
        order = f"({quoted(HANDLE)}, {quoted(COMMIT_TS)})"
        self.execute(
            f"CREATE TABLE {quoted(table.name)} UUID '{id}' ({definitions})"
            f" ENGINE = MergeTree ORDER BY {order}"
        )
        return table

    def discard(self, table: str) -> None:
        """Let a table be dropped with the next one that is created."""
        self._unused.append(table)

    def _drop_unused(self) -> None:
        with suppress(IndexError):
            while True:
                self.execute(f"DROP TABLE {quoted(self._unused.popleft())} SYNC")

    @contextmanager
    def _connection(self, where: str) -> Iterator[Any]:
        """Yield a connection, on which nothing else runs."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect(str(self.folder))
            connection.query(f"SET {', '.join(_SETTINGS)}", "Null")
        try:
            yield connection
        except (RuntimeError, self._error) as error:
            raise _converted(str(error), where) from error
        self._idle.append(connection)

    def _close(self) -> None:
        if self.pid == os.getpid():
            with suppress(IndexError):
                while True:
                    self._idle.pop().close()
            shutil.rmtree(self.folder, ignore_errors=True)


class ChdbTable:
    """A table of a session, with the folder of its parts."""

    def __init__(self, owner: ChdbSession, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        # Not dropped at once: this may run in any thread, amid another statement.
        dropped = weakref.finalize(self, owner.discard, name)
        dropped.atexit = False

    @property
    def sql(self) -> str:
        """The name, quoted."""
        return quoted(self.name)

    def parts(self) -> Sequence[Path]:
        """Return the folders of its parts, in the order of their rows' insertion."""
        parts = [path for path in self.folder.iterdir() if PART.fullmatch(path.name)]
        return sorted(parts, key=lambda path: int(path.name.split("_")[1]))

    def attach(
        self, owner: ChdbSession, part: str, files: Mapping[str, Path | bytes], where: str
    ) -> None:
        """Add a part, whose files are linked or written."""
        folder = self.folder / "detached" / part
        folder.mkdir(mode=0o700)
        for name, content in files.items():
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                (folder / name).symlink_to(content.absolute())
        owner.execute(f"ALTER TABLE {self.sql} ATTACH PART '{part}'", where)


def _converted(message: str, where: str) -> Exception:
    """Return the error to raise for one of ClickHouse's."""
    codes = {int(code) for code in _CODE.findall(message)}
    if codes & _DAMAGE:
        return CorruptionError(where, 0, f"ClickHouse: {message}")
    if codes & _FULL:
        return StoreFullError(where)
    return EngineError(where, f"ClickHouse: {message}")


def _own(folder: Path) -> int:
    """Lock a folder until this process ends."""
    new = folder / f"{_OWNER}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    new.rename(folder / _OWNER)
    return fd


def _remove_abandoned() -> None:
    """Remove the folders of killed processes of this user."""
    for owner in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_OWNER}"):
        with suppress(OSError):
            fd = os.open(owner, os.O_WRONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(owner.parent, ignore_errors=True)
            finally:
                os.close(fd)
