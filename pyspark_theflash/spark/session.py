"""Several tables at one timestamp, for joins that do not tear."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Union

from pyspark.sql import DataFrame, SparkSession

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.options import STORE, ReadPoint, timestamp_option
from pyspark_theflash.base.timestamp import AnyTimestamp
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.service.client.theflash import SHORT_MS
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.message import Tables, TablesRequest
from pyspark_theflash.service.wire.method import method
from pyspark_theflash.spark.place import Place

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession as ConnectSession


class SparkSnapshot:
    """The tables of a store as of one timestamp, fixed when this is made.

        snapshot = SparkSnapshot(spark, "/data/store")
        snapshot.create_views()
        spark.sql("SELECT ... FROM orders JOIN customers ...")

    `spark` may be a session of Spark Connect; a store that is a folder must be on this machine, and
    at the same path where Spark runs. A writer may go on meanwhile. Nothing is pinned: where
    garbage is collected, `theflash pin` keeps the timestamp readable.
    """

    snapshot_ts: Final[TimeStamp]

    def __init__(
        self,
        spark: Union[SparkSession, "ConnectSession"],
        store: str | Path,
        snapshot_ts: AnyTimestamp | None = None,
        *,
        wait_for_ts: float = 0.0,
        max_staleness: float | None = None,
        **options: str | bool,
    ) -> None:
        """Fix the timestamp; without `snapshot_ts`, the newest that the store can answer.

        Arguments are called like the options of the source `theflash`; `options` are those that
        every table is read with, such as `zero_dates`.

        Args:
            snapshot_ts: a TSO, a time with its zone as text, or a `datetime` with a time zone.

        Raises:
            OptionError: they contradict each other.
            ServiceUnavailableError, AuthenticationError: as the server's answer is.
            StoreNotFoundError, NotCaughtUpError, SnapshotTooOldError: as `open_snapshot`.
        """
        wanted = None if snapshot_ts is None else timestamp_option("snapshot_ts", snapshot_ts)
        moment = ReadPoint(wanted, wait_for_ts, max_staleness)
        texts = {STORE.name: str(store), **{name: str(value) for name, value in options.items()}}
        place = Place.of(texts)
        self._store = place.address
        request, timeout_ms = _request(moment), SHORT_MS + round(moment.wait_s * 1000)
        with place.connect() as opened:
            listed: Tables = opened.call(method("ListTables"), request, timeout_ms)
        self.snapshot_ts = TimeStamp(listed.snapshot_ts)
        self._names = [table.name for table in listed.tables]
        self._spark, self._options = spark, options

    @property
    def tables(self) -> list[str]:
        """`db.table` of every table there is at the timestamp."""
        return list(self._names)

    def table(self, name: str, **options: str | bool) -> DataFrame:
        """A table, as `db.table`; `options` are its own, such as `columns` and `where`."""
        reader = self._spark.read.format("theflash").options(**{**self._options, **options})
        reader = reader.option("store", self._store).option("snapshot_ts", str(self.snapshot_ts))
        return reader.load(name)

    def create_views(self, names: Iterable[str] | None = None) -> None:
        """Make a temporary view of each table (`db.table`; None: of all), called as the table is.

        A view that is there already is replaced.

        Raises:
            OptionError: tables of two databases have one name; `table` tells them apart.
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


def _request(moment: ReadPoint) -> TablesRequest:
    staleness_s = moment.max_staleness_s
    staleness_ms = None if staleness_s is None else round(staleness_s * 1000)
    return TablesRequest(
        message.Moment(moment.snapshot_ts, staleness_ms, round(moment.wait_s * 1000))
    )
