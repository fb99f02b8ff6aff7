"""Sources and schemas of a writer, as the command line names them.

--source   file:PATH                 a binlog file or a folder of them
           pump:HOST:PORT            a pump, whose stream is pulled
           pump-server:unix:PATH     TiDB sends to this process, which keeps the binlog in
           pump-server:HOST:PORT     STORE/spool or the folder of --spool until it is applied;
                                     HOST:PORT requires certificates and --allow, or --insecure
           tikv:HOST:PORT[,...]      PD's addresses: the change feed of TiKV (`streams.py`)
           cdc:URL                   a changefeed of TiCDC to storage, file:///PATH or
                                     s3://BUCKET/PREFIX (`replication/ticdc/storage.py`)
           gone:SOURCE               one of several former sources, which has ended
--schema   file:PATH                 a schema file
           tidb:http://HOST:PORT     a TiDB's status address
           tikv:HOST:PORT[,...]      PD's addresses; the schema is read from TiKV
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import OptionError, RegionGapError, ServiceUnavailableError
from pyspark_theflash.base.fs import FileSystem
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.jobs.arguments import split_scheme
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.net.access import Access
from pyspark_theflash.net.address import UNIX
from pyspark_theflash.replication.apply.stream_state import SchemaSource
from pyspark_theflash.replication.pump.spool import Spool
from pyspark_theflash.replication.source.event import EntitySource
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.source.merge import MergedSource, check_named, is_merged
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.file import FileSchema
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.meta_key import Outcome
from pyspark_theflash.tidb.schema.status_api import StatusApi
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource

if TYPE_CHECKING:
    from pyspark_theflash.cluster.pd import PDClient
    from pyspark_theflash.cluster.tikv.client import TiKVClient
    from pyspark_theflash.cluster.tikv.meta import TiKVMeta
    from pyspark_theflash.replication.cdc.change_feed import ChangeFeed
    from pyspark_theflash.replication.load.entry import Loader
    from pyspark_theflash.replication.pump.server import PumpServer

GONE: Final = "gone:"
CHANGE_FEED: Final = "tikv:"
SINK: Final = "cdc:"
SCHEMA_WAIT_MS: Final = 60_000
_RETRY_MS: Final = 200


@dataclass(frozen=True, slots=True)
class Network:
    """Access to other services, and theirs to this process.

    Attributes:
        tls: certificates for PD, TiKV, pumps and the clients of this process.
        advertise: the HOST:PORT of this process for TiDB.
        allowed_names: common names that certificates of clients may have.
        is_insecure: whether all users of this machine may be clients.
    """

    pd_addresses: tuple[str, ...] = ()
    tls: TlsFiles | None = None
    cluster_id: int | None = None
    advertise: str | None = None
    allowed_names: tuple[str, ...] = ()
    is_insecure: bool = False

    def access(self, address: str) -> Access:
        """Return the clients that may call a server of this process at an address."""
        has_tls = not (self.is_insecure or address.startswith(UNIX))
        return Access(self.tls if has_tls else None, self.allowed_names, self.is_insecure)


@dataclass(frozen=True, slots=True)
class Input:
    """A source over many polls.

    Attributes:
        source: returns the source of the next poll.
        applied: is called when everything up to a position is in the store, durably.
        spool: holds received binlog until it is applied; None if there is no such.
    """

    source: Callable[[], EntitySource]
    applied: Callable[[str | None], None] = lambda position: None
    spool: Spool | None = None


def _checked(
    check: Callable[[], None], source: Callable[[], EntitySource]
) -> Callable[[], EntitySource]:
    """Return a source function that calls `check` first, which raises if input may be missing."""

    def checked() -> EntitySource:
        check()
        return source()

    return checked


def _drop(spool: Spool, position: str | None) -> None:
    if position is not None:
        spool.drop_before(position)


class LiveSchema:
    """Schema history of a live cluster from `start_ts`, or `now()` if that is None, on.

    The first read waits up to `SCHEMA_WAIT_MS`, because a starting TiDB may wait for this pump
    before it answers.
    """

    def __init__(
        self,
        source: TidbSchemaSource,
        start_ts: TimeStamp | None,
        now: Callable[[], TimeStamp],
        clock: Clock,
    ) -> None:
        self._source, self._start_ts = source, start_ts
        self._now, self._clock = now, clock

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        """Return a history; see `SchemaSource`.

        Raises:
            OptionError: The schema has changed after `start_ts`, so a new history starts later.
        """
        if after is not None and at_least is None:
            return after
        history = Deadline(self._clock, SCHEMA_WAIT_MS if after is None else 0).retried(
            lambda: self._source.read(at_least or self._start_ts or self._now(), after),
            ServiceUnavailableError,
            RegionGapError,
            pause_ms=_RETRY_MS,
        )
        if after is None and self._start_ts is not None and history.start_ts > self._start_ts:
            reason = (
                f"the cluster's schema has changed since, and is readable from {history.start_ts} "
                "on; begin there, with a base of that timestamp"
            )
            raise OptionError("start-ts", reason)
        return history

    def has_written(self, key: RawKey, start_ts: TimeStamp) -> bool | None:
        return self._source.has_written(key, start_ts)

    def had_row(self, key: RawKey, ts: TimeStamp) -> bool | None:
        return self._source.had_row(key, ts)

    def outcome(self, primary: RawKey, start_ts: TimeStamp) -> Outcome:
        return self._source.outcome(primary, start_ts)


class FileSchemaWithCluster(FileSchema):
    """Schema file, with a cluster to look up transactions in."""

    def __init__(self, path: Path, source: TidbSchemaSource) -> None:
        super().__init__(path)
        self._source = source

    def outcome(self, primary: RawKey, start_ts: TimeStamp) -> Outcome:
        return self._source.outcome(primary, start_ts)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Clients of a cluster's PD and TiKV."""

    pd: "PDClient"
    client: "TiKVClient"
    addresses: tuple[str, ...]
    policy: LockPolicy
    tls: TlsFiles | None
    clock: Clock
    now: Callable[[], TimeStamp | None] = lambda: None

    @property
    def meta(self) -> "TiKVMeta":
        """Reader of the cluster's meta keys."""
        from pyspark_theflash.cluster.tikv.meta import TiKVMeta

        return TiKVMeta(self.client)

    @property
    def schema_source(self) -> TidbSchemaSource:
        """Reader of the schema history in TiKV."""
        return TidbSchemaSource(self.meta, self.clock)

    def schema(self, start_ts: TimeStamp | None) -> LiveSchema:
        """Return the schema history from `start_ts`, or a current timestamp, on."""
        return LiveSchema(
            self.schema_source, start_ts, lambda: self.now() or self.pd.tso(), self.clock
        )

    def loader(self, confirm: Callable[[TimeStamp], None]) -> "Loader":
        """Return a reader of rows; see `ClusterLoader`."""
        from pyspark_theflash.replication.load.entry import ClusterLoader
        from pyspark_theflash.replication.load.scan import ClusterAddress

        address = ClusterAddress(self.addresses, self.tls, self.policy)
        return ClusterLoader(self.client, address, confirm)

    def open_feed(self, cluster_id: int, folder: Path | None) -> "ChangeFeed":
        """Return a new change feed; `folder` is for large transactions."""
        from pyspark_theflash.replication.cdc.feed import TiKVChangeFeed
        from pyspark_theflash.replication.cdc.streams import GrpcStreams
        from pyspark_theflash.replication.cdc.unlock import unlocker

        return TiKVChangeFeed(
            self.client.regions,
            GrpcStreams(self.client.directory, self.tls),
            cluster_id,
            clock=self.clock,
            unlock=unlocker(self.client, self.clock),
            folder=folder,
        )


class Opener:
    """Opens sources and schemas; `undo` closes their connections.

    `now` returns the timestamp at which a new store begins; None leaves it to PD.
    """

    def __init__(
        self,
        network: Network,
        fs: FileSystem,
        clock: Clock,
        undo: ExitStack,
        now: Callable[[], TimeStamp | None] = lambda: None,
    ) -> None:
        self._network, self._fs, self._clock, self._undo = network, fs, clock, undo
        self._now = now
        self._pd_client: PDClient | None = None

    def source(self, text: str, spool: Path | None, share: int = 1) -> Input:
        """Open a `--source`, which gets the `share`th part of a poll's time.

        Raises:
            OptionError: The text is not a source, or the source does not exist.
            MissingExtraError: It needs grpcio.
        """
        scheme, rest = split_scheme("source", text, ("file", "pump", "pump-server"))
        if scheme == "file":
            return Input(lambda: FileSource(Path(rest)))
        return self._pump(rest, share) if scheme == "pump" else self._pump_server(rest, spool)

    def sources(
        self, texts: Sequence[str], position: str | None, spool: Path | None
    ) -> tuple[Input, Sequence[str]]:
        """Open one or several `--source`; return the input and the names of its streams.

        Args:
            texts: the options.
            position: the store's position in its former sources.
            spool: the folder for binlog that TiDB sends to a pump-server.

        Raises:
            OptionError: A source is named twice, or a former one is not named.
            MissingExtraError: grpcio is needed.
        """
        gone = {text.removeprefix(GONE) for text in texts if text.startswith(GONE)}
        names = [text for text in texts if not text.startswith(GONE)]
        if not names or len(set(names)) < len(names):
            raise OptionError("source", "is missing, or given twice")
        check_named(position, names, gone)
        if len(names) == 1 and not is_merged(position):
            return self.source(names[0], spool), names
        for name in names:
            if name.startswith("pump-server:"):
                raise OptionError(
                    "source", "a pump-server gets all transactions, so it must be the only source"
                )
        inputs = {name: self.source(name, spool, len(names)) for name in names}
        pumps = [name.removeprefix("pump:") for name in names if name.startswith("pump:")]
        check = self._others_check(pumps)

        def merged() -> EntitySource:
            return MergedSource({name: each.source() for name, each in inputs.items()}, check)

        return Input(merged), names

    def schema(self, text: str, start_ts: TimeStamp | None) -> SchemaSource:
        """Open the source of the schema history that `--schema` names."""
        scheme, rest = split_scheme("schema", text, ("file", "tidb", "tikv"))
        if scheme == "file":
            addresses = self._network.pd_addresses
            if not addresses:
                return FileSchema(Path(rest))
            cluster = self.cluster(addresses)
            return FileSchemaWithCluster(Path(rest), cluster.schema_source)
        if scheme == "tikv":
            return self.cluster(rest.split(",")).schema(start_ts)
        api = StatusApi(rest, self._clock, self._network.tls)
        self._undo.callback(api.close)
        source = TidbSchemaSource(api, self._clock)
        return LiveSchema(
            source, start_ts, lambda: self._now() or self._pd("schema").tso(), self._clock
        )

    def cluster(self, addresses: Sequence[str], policy: LockPolicy = LockPolicy.WAIT) -> "Cluster":
        """Connect to PD and TiKV."""
        from pyspark_theflash.cluster.pd import PDClient
        from pyspark_theflash.cluster.tikv.client import TiKVClient

        tls, clock = self._network.tls, self._clock
        pd = self._undo.enter_context(PDClient(tuple(addresses), tls, clock=clock))
        client = self._undo.enter_context(TiKVClient(pd, tls, clock=clock, policy=policy))
        return Cluster(pd, client, tuple(addresses), policy, tls, clock, self._now)

    def _others_check(self, pumps: Sequence[str]) -> Callable[[], None]:
        """Return a check that raises `OtherPumpError` if PD is configured and has other pumps."""
        if not pumps or not self._network.pd_addresses:
            return lambda: None
        from pyspark_theflash.replication.source.registry import check_followed

        return partial(check_followed, self._pd("pd"), pumps)

    def _pump(self, address: str, share: int) -> Input:
        from pyspark_theflash.replication.source.pump import PullLimits, PumpSource

        cluster_id = self._network.cluster_id
        if cluster_id is None:
            cluster_id = self._pd("cluster-id").cluster_id()
        whole = PullLimits()
        limits = replace(
            whole, idle_ms=whole.idle_ms // share, deadline_ms=whole.deadline_ms // share
        )
        source = PumpSource(
            address, cluster_id, self._network.tls, clock=self._clock, limits=limits
        )
        check = self._others_check([address]) if share == 1 else lambda: None
        self._undo.enter_context(source)
        return Input(_checked(check, lambda: source))

    def _pump_server(self, address: str, folder: Path | None) -> Input:
        from pyspark_theflash.replication.pump.server import PumpServer

        if folder is None:
            reason = "is missing; it names a folder on this machine for the binlog that TiDB sends"
            raise OptionError("spool", reason)
        # Before the requests to PD, which may take a while.
        self._network.access(address).check(address)
        spool = Spool(folder, self._fs)
        self._undo.callback(spool.close)
        has_pd = bool(self._network.pd_addresses)
        cluster_id = self._pd("pd").cluster_id() if has_pd else self._network.cluster_id
        server = PumpServer(
            spool,
            address,
            clock=self._clock,
            access=self._network.access(address),
            cluster_id=cluster_id,
        )
        server.start()
        if not has_pd:
            self._undo.callback(server.stop)
            return Input(spool.source, partial(_drop, spool), spool)
        source = _checked(self._node(server, spool), spool.source)
        return Input(source, partial(_drop, spool), spool)

    def _node(self, server: "PumpServer", spool: Spool) -> Callable[[], None]:
        """Synchronize timestamps with PD, and register there unless the address is a socket."""
        from pyspark_theflash.replication.pump.node import PumpNode
        from pyspark_theflash.replication.source.registry import PumpRegistry

        pd, registry = self._pd("pd"), None
        if not server.address.startswith(UNIX):
            host = self._network.advertise or server.address
            registry = PumpRegistry(pd, host, host)
        node = PumpNode(server, spool, pd, registry)
        node.start()
        self._undo.callback(node.stop)
        return node.check

    @property
    def safe_point(self) -> Callable[[], TimeStamp] | None:
        """Function that requests TiKV's GC safe point from PD; None if no PD is configured."""
        return self._pd("pd").gc_safe_point if self._network.pd_addresses else None

    def _pd(self, option: str) -> "PDClient":
        from pyspark_theflash.cluster.pd import PDClient

        if self._pd_client is None:
            if not self._network.pd_addresses:
                reason = "a timestamp or the cluster's id is needed from PD: use --pd HOST:PORT"
                raise OptionError(option, reason)
            self._pd_client = self._undo.enter_context(
                PDClient(self._network.pd_addresses, self._network.tls, clock=self._clock)
            )
        return self._pd_client
