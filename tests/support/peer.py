"""A real TiDB on loopback: PD, a store (unikv) and a TiDB server, in a folder of their own.

    with Peer(folder, binlog_socket=socket) as peer:
        peer.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")

`make peer` builds the commands. With `binlog_socket`, TiDB writes its binlog to the pump at
that socket; the pump must run before the start, and transactions commit only while it runs.
Every Peer is a new cluster.
"""

import contextlib
import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.tls import TlsFiles
from tests.peer.build import BIN
from tests.support.mysql import MySqlConnection, Row

HOST: Final = "127.0.0.1"
START_TIMEOUT_MS: Final = 120_000
_STOP_TIMEOUT_S: Final = 30.0
_POLL_MS: Final = 50
_CLOCK: Final = SystemClock()

_PD_CONFIG: Final = """\
name = "pd"
data-dir = "{folder}/pd"
client-urls = "http://127.0.0.1:{ports.pd}"
peer-urls = "http://127.0.0.1:{ports.pd_peer}"
advertise-client-urls = "http://127.0.0.1:{ports.pd}"
advertise-peer-urls = "http://127.0.0.1:{ports.pd_peer}"
[log.file]
filename = "{folder}/pd.log"
[replication]
max-replicas = 1
enable-placement-rules = false
[dashboard]
enable-telemetry = false
"""
# unistore does not support batches of requests: some would get no response.
_TIDB_CONFIG: Final = """\
host = "127.0.0.1"
advertise-address = "127.0.0.1"
port = {ports.sql}
store = "tikv"
path = "127.0.0.1:{ports.pd}"
socket = ""
enable-telemetry = false
tmp-storage-path = "{folder}/tidb-tmp"
split-table = true
[status]
status-host = "127.0.0.1"
status-port = {ports.status}
[log.file]
filename = "{folder}/tidb.log"
[tikv-client]
max-batch-size = 0
[binlog]
enable = {binlog}
binlog-socket = "{socket}"
ignore-error = false
[security]
{security}
"""


@dataclass(frozen=True)
class Ports:
    """The ports of the parts."""

    pd: int
    pd_peer: int
    kv: int
    sql: int
    status: int
    cdc_control: int


class Peer:
    """A running cluster of one TiDB. Start it with `with`, or `start` and `stop`.

    The thread that starts it must continue: its end is regarded as the end of the tests.
    """

    def __init__(
        self,
        folder: Path,
        *,
        binlog_socket: Path | None = None,
        tap: Path | None = None,
        cdc: str | None = None,
        cdc_interval_ms: int = 200,
        sql_tls: TlsFiles | None = None,
    ) -> None:
        """Prepare a cluster.

        Args:
            folder: For its data and logs.
            binlog_socket: The pump's.
            tap: File to which the store writes every request that changes it.
            cdc: "v6.5" or "v8.5" for a store with the change feed of that TiKV; see `cdc_peer`.
            cdc_interval_ms: Interval of its resolved timestamps.
            sql_tls: TiDB's certificate for sessions, and the CA of their certificates.
        """
        self._folder, self._socket, self._tap = folder, binlog_socket, tap
        self.cdc: Final = cdc
        self._cdc_interval_ms, self._sql_tls = cdc_interval_ms, sql_tls
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        self.ports: Final = _free_ports()

    @property
    def pd_address(self) -> str:
        return f"{HOST}:{self.ports.pd}"

    @property
    def kv_address(self) -> str:
        return f"{HOST}:{self.ports.kv}"

    @property
    def cdc_control_url(self) -> str:
        return f"http://{HOST}:{self.ports.cdc_control}"

    @property
    def status_url(self) -> str:
        return f"http://{HOST}:{self.ports.status}"

    @property
    def pids(self) -> dict[str, int]:
        """Return the process id of each part, by the name of its command."""
        return {name: process.pid for name, process in self._processes}

    def __enter__(self) -> "Peer":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start all parts and wait until TiDB accepts statements.

        Raises:
            RuntimeError: A part did not start; the end of its log is in the message.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start_pd()
            self._start_kv()
            self._start_tidb()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop TiDB first, which needs the others for an orderly exit, then the rest."""
        while self._processes:
            _, process = self._processes.pop()
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def connect(self) -> MySqlConnection:
        """Open a session, which the caller must close."""
        return MySqlConnection(HOST, self.ports.sql)

    def sql(self, *statements: str) -> list[Row]:
        """Run statements in a new session; return the rows of the last one."""
        rows: list[Row] = []
        with self.connect() as session:
            for statement in statements:
                rows = session.query(statement)
        return rows

    def tso(self) -> int:
        """Return a new timestamp of PD."""
        ((ts,),) = self.sql("BEGIN", "SELECT @@tidb_current_ts")
        return int(ts or 0)

    def status(self, path: str) -> Any:
        """Return the response of TiDB's status API at a path such as `/info`."""
        with urllib.request.urlopen(self.status_url + path, timeout=30) as answer:
            return json.load(answer)

    def _start_pd(self) -> None:
        config = _PD_CONFIG.format(folder=self._folder, ports=self.ports)
        self._spawn("pd-server", f"--config={self._write('pd.toml', config)}")
        self._wait(lambda: _answers(f"http://{self.pd_address}/pd/api/v1/version"))

    def _start_kv(self) -> None:
        arguments = [f"-pd={self.pd_address}", f"-addr={self.kv_address}"]
        arguments += [f"-dir={self._folder}/kv"] + ([f"-tap={self._tap}"] if self._tap else [])
        if self.cdc is not None:
            control = f"-cdc-control={HOST}:{self.ports.cdc_control}"
            arguments += [f"-cdc={self.cdc}", f"-cdc-interval={self._cdc_interval_ms}ms", control]
        self._spawn("unikv", *arguments)
        self._wait(lambda: _listens(self.ports.kv))

    def _start_tidb(self) -> None:
        config = _TIDB_CONFIG.format(
            folder=self._folder,
            ports=self.ports,
            socket=self._socket or "",
            binlog="true" if self._socket else "false",
            security=_security(self._sql_tls),
        )
        self._spawn("tidb-server", f"-config={self._write('tidb.toml', config)}")
        self._wait(lambda: _answers(f"{self.status_url}/status"))

    def _write(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.write_text(text)
        return path

    def _spawn(self, name: str, *arguments: str) -> None:
        # Where the system supports it, no process outlives the tests, however they end.
        setpriv = shutil.which("setpriv")
        prefix = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        with (self._folder / f"{name}.out").open("wb") as out:
            process = subprocess.Popen(
                [*prefix, str(BIN / name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
            )
        self._processes.append((name, process))

    def _wait(self, is_ready: Callable[[], bool]) -> None:
        """Wait until the newest part is ready, while all of them run."""
        deadline_ms = _CLOCK.boottime_ms() + START_TIMEOUT_MS
        while not is_ready():
            ended = [name for name, process in self._processes if process.poll() is not None]
            if ended or _CLOCK.boottime_ms() > deadline_ms:
                name = ended[0] if ended else self._processes[-1][0]
                raise RuntimeError(f"{name} did not start: {self._last_words(name)}")
            _CLOCK.sleep_ms(_POLL_MS)

    def _last_words(self, name: str) -> str:
        logs = [self._folder / f"{name}.out", self._folder / f"{name.removesuffix('-server')}.log"]
        return "\n".join(log.read_text(errors="replace")[-2000:] for log in logs if log.exists())


def _security(tls: TlsFiles | None) -> str:
    """Return the settings of TiDB's certificate."""
    if tls is None:
        return ""
    return f'ssl-ca = "{tls.ca}"\nssl-cert = "{tls.cert}"\nssl-key = "{tls.key}"'


def _free_ports() -> Ports:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(6)]
        for each in sockets:
            each.bind((HOST, 0))
        return Ports(*(each.getsockname()[1] for each in sockets))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (OSError, urllib.error.URLError):
        return False
