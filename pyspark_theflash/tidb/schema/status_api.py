"""TiDB's status API over HTTP: the tables it has loaded, and the changes of its meta keys.

    /schema           databases             /mvcc/hex/KEY    every committed version of a key, and
    /schema/NAME      a database's tables                    its lock, as TiKV has them
    /ddl/history      finished DDL jobs, newest first
    /info/all         the TiDB servers of the cluster

Answers are JSON, capped in size before they are parsed; every call ends by its deadline. Requests
carry no secrets and errors name host and port only.
"""

import base64
import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    OptionError,
    SchemaSourceError,
    ServiceUnavailableError,
    UnsupportedError,
)
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.base.types import SchemaVersion, TimeStamp
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, brief, load
from pyspark_theflash.tidb.schema.meta_key import (
    FinishedJob,
    ListedDatabase,
    MetaKey,
    MetaWrite,
    finished_job,
    listed_table,
)

MAX_ANSWER_BYTES: Final = 1 << 28
TIMEOUT_MS: Final = 30_000
_CHUNK_BYTES: Final = 1 << 16
_EXCERPT: Final = 200
# INFORMATION_SCHEMA and the like, which have no keys.
_FIRST_MEMORY_DATABASE: Final = 1 << 62
_PUT, _DELETE, _LOCK, _ROLLBACK = range(4)
_JOBS_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class TidbServer:
    """One TiDB server of a cluster. What it commits without a binlog, a replica never hears of."""

    address: str
    version: str
    writes_binlog: bool


class StatusApi:
    """One TiDB server's status API; a `MetaReader`. For one thread.

    A connection is kept between calls and made anew when the server has closed it.
    """

    def __init__(
        self, url: str, clock: Clock, tls: TlsFiles | None = None, timeout_ms: int = TIMEOUT_MS
    ) -> None:
        """`url` is `http[s]://HOST:PORT`, with or without `tidb:` before it. Nothing is sent yet.

        Without `tls`, an https server is trusted as far as the system trusts it.

        Raises:
            OptionError: it is no such URL, or a TLS file cannot be used.
        """
        self.address, secure = _parse_url(url)
        self._tls = _tls_context(tls) if secure else None
        self._clock, self._timeout_ms = clock, timeout_ms
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Close the connection; the next call makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def read_key(self, key: bytes) -> MetaKey:
        """All committed changes of a key, and its lock.

        Raises:
            ServiceUnavailableError: TiDB, or the TiKV behind it, does not answer.
            SchemaSourceError: what answers is not a TiDB.
        """
        path = f"/mvcc/hex/{key.hex()}"
        answer = self.get(path)
        try:
            value = answer["value"]
            trouble = value.get("region_error") or value.get("error")
            if trouble:
                raise ServiceUnavailableError(self.address, f"TiKV: {str(trouble)[:_EXCERPT]}")
            return _meta_key(value.get("info") or {})
        except SHAPE_ERRORS as error:
            raise self._strange(path, error) from error

    def list_databases(self) -> list[ListedDatabase]:
        """The databases and tables that this server has loaded.

        Raises:
            ServiceUnavailableError: TiDB does not answer, or a database was dropped meanwhile.
            SchemaSourceError: what answers is not a TiDB.
            UnsupportedError: a database has a name that the status API cannot be asked for.
        """
        path = "/schema"
        try:
            databases = [(int(db["id"]), str(db["db_name"]["O"])) for db in self.get(path)]
            found = []
            for database_id, name in databases:
                if database_id < _FIRST_MEMORY_DATABASE:
                    path = self._database_path(name)
                    tables = tuple(map(listed_table, self.get(path)))
                    found.append(ListedDatabase(database_id, name, tables))
        except SHAPE_ERRORS as error:
            raise self._strange(path, error) from error
        return found

    def finished_jobs(self, above: SchemaVersion) -> list[FinishedJob]:
        """The DDL jobs that ended with a schema version above, newest first.

        Raises:
            ServiceUnavailableError: TiDB, or the TiKV behind it, does not answer.
            SchemaSourceError: what answers is not a TiDB.
        """
        found: list[FinishedJob] = []
        start = ""
        while True:
            path = f"/ddl/history?limit={_JOBS_PAGE}{start}"
            jobs = self.get(path) or []
            try:
                page = list(map(finished_job, jobs))
                oldest = min((int(job["id"]) for job in jobs), default=1)
            except SHAPE_ERRORS as error:
                raise self._strange(path, error) from error
            new = [job for job in page if job.version > above]
            found += new
            # Jobs that run side by side may end in another order than they began.
            if oldest <= 1 or not new:
                return found
            start = f"&start_job_id={oldest - 1}"

    def servers(self) -> list[TidbServer]:
        """All TiDB servers of the cluster.

        Raises:
            ServiceUnavailableError: TiDB does not answer.
            SchemaSourceError: what answers is not a TiDB.
        """
        path = "/info/all"
        answer = self.get(path)
        try:
            return [
                TidbServer(
                    f"{server['ip']}:{server['listening_port']}",
                    str(server["version"]),
                    server["binlog_status"] == "On",
                )
                for server in answer["all_servers_info"].values()
            ]
        except SHAPE_ERRORS as error:
            raise self._strange(path, error) from error

    def get(self, path: str) -> Any:  # noqa: ANN401 (JSON)
        """The JSON at a path.

        Raises:
            ServiceUnavailableError: nothing answers in time, or the server says that it cannot.
            SchemaSourceError: it has no such path, or answers with something else.
        """
        deadline_ms = self._clock.boottime_ms() + self._timeout_ms
        try:
            status, body = self._request(path, deadline_ms)
        except ssl.SSLCertVerificationError as error:
            raise SchemaSourceError(self.address, f"TLS: {error.verify_message}") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise ServiceUnavailableError(
                self.address, str(error) or type(error).__name__
            ) from error
        if status == http.HTTPStatus.NOT_FOUND:
            raise SchemaSourceError(self.address, f"not a TiDB status port: it has no {path}")
        if status != http.HTTPStatus.OK:
            reason = body[:_EXCERPT].decode(errors="replace")
            raise ServiceUnavailableError(self.address, f"HTTP status {status}: {reason}")
        try:
            return load(body)
        except SHAPE_ERRORS as error:
            raise self._strange(path, error) from error

    def _request(self, path: str, deadline_ms: int) -> tuple[int, bytes]:
        """One exchange; once more on a new connection where the old one turns out to be closed."""
        is_old = self._connection is not None
        try:
            return self._exchange(path, deadline_ms)
        except (http.client.RemoteDisconnected, ConnectionError):
            self.close()
            if not is_old:
                raise
        return self._exchange(path, deadline_ms)

    def _exchange(self, path: str, deadline_ms: int) -> tuple[int, bytes]:
        connection = self._connect(deadline_ms)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = bytearray()
        while True:
            self._limit(connection, deadline_ms)
            chunk = _read1(answer)
            if not chunk:
                break
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                self.close()
                reason = f"an answer of more than {MAX_ANSWER_BYTES} bytes to {path}"
                raise SchemaSourceError(self.address, reason)
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        # `read1` leaves an answer open that it has read to its end.
        answer.close()
        return answer.status, bytes(body)

    def _connect(self, deadline_ms: int) -> http.client.HTTPConnection:
        if self._connection is None:
            host, port = self.address.rsplit(":", 1)
            host = host.strip("[]")
            self._connection = (
                http.client.HTTPSConnection(host, int(port), context=self._tls)
                if self._tls
                else http.client.HTTPConnection(host, int(port))
            )
        self._limit(self._connection, deadline_ms)
        if self._connection.sock is None:
            self._connection.connect()
        return self._connection

    def _limit(self, connection: http.client.HTTPConnection, deadline_ms: int) -> None:
        """Let the next wait for the network end by the deadline."""
        left_ms = deadline_ms - self._clock.boottime_ms()
        if left_ms <= 0:
            raise TimeoutError(f"no answer within {self._timeout_ms} ms")
        connection.timeout = left_ms / 1000
        if connection.sock is not None:
            connection.sock.settimeout(left_ms / 1000)

    def _database_path(self, name: str) -> str:
        # TiDB takes paths apart after it has unquoted them.
        if "/" in name or name in (".", ".."):
            raise UnsupportedError("a database name that is no part of a path", self.address)
        return f"/schema/{quote(name, safe='')}"

    def _strange(self, path: str, error: Exception) -> SchemaSourceError:
        return SchemaSourceError(self.address, f"not TiDB's answer to {path}: {brief(error)}")


def _parse_url(url: str) -> tuple[str, bool]:
    """(`HOST:PORT`, whether by TLS)."""
    form = "TiDB's status API is given as http[s]://HOST:PORT"
    try:
        parts = urlsplit(url.removeprefix("tidb:"))
        port = parts.port
    except ValueError:
        raise OptionError("schema", form) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port is None:
        raise OptionError("schema", form)
    if parts.username or parts.password or parts.path.strip("/") or parts.query or parts.fragment:
        raise OptionError("schema", "a TiDB status URL has nothing but a host and a port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}", parts.scheme == "https"


def _read1(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read1(_CHUNK_BYTES)
    except (OverflowError, ValueError) as error:
        # http.client takes a chunk's size for a number whatever its sign and length.
        raise http.client.HTTPException("an answer in chunks of impossible sizes") from error


def _tls_context(files: TlsFiles | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if files is None else files.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if files is not None and files.cert is not None:
            context.load_cert_chain(files.cert, files.key, password=_no_password)
    except (OSError, ValueError) as error:
        raise OptionError("tls", f"a TLS file cannot be used: {error}") from error
    return context


def _no_password() -> str:
    """Keys with a password are refused: OpenSSL would ask for it at the terminal."""
    raise ValueError("the key has a password")


def _meta_key(info: Mapping[str, Any]) -> MetaKey:
    values = {int(v["start_ts"]): v.get("value") for v in info.get("values") or ()}
    writes, ends = [], dict[TimeStamp, TimeStamp]()
    for write in info.get("writes") or ():
        kind, start_ts = write.get("type", _PUT), int(write["start_ts"])
        if kind in (_PUT, _DELETE, _LOCK, _ROLLBACK) and not write.get("gc_fence"):
            commit_ts = 0 if kind == _ROLLBACK else int(write["commit_ts"])
            ends[TimeStamp(start_ts)] = TimeStamp(commit_ts)
        if kind in (_PUT, _DELETE):
            text = (write.get("short_value") or values[start_ts]) if kind == _PUT else None
            value = None if text is None else base64.b64decode(text, validate=True)
            writes.append(MetaWrite(TimeStamp(start_ts), TimeStamp(int(write["commit_ts"])), value))
    lock = info.get("lock")
    locked_ts = TimeStamp(int(lock["start_ts"])) if lock else None
    return MetaKey(tuple(sorted(writes, key=lambda w: w.commit_ts)), locked_ts, ends)
