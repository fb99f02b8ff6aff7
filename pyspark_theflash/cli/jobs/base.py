"""The base that `--base` names: a folder, a dump, or a TiDB over SQL."""

import argparse
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.jobs.arguments import tls_files
from pyspark_theflash.cli.jobs.ticker import ticking

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark_theflash.cli.jobs.streams import AnyWriter
    from pyspark_theflash.replication.apply.base_rows import RowBase
    from pyspark_theflash.replication.base.dump import DumpBase
    from pyspark_theflash.replication.base.snapshot import SnapshotBase

_MYSQL: Final = "mysql://"
_DUMP: Final = "dump:"
_METADATA: Final = "metadata"
_BASE_FILE: Final = "base.json"
PASSWORD_VARIABLE: Final = "THEFLASH_BASE_PASSWORD"  # noqa: S105 (its name, not a password)
"""Environment variable of the password; command lines are readable by all processes."""


class JobBase:
    """The base of a writer, which reads it if its store is new."""

    def __init__(self, arguments: argparse.Namespace, clock: Clock, undo: ExitStack) -> None:
        self._clock = clock
        self._note: Callable[[str], None] = lambda _: None
        self._base: Path | RowBase | None = None
        self._start_ts: Callable[[], TimeStamp] | None = None
        base: str | None = arguments.base
        if base is None:
            return
        if base.startswith(_MYSQL):
            snapshot = self._open_snapshot(arguments)
            self._base, self._start_ts = snapshot, snapshot.now
            undo.callback(snapshot.close)
        elif (url := _dump_url(base)) is not None:
            dump = self._open_dump(url)
            self._base, self._start_ts = dump, lambda: dump.ts
        else:
            self._base = Path(base)

    def _open_snapshot(self, arguments: argparse.Namespace) -> "SnapshotBase":
        # Imported here because other writers do not need it.
        from pyspark_theflash.replication.base.session import MySqlSession, parse_url
        from pyspark_theflash.replication.base.snapshot import SnapshotBase

        address = parse_url(arguments.base, _password(arguments), tls_files(arguments))
        return SnapshotBase(
            lambda: MySqlSession(address), self._clock, lambda text: self._note(text)
        )

    def _open_dump(self, url: str) -> "DumpBase":
        from pyspark_theflash.replication.base.dump import open_dump

        return open_dump(url, lambda text: self._note(text))

    def start_ts(self) -> TimeStamp | None:
        """Return the timestamp at which a new store begins; None if the base does not say it."""
        return None if self._start_ts is None else self._start_ts()

    def load(self, writer: "AnyWriter") -> int:
        """Load the base; return the number of rows."""
        if self._base is None:
            return 0
        with ticking("loading", self._clock) as ticker:
            self._note = ticker.note
            return writer.load_base(self._base)


def add_base(parser: argparse.ArgumentParser) -> None:
    """Add `--base` and its password."""
    parser.add_argument(
        "--base",
        metavar="BASE",
        help="rows from before the stream: a folder (DIR/base.json), a folder of Dumpling, "
        "dump:file:///PATH?time-zone=ZONE or dump:s3://BUCKET/PREFIX?..., or "
        "mysql://USER@HOST:PORT, a TiDB that is read by SQL when the store is new",
    )
    parser.add_argument(
        "--base-password-file",
        type=Path,
        metavar="FILE",
        help=f"the password of mysql://USER@... (or {PASSWORD_VARIABLE} in the environment)",
    )


def _dump_url(base: str) -> str | None:
    """Return the URL of a dump; None if the base is another."""
    if base.startswith(_DUMP):
        return base.removeprefix(_DUMP)
    folder = Path(base)
    if (folder / _METADATA).is_file() and not (folder / _BASE_FILE).is_file():
        return f"file://{quote(str(folder.resolve()))}"
    return None


def _password(arguments: argparse.Namespace) -> str:
    if arguments.base_password_file is None:
        return os.environ.get(PASSWORD_VARIABLE, "")
    from pyspark_theflash.service.api.token import read_private

    text = read_private(arguments.base_password_file, "base-password-file")
    return text.partition("\n")[0].rstrip("\r")
