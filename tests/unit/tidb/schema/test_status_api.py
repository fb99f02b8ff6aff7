"""TiDB's status API: requests, and handling of every kind of response."""

import base64
import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    OptionError,
    SchemaSourceError,
    ServiceUnavailableError,
    UnsupportedError,
)
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.base.types import SchemaVersion, TableID, TimeStamp
from pyspark_theflash.tidb.schema import status_api
from pyspark_theflash.tidb.schema.meta_key import (
    FinishedJob,
    ListedDatabase,
    ListedTable,
    MetaKey,
    MetaWrite,
    database_key,
    table_key,
)
from pyspark_theflash.tidb.schema.status_api import StatusApi
from tests.support.golden_vectors import live_meta_keys


class _Handler(BaseHTTPRequestHandler):
    """Like TiDB, it keeps connections open."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.server.ports.add(self.client_address[1])
        self.server.answer(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A server on loopback, whose responses are those of `answer`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.paths: list[str] = []
        self.ports: set[int] = set()
        self.answer: Callable[[BaseHTTPRequestHandler], None] = _reply({})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def _reply(
    answer: object, status: int = 200, size: int | None = None
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Respond with JSON, or with a text."""
    body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if size is None else size))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = size is not None

    return reply


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def api(server: Server) -> Iterator[StatusApi]:
    api = StatusApi(server.url, SystemClock(), timeout_ms=5000)
    yield api
    api.close()


def test_keys_are_those_of_tidb() -> None:
    keys = live_meta_keys()
    assert {database_key(1), table_key(1, TableID(4)), table_key(1, TableID(10))} <= keys


def test_a_keys_writes_come_oldest_first(server: Server, api: StatusApi) -> None:
    """A short value is in the write, a long one beside it; rollbacks and locks are not writes."""
    short, long = (base64.b64encode(b).decode() for b in (b"short", b"long"))
    writes = [
        {"type": 3, "start_ts": 60, "commit_ts": 60},
        {"type": 1, "start_ts": 50, "commit_ts": 51},
        {"start_ts": 30, "commit_ts": 31},
        {"type": 2, "start_ts": 20, "commit_ts": 21},
        {"start_ts": 10, "commit_ts": 11, "short_value": short},
    ]
    info = {"writes": writes, "values": [{"start_ts": 30, "value": long}]}
    server.answer = _reply({"key": "00", "value": {"info": info}})
    assert api.read_key(b"\x00\xff") == MetaKey(
        (
            MetaWrite(TimeStamp(10), TimeStamp(11), b"short"),
            MetaWrite(TimeStamp(30), TimeStamp(31), b"long"),
            MetaWrite(TimeStamp(50), TimeStamp(51), None),
        ),
        ends={
            TimeStamp(start_ts): TimeStamp(commit_ts)
            for start_ts, commit_ts in ((10, 11), (20, 21), (30, 31), (50, 51), (60, 0))
        },
    )
    assert server.paths == ["/mvcc/hex/00ff"]


@pytest.mark.parametrize(("fence", "is_valid"), [(0, True), (21, True), (15, False)])
def test_a_rewritten_record(server: Server, api: StatusApi, fence: int, is_valid: bool) -> None:
    """It is valid unless the version at its fence was collected."""
    short = base64.b64encode(b"short").decode()
    writes = [
        {"start_ts": 20, "commit_ts": 21, "short_value": short},
        {"start_ts": 10, "commit_ts": 11, "short_value": short, "gc_fence": fence},
    ]
    server.answer = _reply({"key": "00", "value": {"info": {"writes": writes}}})
    key = api.read_key(b"\x00")
    expected = [11, 21] if is_valid else [21]
    assert [write.commit_ts for write in key.writes] == expected
    assert list(key.ends.values()) == expected[::-1]


def test_a_key_without_writes_and_with_a_lock(server: Server, api: StatusApi) -> None:
    server.answer = _reply({"value": {"info": {}}})
    assert api.read_key(b"k") == MetaKey(())
    server.answer = _reply({"value": {"info": {"lock": {"type": 0, "start_ts": 7}}}})
    assert api.read_key(b"k") == MetaKey((), TimeStamp(7))


@pytest.mark.parametrize("trouble", [{"region_error": {"message": "no"}}, {"error": "no"}])
def test_trouble_behind_tidb_is_to_be_tried_again(
    server: Server, api: StatusApi, trouble: dict
) -> None:
    server.answer = _reply({"value": trouble})
    with pytest.raises(ServiceUnavailableError, match=r"is not available: TiKV: .*no"):
        api.read_key(b"k")


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        {"value": []},
        {"value": {"info": {"writes": [{}]}}},
        {"value": {"info": {"writes": [{"start_ts": 1, "commit_ts": 2}]}}},
        {"value": {"info": {"writes": [{"start_ts": 1, "commit_ts": 2, "short_value": "?"}]}}},
        {"value": {"info": {"lock": 5}}},
        "[" * 100_000,
        "<html>",
    ],
)
def test_refuses_what_no_tidb_answers(server: Server, api: StatusApi, answer: object) -> None:
    server.answer = _reply(answer)
    with pytest.raises(SchemaSourceError, match="unexpected response to /mvcc/hex/6b"):
        api.read_key(b"k")


def test_lists_databases_but_those_in_memory(server: Server, api: StatusApi) -> None:
    answers = {
        "/schema": [
            {"id": 2, "db_name": {"O": "A b%ü"}},
            {"id": 3, "db_name": {"O": "empty"}},
            {"id": (1 << 62) + 1, "db_name": {"O": "INFORMATION_SCHEMA"}},
        ],
        "/schema/A%20b%25%C3%BC": [
            {"id": 5, "state": 5, "update_timestamp": 70},
            {"id": 6, "state": 2, "update_timestamp": 71},
        ],
        "/schema/empty": [],
    }
    server.answer = lambda handler: _reply(answers[handler.path])(handler)
    tables = (
        ListedTable(TableID(5), True, TimeStamp(70)),
        ListedTable(TableID(6), False, TimeStamp(71)),
    )
    assert api.list_databases() == [
        ListedDatabase(2, "A b%ü", tables),
        ListedDatabase(3, "empty", ()),
    ]
    server.answer = _reply([{"id": 2}])
    with pytest.raises(SchemaSourceError, match="unexpected response to /schema"):
        api.list_databases()


@pytest.mark.parametrize("name", ["a/b", "..", "."])
def test_refuses_a_database_that_it_cannot_ask_for(
    server: Server, api: StatusApi, name: str
) -> None:
    server.answer = _reply([{"id": 2, "db_name": {"O": name}}])
    with pytest.raises(UnsupportedError, match="database name"):
        api.list_databases()


def _job(job_id: int, version: int, **left: object) -> dict[str, object]:
    binlog = {"SchemaVersion": version, "DBInfo": None, "TableInfo": None} | left
    return {"id": job_id, "schema_id": 2, "schema_name": "shop", "binlog": binlog}


def test_finished_jobs_come_page_by_page(server: Server, api: StatusApi) -> None:
    u, v = {"id": 7, "name": {"O": "u"}}, {"id": 8, "name": {"O": "v"}}
    pages = {
        "/ddl/history?limit=100": [
            _job(90, 33, TableInfo=v, MultipleTableInfos=[u, v]),
            _job(80, 0, TableInfo=u),
        ],
        "/ddl/history?limit=100&start_job_id=79": [
            _job(79, 32, DBInfo={"db_name": {"O": "Other"}}, MultipleTableInfos=None),
        ],
        "/ddl/history?limit=100&start_job_id=78": [
            _job(78, 31, TableInfo=u),
            {"id": 77, "schema_id": 1, "schema_name": "mysql", "binlog": None},
        ],
    }
    server.answer = lambda handler: _reply(pages[handler.path])(handler)
    assert api.finished_jobs(SchemaVersion(31)) == [
        FinishedJob(SchemaVersion(33), 2, "shop", {TableID(7): u, TableID(8): v}),
        FinishedJob(SchemaVersion(32), 2, "Other", {}),
    ]
    server.answer = _reply(None)
    assert api.finished_jobs(SchemaVersion(0)) == []
    server.answer = _reply([{"id": 5}])
    with pytest.raises(SchemaSourceError, match="unexpected response to /ddl/history"):
        api.finished_jobs(SchemaVersion(0))


@pytest.mark.parametrize("size", [b"-9", b"-99999999999999999999", b"x", b"ffffffffffffffffffff"])
def test_chunks_of_impossible_sizes(server: Server, api: StatusApi, size: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head + size + b"\r\n{}\r\n0\r\n\r\n")
        handler.close_connection = True

    server.answer = answer
    with pytest.raises(ServiceUnavailableError):
        api.read_key(b"k")


def test_another_server_is_no_tidb(server: Server, api: StatusApi) -> None:
    server.answer = _reply("404 page not found", 404)
    with pytest.raises(SchemaSourceError, match="not a TiDB status port") as raised:
        api.read_key(b"k")
    assert not raised.value.retryable


@pytest.mark.parametrize("status", [301, 400, 500, 503])
def test_what_tidb_cannot_do_now_is_to_be_tried_again(
    server: Server, api: StatusApi, status: int
) -> None:
    server.answer = _reply("[tikv:9005]Region is unavailable" + "x" * 1000, status)
    with pytest.raises(
        ServiceUnavailableError, match=f"{status}: .*Region is unavailable"
    ) as raised:
        api.read_key(b"k")
    assert raised.value.retryable
    assert len(str(raised.value)) < 400


def test_one_connection_serves_all_calls_and_is_made_anew(server: Server, api: StatusApi) -> None:
    for _ in range(3):
        assert api.get("/status") == {}
    assert len(server.ports) == 1
    closing = _reply({})

    def close_after(handler: BaseHTTPRequestHandler) -> None:
        closing(handler)
        handler.close_connection = True

    server.answer = close_after
    for _ in range(3):
        assert api.get("/status") == {}
    assert len(server.ports) == 3


def test_nobody_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        api = StatusApi(f"http://127.0.0.1:{unused.getsockname()[1]}", SystemClock())
        with pytest.raises(ServiceUnavailableError, match="refused"):
            api.get("/status")


def test_a_server_that_says_nothing_is_given_up(server: Server) -> None:
    over = threading.Event()
    server.answer = lambda handler: over.wait(10) and None
    _assert_gives_up(server, over)


def test_a_server_that_never_ends_is_given_up(server: Server) -> None:
    over = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not over.wait(0.01):
            handler.wfile.write(b" ")
        handler.close_connection = True

    server.answer = drip
    _assert_gives_up(server, over)


def _assert_gives_up(server: Server, over: threading.Event) -> None:
    api = StatusApi(server.url, SystemClock(), timeout_ms=150)
    try:
        with pytest.raises(ServiceUnavailableError, match=r"timed out|no response within 150 ms"):
            api.get("/status")
    finally:
        over.set()
        api.close()


def test_an_answer_that_is_cut_is_none(server: Server, api: StatusApi) -> None:
    server.answer = _reply("[1, 2]", size=7)
    with pytest.raises(ServiceUnavailableError, match=r"1 more expected|IncompleteRead"):
        api.get("/status")


def test_large_answers_are_not_read_to_their_end(
    server: Server, api: StatusApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_api, "MAX_ANSWER_BYTES", 1000)
    server.answer = _reply([0] * 300)
    assert len(api.get("/status")) == 300
    server.answer = _reply([0] * 500)
    with pytest.raises(SchemaSourceError, match="more than 1000 bytes to /status"):
        api.get("/status")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("tidb:http://tidb-1:10080", "tidb-1:10080"),
        ("http://127.0.0.1:1/", "127.0.0.1:1"),
        ("tidb:https://[::1]:10080", "[::1]:10080"),
    ],
)
def test_takes_a_host_and_a_port(url: str, address: str) -> None:
    assert StatusApi(url, SystemClock()).address == address


@pytest.mark.parametrize(
    "url",
    [
        "tidb-1:10080",
        "http://tidb-1",
        "http://tidb-1:x",
        "http://tidb-1:99999",
        "http://[tidb-1:1",
        "ftp://tidb-1:1",
        "http://root:secret@tidb-1:1",
        "http://tidb-1:1/schema",
        "http://tidb-1:1?a",
        "",
    ],
)
def test_refuses_other_urls(url: str) -> None:
    with pytest.raises(OptionError) as raised:
        StatusApi(url, SystemClock())
    assert "secret" not in str(raised.value)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a folder with `key.pem` and `cert.pem`, a self-signed certificate of 127.0.0.1."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2"]
    command += ["-subj", "/CN=tidb", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def secure(server: Server, certificate: Path) -> Server:
    """The server over TLS, which requests a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    context.load_verify_locations(certificate / "cert.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    return server


def _secure_api(server: Server, tls: TlsFiles | None) -> StatusApi:
    url = server.url.replace("http:", "https:")
    return StatusApi(url, SystemClock(), tls, timeout_ms=2000)


def test_mutual_tls(secure: Server, certificate: Path) -> None:
    pem, key = certificate / "cert.pem", certificate / "key.pem"
    api = _secure_api(secure, TlsFiles(pem, pem, key))
    assert api.get("/status") == {}
    api.close()


def test_a_certificate_that_is_not_trusted(secure: Server) -> None:
    with pytest.raises(SchemaSourceError, match=r"TLS: self.signed certificate"):
        _secure_api(secure, None).get("/status")


def test_a_server_that_wants_to_know_who_asks(secure: Server, certificate: Path) -> None:
    api = _secure_api(secure, TlsFiles(certificate / "cert.pem"))
    with pytest.raises(ServiceUnavailableError):
        api.get("/status")


def test_tls_files_that_cannot_be_used(tmp_path: Path, certificate: Path) -> None:
    missing, text = tmp_path / "missing.pem", tmp_path / "text.pem"
    text.write_text("no key")
    for files in (
        TlsFiles(missing),
        TlsFiles(text),
        TlsFiles(certificate / "cert.pem", cert=certificate / "cert.pem", key=text),
    ):
        with pytest.raises(OptionError, match="TLS file"):
            StatusApi("https://tidb:1", SystemClock(), files)
