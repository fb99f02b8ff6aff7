"""First load of a store, with its GC barrier and progress line."""

from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import ClusterMismatchError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.jobs.place import open_folder
from pyspark_theflash.cli.jobs.telemetry import Telemetry
from pyspark_theflash.cli.jobs.ticker import ticking
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.barrier import GCBarrier, barrier_name
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.cluster.tikv.meta import TiKVMeta
from pyspark_theflash.cluster.watch import KEYS_MAX
from pyspark_theflash.replication.cdc.imports import IMPORT_PREFIX
from pyspark_theflash.replication.cdc.position import CONTINUED_KINDS, check_has_change_feed
from pyspark_theflash.replication.load.load import FirstLoad, LoadReport
from pyspark_theflash.replication.load.scan import ClusterAddress
from pyspark_theflash.storage.engine.api import Publication
from pyspark_theflash.storage.store.compared import imports_record
from pyspark_theflash.storage.store.folder import read_identity
from pyspark_theflash.storage.store.load import LOAD_KIND, LoadPlan
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.storage.store.scope import SCOPE_KIND, TableScope, continued
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource

if TYPE_CHECKING:
    from pyspark_theflash.cli.jobs.metrics import Figures


def ensure_loaded(
    path: Path,
    cluster: ClusterAddress,
    scope: TableScope,
    fs: FileSystem,
    clock: Clock,
    telemetry: Telemetry,
) -> TimeStamp:
    """Load a new store, or continue its load; return the timestamp up to which it is complete.

    A GC barrier at that timestamp is in PD then, for its time to live.

    Raises:
        OptionError: The store was begun with other tables.
        ClusterMismatchError: The store is of another cluster.
        FeedConflictError: The store is written from a binlog, or through the API.
        GCBarrierLostError: TiKV may have collected versions that the store needs.
        The errors of `open_place` and `FirstLoad`.
    """
    with ExitStack() as undo:
        engine = open_folder(path, 0, fs, clock, undo)
        pd = undo.enter_context(PDClient(cluster.pd, cluster.tls, clock=clock))
        client = undo.enter_context(TiKVClient(pd, cluster.tls, clock=clock, policy=cluster.policy))
        name = barrier_name(read_identity(path, fs).store_id)
        barrier = GCBarrier(client.directory, name, clock=clock)
        view = engine.read([*CONTINUED_KINDS, SCOPE_KIND, LOAD_KIND])
        continued(TableScope.of(view), scope)
        cluster_id = pd.cluster_id()
        check_has_change_feed(view, cluster_id)
        if (progress := Progress.of(view)) is not None:
            barrier.hold(progress.resolved_ts)
            return progress.resolved_ts
        load = FirstLoad(
            engine, client, cluster, cluster_id, clock=clock, check=lambda: barrier.check(ts)
        )
        if (plan := LoadPlan.of(view)) is None:
            # From here on, the writer looks for imports.
            revision, _ = pd.keys_at(IMPORT_PREFIX, KEYS_MAX)
            engine.publish(Publication((), ManifestChange([imports_record(revision)])))
            ts = _begin(load, pd, client, barrier, scope, clock)
        elif plan.cluster_id != cluster_id:
            raise ClusterMismatchError("--pd", cluster_id, plan.cluster_id)
        else:
            ts = plan.ts
        barrier.hold(ts)
        undo.enter_context(closing(barrier))
        barrier.start(lambda: ts)
        _run(load, clock, telemetry)
        # The rows are complete only if no version was collected until the end.
        barrier.hold(ts)
        load.end()
        return ts


def _begin(
    load: FirstLoad,
    pd: PDClient,
    client: TiKVClient,
    barrier: GCBarrier,
    scope: TableScope,
    clock: Clock,
) -> TimeStamp:
    """Begin a load at a timestamp above that of the barrier, which is set first."""
    barrier.hold(pd.tso())
    history = TidbSchemaSource(TiKVMeta(client), clock).read(pd.tso())
    load.begin(history, scope)
    return history.start_ts


def _run(load: FirstLoad, clock: Clock, telemetry: Telemetry) -> None:
    started_ms = clock.boottime_ms()
    telemetry.figures = lambda: load_figures(load.report, clock.boottime_ms() - started_ms)
    with ticking("loading", clock) as ticker:

        def note(report: LoadReport) -> None:
            ticker.note(_progress(report, clock.boottime_ms() - started_ms))
            telemetry.beat()

        load.run(note)
    elapsed_s = (clock.boottime_ms() - started_ms) / 1000
    report = load.report
    print(
        f"loaded {report.rows:,} rows of {report.tables} tables in {elapsed_s:,.1f} s", flush=True
    )


def _progress(report: LoadReport, elapsed_ms: int) -> str:
    """Return rows, speed, share and remaining time of a load."""
    elapsed_s = max(elapsed_ms, 1) / 1000
    text = f"loading: {report.rows:,} rows ({report.rows / elapsed_s:,.0f}/s), {report.share:.0%}"
    remaining_s = _remaining_s(report, elapsed_ms)
    if remaining_s is None:
        return text
    return f"{text}, {remaining_s // 60}:{remaining_s % 60:02d} left"


def load_figures(report: LoadReport, elapsed_ms: int) -> "Figures":
    """Return the figures of a load for `Telemetry`."""
    figures = {"load_ratio": round(report.share, 4), "load_rows_total": report.rows}
    remaining_s = _remaining_s(report, elapsed_ms)
    return figures if remaining_s is None else {**figures, "load_remaining_seconds": remaining_s}


def _remaining_s(report: LoadReport, elapsed_ms: int) -> int | None:
    """Estimate the remaining time by the part that this run has loaded; None before the first."""
    done = report.share - report.share_before
    return round(elapsed_ms / 1000 * (1 - report.share) / done) if done > 0 else None
