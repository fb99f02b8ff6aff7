"""The commands that are attacked, as processes, with their addresses and credentials."""

import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.pump.server import MAX_PAYLOAD_BYTES
from pyspark_theflash.service.api.limits import Limits
from pyspark_theflash.service.api.token import AccessToken
from pyspark_theflash.service.client.remote import RemoteTransport
from pyspark_theflash.service.client.theflash import TheFlash
from pyspark_theflash.service.wire.method import Role
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.testing.stores import OLDEST_TS, StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory
from tests.support import kv_table
from tests.support.flight_client import FlightTransport
from tests.support.grpc_client import GrpcTransport
from tests.support.learn_command import write_schema
from tests.support.processes import CLOCK, descendants, is_alive, wait_until
from tests.support.raft_cluster import Ends, Sender, cluster_of
from tests.support.raft_tikv import FakeRaftCluster
from tests.support.raw_peer import dial
from tests.support.serving import TOKENS, command, write_tokens
from tests.support.tls import FOLDER, tls, trust

SMALL = table_info(7, "shop.small", [id_column()])
ITEMS = table_info(
    8,
    "shop.items",
    [id_column(), column("name", MySQLType.VARCHAR, flen=200), column("n", MySQLType.LONGLONG)],
)
ROWS = 44_100
RESOLVED_TS = 200
ATTACKER = AccessToken("the-token-of-an-attacker")
"""A token that permits reading, of another caller than the readers that are measured."""
OTHER_WRITER = AccessToken("the-token-of-another-writer")
ALLOWED = "tidb"
"""The common name of `client.pem`, the only one that is allowed."""
LISTENERS: Mapping[str, tuple[str, ...]] = {
    "SocketServer": ("frames",),
    "ConnectionRouter": ("frames",),
    "Listener": ("grpc", "flight"),
    "RpcServer": ("grpc",),
    "FlightServer": ("flight",),
    "EngineServer": ("engine",),
    "PumpServer": ("pump",),
    "MetricsServer": ("metrics",),
}
"""Classes of the package that listen, and their protocols in this campaign."""
START_MS = 60_000
OWN_MIB = 160
"""The memory of a process beside what docs/limits.md lists."""
_LIMITS = Limits()
_COMPUTED = _LIMITS.computing_per_identity * _LIMITS.request_memory
SERVE_MIB = OWN_MIB + (3 * _LIMITS.memory + _COMPUTED >> 20)
LEARN_MIB = 64
"""`learn --memory`."""
PUMP_MIB = OWN_MIB + (10 * MAX_PAYLOAD_BYTES >> 20)


@dataclass
class Server:
    """A running command.

    Attributes:
        name: The configuration that it was started with.
        folder: The folder of its store, its tokens and its log.
        process: The command's first process.
        memory_mib: The resident memory that each of its processes may use; see docs/limits.md.
        table: The table that readers read; empty: none.
        addresses: Addresses by protocol.
        tls: A client's certificates that it accepts; None: it has no TLS.
        has_tokens: Whether callers need tokens.
    """

    name: str
    folder: Path
    process: "subprocess.Popen[str]"
    memory_mib: int = SERVE_MIB
    table: str = SMALL.full_name
    addresses: dict[str, str] = field(default_factory=dict)
    tls: TlsFiles | None = None
    has_tokens: bool = True

    @property
    def store(self) -> Path:
        """The store's folder."""
        return self.folder / "store"

    @property
    def pids(self) -> list[int]:
        """Its processes."""
        return [self.process.pid, *descendants(self.process.pid)]

    @property
    def log(self) -> str:
        """All that it has written to its standard error."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def is_alive(self) -> bool:
        """Whether the command has not ended."""
        return is_alive(self.process.pid)

    def transport(self, protocol: str, who: Role | AccessToken | None = Role.READ) -> Any:
        """A `service.client.transport.Transport` to one of its addresses."""
        token = TOKENS[who] if isinstance(who, Role) else who
        address = self.addresses[protocol]
        value = None if token is None else token.value
        if protocol == "grpc":
            return GrpcTransport(address, value, self.tls)
        if protocol == "flight":
            return FlightTransport(address, value or "", self.tls)
        return RemoteTransport(address, clock=CLOCK, token=token, tls=self.tls)

    def client(self, who: Role | AccessToken | None = Role.READ, protocol: str = "frames") -> Any:
        """A client of the API."""
        return TheFlash(self.transport(protocol, who))

    def dial(self, protocol: str = "frames") -> Any:
        """A socket, after its TLS handshake if there is one."""
        return dial(self.addresses[protocol], self.tls)


def make_store(path: Path) -> Path:
    """A store with a small table, and one whose rows fill a socket."""
    rows = [(n, 110, [n, f"{n}" + "e" * 20 + "x" * 100, n]) for n in range(ROWS)]
    small = [(n, 110, [n]) for n in range(10)]
    StoreBuilder(path, SMALL, ITEMS).publish(RESOLVED_TS, {SMALL: small, ITEMS: rows})
    return path


def tokens_file(folder: Path) -> Path:
    """The tokens of all roles, of an attacker and of another writer."""
    roles = {token.value: role.name.lower() for role, token in TOKENS.items()}
    return write_tokens(
        folder / "tokens", {**roles, ATTACKER.value: "read", OTHER_WRITER.value: "write"}
    )


Arguments = list[object]


class Starter:
    """The arguments of each configuration, with its files in a folder."""

    def __init__(self, folder: Path, undo: ExitStack) -> None:
        self.folder, self._undo = folder, undo
        self.fields: dict[str, Any] = {}
        """Attributes of the `Server` that differ from the default."""
        self.begin: Callable[[Server], None] = lambda _: None
        """Called when the command has started."""

    def unix(self) -> Arguments:
        """`theflash serve` on a unix socket, without tokens."""
        self.fields = {"has_tokens": False}
        return ["serve", make_store(self.folder / "store"), "--workers", 2]

    def tcp(self, host: str = "127.0.0.1") -> Arguments:
        """`theflash serve` with tokens: frames, gRPC and Flight on loopback."""
        place = f"{host}:0"
        arguments: Arguments = ["serve", make_store(self.folder / "store"), "--workers", 2]
        arguments += ["--listen", place, "--flight", place, "--grpc", place]
        return [*arguments, "--tokens", tokens_file(self.folder)]

    def tls(self) -> Arguments:
        """The same with a certificate."""
        self.fields = {"tls": trust()}
        cert, key = FOLDER / "server.pem", FOLDER / "server.key"
        return [*self.tcp("localhost"), "--cert", cert, "--key", key]

    def mtls(self) -> Arguments:
        """The same with client certificates of one name."""
        arguments = [*self.tls(), "--ca", FOLDER / "ca.pem", "--allow", ALLOWED]
        self.fields = {"tls": tls("client")}
        return arguments

    def names(self) -> Arguments:
        """`theflash serve` for a store with hostile names."""
        from tests.attack.names import hostile_store

        hostile_store(self.folder / "store")
        self.fields = {"has_tokens": False}
        return ["serve", self.folder / "store", "--workers", 2]

    def learn(self) -> Arguments:
        """`theflash learn`, which TiKV reaches through a unix socket."""
        schema = f"file:{write_schema(self.folder / 'schema.json', kv_table.HISTORY, 1 << 62)}"
        arguments = ["learn", self._empty_store(), "--schema", schema, "--memory", LEARN_MIB]
        raft = FakeRaftCluster()
        for handle in range(100):
            kv_table.commit(raft, handle, 10 + handle, f"row {handle}")
        cluster = self._undo.enter_context(cluster_of(raft, Ends({}, 1)))
        sender = Sender(raft, cluster.cluster.mutex)
        self._undo.callback(sender.close)

        def begin(server: Server) -> None:
            sender.connect(server.addresses["engine"])
            sender.install(raft.regions[1])

        self.begin = begin
        arguments += ["--pd", cluster.pd.address, "--listen", f"unix:{self.folder}/tikv.sock"]
        self.fields = {"memory_mib": SERVE_MIB + LEARN_MIB, "table": kv_table.TABLE.full_name}
        return [*arguments, "--serve", "127.0.0.1:0", "--tokens", tokens_file(self.folder)]

    def pump(self) -> Arguments:
        """`theflash writer`, to which TiDB sends its binlog."""
        metrics = f"127.0.0.1:{free_port()}"
        arguments = self._pump(f"unix:{self.folder}/pump.sock")
        self.fields["addresses"]["metrics"] = metrics
        return [*arguments, "--metrics", metrics]

    def pump_mtls(self) -> Arguments:
        """The same over TCP, with client certificates of one name."""
        arguments = self._pump(f"localhost:{free_port()}")
        self.fields["tls"] = tls("client")
        files = {"ca": "ca.pem", "cert": "server.pem", "key": "server.key"}
        arguments += [word for name, file in files.items() for word in (f"--{name}", FOLDER / file)]
        return [*arguments, "--allow", ALLOWED]

    def _pump(self, address: str) -> Arguments:
        addresses = {"pump": address}
        self.fields = {"addresses": addresses, "has_tokens": False, "memory_mib": PUMP_MIB}
        arguments: Arguments = ["writer", self._empty_store(), "--schema", self._schema()]
        return [*arguments, "--source", f"pump-server:{address}", "--interval", 0.2]

    def _empty_store(self) -> Path:
        registry.create(self.folder / "store", registry.MAGIC, LocalFileSystem())
        return self.folder / "store"

    def _schema(self) -> str:
        history = SchemaHistory(OLDEST_TS, TimeStamp(1 << 62), (), ())
        return f"file:{write_schema(self.folder / 'schema.json', history, 1 << 62)}"


CONFIGURATIONS = tuple(name for name in vars(Starter) if name[0] != "_")


@contextmanager
def started(name: str, folder: Path, cpu: int | None = None) -> Iterator[Server]:
    """Start a configuration, on one processor if `cpu` is passed; killed at the end."""
    with ExitStack() as undo, open(folder / "log", "w") as log:
        starter = Starter(folder, undo)
        arguments = getattr(starter, name)()
        process = undo.enter_context(
            subprocess.Popen(
                command(*arguments), stdout=subprocess.PIPE, stderr=log, text=True, cwd="/"
            )
        )
        undo.callback(process.kill)
        if cpu is not None:
            os.sched_setaffinity(process.pid, {cpu})
        server = Server(name, folder, process, **starter.fields)
        if name.startswith("pump"):
            wait_until(lambda: not server.is_alive or _answers(server), START_MS)
        else:
            _read_addresses(server)
        starter.begin(server)
        yield server


def _read_addresses(server: Server) -> None:
    """Read the addresses that the command prints, up to the last, that of the frames."""
    kinds = {"Arrow Flight": "flight", "gRPC": "grpc"}
    assert server.process.stdout is not None
    while "frames" not in server.addresses:
        line = server.process.stdout.readline()
        assert line, server.log
        match = re.fullmatch(r"(serving|learning from) (.*) at (\S+)\n", line)
        assert match, line
        verb, what, address = match.groups()
        protocol = "engine" if verb != "serving" else kinds.get(what, "frames")
        server.addresses[protocol] = address


def _answers(server: Server) -> bool:
    try:
        for protocol in server.addresses:
            server.dial(protocol).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port
