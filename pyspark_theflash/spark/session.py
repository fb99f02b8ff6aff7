"""Several tables at one timestamp, for consistent joins."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Union

from pyspark.sql import DataFrame, SparkSession

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.read_options import STORE, ReadPoint, timestamp_option
from pyspark_theflash.base.timestamp import AnyTimestamp, shown
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.service.client.theflash import SHORT_MS
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.message import Tables, TablesRequest
from pyspark_theflash.service.wire.method import method
from pyspark_theflash.spark.place import Place

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession as ConnectSession


class SparkSnapshot:
    """Tables of a store at one timestamp, which is fixed on creation.

        snapshot = SparkSnapshot(spark, "/data/store")
        snapshot.create_views()
        spark.sql("SELECT ... FROM orders JOIN customers ...")

    `spark` may be a Spark Connect session; a store that is a folder must be on this machine, and at
    the same path where Spark runs. A writer can continue meanwhile. Nothing is pinned: if garbage
    is collected, `theflash pin` keeps the timestamp readable.
    """

    snapshot_ts: Final[TimeStamp]

    def __init__(
        self,
        spark: Union[SparkSession, "ConnectSession"],
        store: str | os.PathLike[str],
        snapshot_ts: AnyTimestamp | None = None,
        *,
        wait_for_ts: float = 0.0,
        max_staleness: float | None = None,
        **options: str | bool,
    ) -> None:
        """Fix the timestamp; without `snapshot_ts`, the newest that can be read.

        Arguments are named like the options of the source `theflash`; `options` apply to every
        table, such as `zero_dates`.

        Args:
            snapshot_ts: a TSO, a time with its zone as text, or a `datetime` with a time zone.

        Raises:
            OptionError: The options contradict each other.
            ServiceUnavailableError, AuthenticationError: The server cannot be reached, or rejects
                the
                token.
            StoreNotFoundError, NotCaughtUpError, SnapshotTooOldError: See `open_snapshot`.
        """
        ts = None if snapshot_ts is None else timestamp_option("snapshot_ts", snapshot_ts)
        point = ReadPoint(ts, wait_for_ts, max_staleness)
        texts = {
            STORE.name: os.fspath(store),
            **{name: str(value) for name, value in options.items()},
        }
        place = Place.of(texts)
        self._store = place.address
        staleness_ms = None if max_staleness is None else round(max_staleness * 1000)
        wait_ms = round(point.wait_s * 1000)
        request = TablesRequest(message.Moment(point.snapshot_ts, staleness_ms, wait_ms))
        with place.connect() as opened:
            listed: Tables = opened.call(method("ListTables"), request, SHORT_MS + wait_ms)
        self.snapshot_ts = TimeStamp(listed.snapshot_ts)
        self._names = [table.name for table in listed.tables]
        self._spark, self._options = spark, options

    def __repr__(self) -> str:
        return f"<snapshot of {self._store} at {shown(self.snapshot_ts)}>"

    @property
    def tables(self) -> list[str]:
        """`db.table` of every table at the timestamp."""
        return list(self._names)

    def table(self, name: str, **options: str | bool) -> DataFrame:
        """Return a table as a DataFrame; `options` are its own, such as `columns` and `where`."""
        reader = self._spark.read.format("theflash").options(**{**self._options, **options})
        reader = reader.option("store", self._store).option("snapshot_ts", str(self.snapshot_ts))
        return reader.load(name)

    def create_views(self, names: Iterable[str] | None = None) -> None:
        """Create or replace a temporary view for each table, with the name of the table.

        Args:
            names: `db.table` each; None: all tables.

        Raises:
            OptionError: Tables of two databases have the same name; use `table` for these.
        """
        views: dict[str, str] = {}
        for name in self._names if names is None else names:
            view = name.partition(".")[2]
            other = views.setdefault(view.lower(), name)
            if other.lower() != name.lower():
                raise OptionError("names", f"{other} and {name} would both be the view {view}")
        for view, name in views.items():
            quoted = view.replace("`", "``")
            self.table(name).createOrReplaceTempView(f"`{quoted}`")
