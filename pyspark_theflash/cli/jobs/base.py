"""The base that `--base` names: a folder, or a TiDB over SQL."""

import argparse
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.jobs.arguments import tls_files
from pyspark_theflash.cli.jobs.ticker import ticking

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark_theflash.cli.jobs.streams import AnyWriter
    from pyspark_theflash.replication.apply.base_rows import RowBase
    from pyspark_theflash.replication.base.snapshot import SnapshotBase

_MYSQL: Final = "mysql://"
PASSWORD_VARIABLE: Final = "THEFLASH_BASE_PASSWORD"  # noqa: S105 (its name, not a password)
"""Environment variable of the password; command lines are readable by all processes."""


class JobBase:
    """The base of a writer, which reads it if its store is new."""

    def __init__(self, arguments: argparse.Namespace, clock: Clock, undo: ExitStack) -> None:
        self._clock = clock
        self._note: Callable[[str], None] = lambda _: None
        self._base: Path | RowBase | None = None
        self._snapshot: SnapshotBase | None = None
        if arguments.base is not None and arguments.base.startswith(_MYSQL):
            self._base = self._snapshot = self._open_snapshot(arguments)
            undo.callback(self._snapshot.close)
        elif arguments.base is not None:
            self._base = Path(arguments.base)

    def _open_snapshot(self, arguments: argparse.Namespace) -> "SnapshotBase":
        # Imported here because other writers do not need it.
        from pyspark_theflash.replication.base.session import MySqlSession, parse_url
        from pyspark_theflash.replication.base.snapshot import SnapshotBase

        address = parse_url(arguments.base, _password(arguments), tls_files(arguments))
        return SnapshotBase(
            lambda: MySqlSession(address), self._clock, lambda text: self._note(text)
        )

    def start_ts(self) -> TimeStamp | None:
        """Return the timestamp at which a new store begins; None if the base does not say it."""
        return None if self._snapshot is None else self._snapshot.now()

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
        help="rows from before the stream: a folder (DIR/base.json), or mysql://USER@HOST:PORT, a "
        "TiDB that is read by SQL when the store is new",
    )
    parser.add_argument(
        "--base-password-file",
        type=Path,
        metavar="FILE",
        help=f"the password of mysql://USER@... (or {PASSWORD_VARIABLE} in the environment)",
    )


def _password(arguments: argparse.Namespace) -> str:
    if arguments.base_password_file is None:
        return os.environ.get(PASSWORD_VARIABLE, "")
    from pyspark_theflash.service.api.token import read_private

    text = read_private(arguments.base_password_file, "base-password-file")
    return text.partition("\n")[0].rstrip("\r")
