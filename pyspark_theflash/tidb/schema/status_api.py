"""Client of TiDB's status API over HTTP: loaded tables, and versions of meta keys.

    /schema           databases             /mvcc/hex/KEY    all committed versions of a key and
    /schema/NAME      a database's tables                    its lock, from TiKV
    /ddl/history      finished DDL jobs, newest first
    /info/all         the TiDB servers of the cluster

Responses are JSON; their size is limited before they are parsed. Every call ends by its deadline.
Requests contain no secrets, and errors name only host and port.
"""

import base64
import http.client
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from pyspark_theflash.base.clock import Clock, Deadline
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
# INFORMATION_SCHEMA and similar databases, which have no meta keys.
_FIRST_MEMORY_DATABASE: Final = 1 << 62
_PUT, _DELETE, _LOCK, _ROLLBACK = range(4)
_JOBS_PAGE: Final = 100


class StatusApi:
    """Client of one TiDB server's status API; a `MetaReader`. For one thread.

    The connection is reused between calls, and opened again if the server has closed it.
    """

    def __init__(
        self, url: str, clock: Clock, tls: TlsFiles | None = None, timeout_ms: int = TIMEOUT_MS
    ) -> None:
        """Configure the client; the connection is opened by the first call.

        Args:
            url: `http[s]://HOST:PORT`, optionally with the prefix `tidb:`.
            tls: CA and client certificate for https; by default, the system's CA certificates.

        Raises:
            OptionError: The URL is invalid, or a TLS file cannot be used.
        """
        self.address, secure = _parse_url(url)
        self._tls = _tls_context(tls) if secure else None
        self._clock, self._timeout_ms = clock, timeout_ms
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def read_key(self, key: bytes) -> MetaKey:
        """Return all committed writes of a key, and its lock.

        Raises:
            ServiceUnavailableError: TiDB, or the TiKV behind it, does not respond.
            SchemaSourceError: The server is not a TiDB server.
        """
        path = f"/mvcc/hex/{key.hex()}"
        response = self.get(path)
        try:
            value = response["value"]
            tikv_error = value.get("region_error") or value.get("error")
            if tikv_error:
                raise ServiceUnavailableError(self.address, f"TiKV: {str(tikv_error)[:_EXCERPT]}")
            return _meta_key(value.get("info") or {})
        except SHAPE_ERRORS as error:
            raise self._unexpected(path, error) from error

    def list_databases(self) -> list[ListedDatabase]:
        """Return the databases and tables that this server has loaded.

        Raises:
            ServiceUnavailableError: TiDB does not respond, or a database was dropped meanwhile.
            SchemaSourceError: The server is not a TiDB server.
            UnsupportedError: A database name cannot be part of a URL path.
        """
        path = "/schema"
        try:
            databases = [(int(db["id"]), str(db["db_name"]["O"])) for db in self.get(path)]
            listed = []
            for database_id, name in databases:
                if database_id < _FIRST_MEMORY_DATABASE:
                    path = self._database_path(name)
                    tables = tuple(map(listed_table, self.get(path)))
                    listed.append(ListedDatabase(database_id, name, tables))
        except SHAPE_ERRORS as error:
            raise self._unexpected(path, error) from error
        return listed

    def finished_jobs(self, above: SchemaVersion) -> list[FinishedJob]:
        """Return the DDL jobs with a schema version above `above`, newest first.

        Raises:
            ServiceUnavailableError: TiDB, or the TiKV behind it, does not respond.
            SchemaSourceError: The server is not a TiDB server.
        """
        finished: list[FinishedJob] = []
        start = ""
        while True:
            path = f"/ddl/history?limit={_JOBS_PAGE}{start}"
            jobs = self.get(path) or []
            try:
                page = list(map(finished_job, jobs))
                oldest = min((int(job["id"]) for job in jobs), default=1)
            except SHAPE_ERRORS as error:
                raise self._unexpected(path, error) from error
            new = [job for job in page if job.version > above]
            finished += new
            # Concurrent jobs may end in a different order than they began.
            if oldest <= 1 or not new:
                return finished
            start = f"&start_job_id={oldest - 1}"

    def get(self, path: str) -> Any:  # noqa: ANN401 (JSON)
        """Return the JSON at a path.

        Raises:
            ServiceUnavailableError: There is no response in time, or it has an error status.
            SchemaSourceError: The path does not exist, or the response is not JSON.
        """
        try:
            status, body = self._request(path, Deadline(self._clock, self._timeout_ms))
        except ssl.SSLCertVerificationError as error:
            raise SchemaSourceError(self.address, f"TLS: {error.verify_message}") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise ServiceUnavailableError(
                self.address, str(error) or type(error).__name__
            ) from error
        if status == http.HTTPStatus.NOT_FOUND:
            raise SchemaSourceError(self.address, f"not a TiDB status port: no path {path}")
        if status != http.HTTPStatus.OK:
            reason = body[:_EXCERPT].decode(errors="replace")
            raise ServiceUnavailableError(self.address, f"HTTP status {status}: {reason}")
        try:
            return load(body)
        except SHAPE_ERRORS as error:
            raise self._unexpected(path, error) from error

    def _request(self, path: str, deadline: Deadline) -> tuple[int, bytes]:
        """Send a request; repeat it once on a new connection if the reused one is closed."""
        is_old = self._connection is not None
        try:
            return self._exchange(path, deadline)
        except (http.client.RemoteDisconnected, ConnectionError):
            self.close()
            if not is_old:
                raise
        return self._exchange(path, deadline)

    def _exchange(self, path: str, deadline: Deadline) -> tuple[int, bytes]:
        connection = self._connect(deadline)
        connection.request("GET", path)
        response = connection.getresponse()
        body = bytearray()
        while True:
            self._limit(connection, deadline)
            chunk = _read1(response)
            if not chunk:
                break
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                self.close()
                reason = f"a response of more than {MAX_ANSWER_BYTES} bytes to {path}"
                raise SchemaSourceError(self.address, reason)
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        # `read1` does not close a response that is read to its end.
        response.close()
        return response.status, bytes(body)

    def _connect(self, deadline: Deadline) -> http.client.HTTPConnection:
        if self._connection is None:
            host, port = self.address.rsplit(":", 1)
            host = host.strip("[]")
            self._connection = (
                http.client.HTTPSConnection(host, int(port), context=self._tls)
                if self._tls
                else http.client.HTTPConnection(host, int(port))
            )
        self._limit(self._connection, deadline)
        if self._connection.sock is None:
            self._connection.connect()
        return self._connection

    def _limit(self, connection: http.client.HTTPConnection, deadline: Deadline) -> None:
        """Set the socket timeout so that the next network operation ends by the deadline."""
        left_ms = deadline.left_ms()
        if not left_ms:
            raise TimeoutError(f"no response within {deadline.timeout_ms} ms")
        connection.timeout = left_ms / 1000
        if connection.sock is not None:
            connection.sock.settimeout(left_ms / 1000)

    def _database_path(self, name: str) -> str:
        # TiDB splits paths after unquoting them.
        if "/" in name or name in (".", ".."):
            raise UnsupportedError("a database name that cannot be part of a URL", self.address)
        return f"/schema/{quote(name, safe='')}"

    def _unexpected(self, path: str, error: Exception) -> SchemaSourceError:
        return SchemaSourceError(self.address, f"unexpected response to {path}: {brief(error)}")


def _parse_url(url: str) -> tuple[str, bool]:
    """Return (`HOST:PORT`, whether to use TLS)."""
    form = "expected TiDB's status API as http[s]://HOST:PORT"
    try:
        parts = urlsplit(url.removeprefix("tidb:"))
        port = parts.port
    except ValueError:
        raise OptionError("schema", form) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port is None:
        raise OptionError("schema", form)
    if parts.username or parts.password or parts.path.strip("/") or parts.query or parts.fragment:
        raise OptionError("schema", "expected a TiDB status URL with only a host and a port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}", parts.scheme == "https"


def _read1(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(_CHUNK_BYTES)
    except (OverflowError, ValueError) as error:
        # http.client accepts chunk sizes of any sign and length.
        raise http.client.HTTPException("invalid chunk size") from error


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
    """Reject keys with a password: OpenSSL would prompt for it on the terminal."""
    raise ValueError("the key has a password")


def _meta_key(info: Mapping[str, Any]) -> MetaKey:
    values = {int(v["start_ts"]): v.get("value") for v in info.get("values") or ()}
    writes, ends = [], dict[TimeStamp, TimeStamp]()
    records = info.get("writes") or ()
    commits = {0, *(int(write["commit_ts"]) for write in records)}
    for write in records:
        kind, start_ts = write.get("type", _PUT), int(write["start_ts"])
        # If the version at the fence was collected, this one is not valid: see `cluster.write`.
        if int(write.get("gc_fence", 0)) not in commits:
            continue
        if kind in (_PUT, _DELETE, _LOCK, _ROLLBACK):
            commit_ts = 0 if kind == _ROLLBACK else int(write["commit_ts"])
            ends[TimeStamp(start_ts)] = TimeStamp(commit_ts)
        if kind in (_PUT, _DELETE):
            text = (write.get("short_value") or values[start_ts]) if kind == _PUT else None
            value = None if text is None else base64.b64decode(text, validate=True)
            writes.append(MetaWrite(TimeStamp(start_ts), TimeStamp(int(write["commit_ts"])), value))
    lock = info.get("lock")
    locked_ts = TimeStamp(int(lock["start_ts"])) if lock else None
    return MetaKey(tuple(sorted(writes, key=lambda w: w.commit_ts)), locked_ts, ends)
