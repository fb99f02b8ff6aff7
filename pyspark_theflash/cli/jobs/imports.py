"""Watch and comparisons of a writer that follows a cluster; see `replication/cdc/imports.py`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark_theflash.cli.jobs.sources import Cluster
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.cluster.watch import KeyWatch
from pyspark_theflash.net.address import is_address
from pyspark_theflash.replication.cdc.imports import IMPORT_KINDS, IMPORT_PREFIX, ImportChecks
from pyspark_theflash.replication.load.check_process import CheckProcess
from pyspark_theflash.replication.load.checking import CheckRequest
from pyspark_theflash.replication.load.scan import ClusterAddress
from pyspark_theflash.storage.engine.api import WriterEngine
from pyspark_theflash.storage.store.compared import imports_revision

if TYPE_CHECKING:
    from pyspark_theflash.cli.jobs.metrics import Figures
    from pyspark_theflash.replication.cdc.writer import ChangeWriter


class Imports:
    """The watch and the comparisons of a store in a folder, until they are closed."""

    def __init__(
        self, request: CheckRequest, engine: WriterEngine, cluster: Cluster, share: float
    ) -> None:
        view = engine.read(IMPORT_KINDS)
        self._process = CheckProcess(request)
        self._watch = KeyWatch(cluster.pd, IMPORT_PREFIX, imports_revision(view))
        keys = lambda: self._watch.keys  # noqa: E731
        self._checks = ImportChecks(view, keys, self._process, cluster.clock, share)

    def poll(self, writer: "ChangeWriter") -> None:
        """Record what has been compared, and begin the next comparison."""
        self._checks.poll(writer)

    def figures(self) -> "Figures":
        """Return figures for `Telemetry`. May be called by other threads."""
        figures: Figures = {"compared_rows_total": self._checks.rows}
        if (pass_ms := self._checks.pass_ms) is not None:
            figures = {**figures, "compared_timestamp_seconds": pass_ms / 1000}
        return figures

    def close(self) -> None:
        """End the thread and the process."""
        self._watch.close()
        self._process.close()


def open_imports(
    arguments: argparse.Namespace,
    engine: WriterEngine,
    cluster: Cluster,
    addresses: Sequence[str],
) -> Imports | None:
    """Begin to watch; None for a store behind a server, whose rows this process cannot read."""
    if is_address(arguments.store):
        return None
    address = ClusterAddress(tuple(addresses), cluster.tls, LockPolicy(arguments.lock_policy))
    request = CheckRequest(Path(arguments.store).resolve(), address)
    return Imports(request, engine, cluster, arguments.compare_share)
