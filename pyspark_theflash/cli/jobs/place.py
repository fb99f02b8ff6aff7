"""Store of a writer: in a folder, behind a server, or of the engine delta."""

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import ServiceUnavailableError, UsageError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.jobs.arguments import server_token, tls_files
from pyspark_theflash.net.address import is_address
from pyspark_theflash.replication.apply.applier import Applier
from pyspark_theflash.replication.apply.stream_state import StreamState
from pyspark_theflash.replication.opening import open_when_free
from pyspark_theflash.replication.upkeep.maintenance import Maintenance
from pyspark_theflash.replication.writer_latch import WriterLatch
from pyspark_theflash.storage.engine.api import Engine, WriterEngine
from pyspark_theflash.storage.store.folder import open_manifest, read_identity
from pyspark_theflash.storage.store.load import LOAD_KIND, check_loaded
from pyspark_theflash.storage.store.raft_fed import RAFT_FED_KIND, check_not_learned

if TYPE_CHECKING:
    from pyspark_theflash.cli.jobs.upkeep import RemoteUpkeep
    from pyspark_theflash.spark.delta.upkeep import DeltaUpkeep

Upkeep: TypeAlias = "Maintenance | RemoteUpkeep | DeltaUpkeep"
DELTA: Final = "delta:"
"""Prefix of a store of the engine delta, before its folder or URL."""
SPOOL_FOLDER: Final = "spool"
_RETRY_MS: Final = 200


@dataclass(frozen=True, slots=True)
class WriterStore:
    """Store that is open for its writer.

    Attributes:
        open_again: called before another writer continues after an error.
        upkeep: creates the upkeep from the writer's state and a function that requests PD's safe
            point.
        folder: folder for spilled transactions.
        spool: folder for binlog that TiDB sends.
        name: the store's id, or its address.
        applier: applies transactions to the engine.
    """

    engine: WriterEngine
    open_again: Callable[[], None]
    upkeep: Callable[[StreamState, Callable[[], TimeStamp] | None], Upkeep]
    folder: Path | None
    spool: Path | None
    name: str
    applier: type[Applier] = Applier


def is_folder(store: str) -> bool:
    """Return whether a writer's store is a folder with a manifest."""
    return not is_address(store) and not store.startswith(DELTA)


def open_place(
    arguments: argparse.Namespace, fs: FileSystem, clock: Clock, undo: ExitStack
) -> WriterStore:
    """Open the store that the command line names, until `undo` is closed.

    Raises:
        UsageError: Options do not fit the store.
        StoreInUseError, LatchHeldError: Another writer has the store, also after `--wait`.
        StoreNotFoundError, RaftFedError: There is no store that a stream can feed.
        LoadUnfinishedError: The store's first load has not ended.
        ServiceUnavailableError, AuthenticationError, RoleError: The server denies access.
    """
    if is_address(arguments.store):
        return _served(arguments, clock, undo)
    if arguments.store.startswith(DELTA):
        return _delta(arguments, undo)
    for name in ("token_file", "store_ca", "store_cert", "store_key", "spool"):
        if getattr(arguments, name) is not None:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} is for a store behind a server, not for a folder")
    return _in_folder(Path(arguments.store), arguments.wait, fs, clock, undo)


def open_folder(path: Path, wait_ms: int, fs: FileSystem, clock: Clock, undo: ExitStack) -> Engine:
    """Open a store for its writer, with its latch, until `undo` is closed; see `open_place`."""
    latch = undo.enter_context(closing(WriterLatch(path, fs, clock)))
    engine = undo.enter_context(
        closing(open_when_free(path, fs, clock, latch.guard, wait_ms=wait_ms))
    )
    latch.take(wait_ms)
    check_not_learned(engine.read([RAFT_FED_KIND]))
    return engine


def _in_folder(
    path: Path, wait_ms: int, fs: FileSystem, clock: Clock, undo: ExitStack
) -> WriterStore:
    engine = open_folder(path, wait_ms, fs, clock, undo)
    check_loaded(engine.read([LOAD_KIND]))
    manifest = undo.enter_context(closing(open_manifest(path, fs)))
    thread = undo.enter_context(ThreadPoolExecutor(1, thread_name_prefix="compaction"))

    def upkeep(state: StreamState, safe_point: Callable[[], TimeStamp] | None) -> Upkeep:
        return Maintenance(
            engine, manifest, clock, memory=state, pd_safe_point=safe_point, thread=thread
        )

    name = read_identity(path, fs).store_id
    return WriterStore(engine, lambda: None, upkeep, path, path / SPOOL_FOLDER, name)


def _delta(arguments: argparse.Namespace, undo: ExitStack) -> WriterStore:
    # Imported here because other writers need no Spark.
    from pyspark_theflash.spark.delta.applier import DeltaApplier
    from pyspark_theflash.spark.delta.engine import DeltaEngine
    from pyspark_theflash.spark.delta.session import delta_session
    from pyspark_theflash.spark.delta.upkeep import DeltaUpkeep

    if not all(":" not in source or source.startswith("file:") for source in arguments.source):
        raise UsageError("a store of the engine delta is written from a binlog: --source file:PATH")
    path = arguments.store.removeprefix(DELTA)
    engine = DeltaEngine(delta_session(undo), path)
    return WriterStore(
        engine,
        engine.open_again,
        lambda state, _: DeltaUpkeep(engine, state),
        None,
        None,
        engine.store_id,
        DeltaApplier,
    )


def _served(arguments: argparse.Namespace, clock: Clock, undo: ExitStack) -> WriterStore:
    # Imported here because the writer of a folder does not need them.
    from pyspark_theflash.cli.jobs.upkeep import RemoteUpkeep
    from pyspark_theflash.service.client.remote_engine import RemoteEngine
    from pyspark_theflash.service.client.transport import Transport, transport_to

    tls = tls_files(arguments, "store_")
    token = server_token(arguments.token_file)

    def connect() -> Transport:
        return transport_to(arguments.store, token=token, tls=tls, clock=clock)

    spool: Path | None = arguments.spool
    engine = undo.enter_context(closing(RemoteEngine(connect, folder=spool)))
    deadline = Deadline(clock, arguments.wait)
    deadline.retried(
        lambda: engine.open(deadline.left_ms()), ServiceUnavailableError, pause_ms=_RETRY_MS
    )

    def upkeep(state: StreamState, safe_point: Callable[[], TimeStamp] | None) -> Upkeep:
        return RemoteUpkeep(engine, state, clock, safe_point)

    return WriterStore(engine, engine.open, upkeep, spool, spool, arguments.store)
