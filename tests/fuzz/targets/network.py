"""Responses of servers, requests of clients, and the addresses of both."""

from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import PDRefusedError
from pyspark_theflash.cli.jobs import metrics
from pyspark_theflash.cluster import wire as pd_wire
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.net.access import Access
from pyspark_theflash.net.listen import listen
from pyspark_theflash.replication.pump import wire
from pyspark_theflash.replication.source.pump import PullLimits, PumpSource, parse_position
from pyspark_theflash.replication.source.registry import PUMPS, PumpRegistry
from pyspark_theflash.replication.source.wire import decode_entities, is_probe
from pyspark_theflash.tidb.protocol._generated.etcd import kv_pb2
from pyspark_theflash.tidb.protocol._generated.pd import pdpb_pb2
from pyspark_theflash.tidb.protocol._generated.tipb import pump_pb2
from pyspark_theflash.tidb.schema import status_api
from tests.fuzz.mutate import TEXT_WORDS, bytes_like, json_like
from tests.fuzz.run import Target
from tests.fuzz.targets.captured import steps


def write_request(_: Path) -> Target:
    """Requests to our pump, of TiDB or any other caller."""
    payloads = [p for step in steps()[:20] for p in step.payloads]
    seeds = [wire.WriteBinlogRequest(7, payload).to_bytes() for payload in payloads]

    def parse(data: bytes) -> None:
        request = wire.WriteBinlogRequest.from_bytes(data)
        if not is_probe(request.payload):
            decode_entities(request.payload, "fuzz", 0)

    return Target(seeds, bytes_like(seeds), parse)


def pull_request(_: Path) -> Target:
    seeds = [wire.PullRequest(7, 3, 90).to_bytes(), wire.PullRequest(2**64 - 1, 0, 0).to_bytes()]
    return Target(seeds, bytes_like(seeds), wire.PullRequest.from_bytes)


def write_response(_: Path) -> Target:
    seeds = [wire.encode_write_response("no room é"), wire.encode_write_response("")]
    return Target(seeds, bytes_like(seeds), wire.decode_write_response)


def pulled_binlog(_: Path) -> Target:
    """Messages of a pump, decoded to entities."""
    payloads = [p for step in steps()[:20] for p in step.payloads]
    seeds = [wire.PulledBinlog(3, 99, payload, merged=False).to_bytes() for payload in payloads]
    for payload in payloads:
        meta = pump_pb2.Meta(commitTs=77)
        entity = pump_pb2.Entity(payload=payload, meta=meta)
        seeds.append(pump_pb2.PullBinlogResp(entity=entity).SerializeToString())

    def parse(data: bytes) -> None:
        for _ in _OnePull(data).entities("3:90"):
            pass

    return Target(seeds, bytes_like(seeds), parse)


def pump_position(_: Path) -> Target:
    seeds = [b"0:470619616527253505", b"3:99"]

    def parse(data: bytes) -> None:
        for _ in _OnePull(b"").entities(data.decode("utf-8", "replace")):
            pass

    return Target([], bytes_like(seeds, TEXT_WORDS), parse)


class _OnePull(PumpSource):
    """A pump that sends one message."""

    def __init__(self, data: bytes) -> None:
        super().__init__("unix:fuzz", 7, clock=SystemClock(), limits=PullLimits(deadline_ms=0))
        self._answers = [data]

    def _open(self, connect_ms: int) -> Any:
        parse_position(self._received)
        self._stream: Any = self
        return self

    def next(self, timeout_ms: int) -> Any:
        return wire.PulledBinlog.from_bytes(self._answers.pop()) if self._answers else None

    def close(self) -> None:
        self._stream = None


def pd_answer(_: Path) -> Target:
    """Answers every request to PD with the same bytes."""
    header = pdpb_pb2.ResponseHeader(cluster_id=7)
    error = pdpb_pb2.ResponseHeader(cluster_id=7, error=pdpb_pb2.Error(type=1, message="no"))
    leader = pdpb_pb2.Member(name="a", client_urls=["http://h:2379"])
    seeds = [
        pdpb_pb2.GetMembersResponse(header=header, leader=leader),
        pdpb_pb2.GetMembersResponse(header=error),
        pdpb_pb2.TsoResponse(
            header=header, count=1, timestamp=pdpb_pb2.Timestamp(physical=1 << 40, logical=5)
        ),
        pdpb_pb2.GetGCSafePointResponse(header=header, safe_point=9),
    ]
    texts = [message.SerializeToString() for message in seeds]

    def parse(data: bytes) -> None:
        pd = _AnsweringPD(data)
        pd.ask(pd_wire.decode_members, data)
        pd.ask(pd_wire.decode_tso, data)
        pd.ask(pd_wire.decode_safe_point, data)
        pd.cluster_id()

    return Target([texts[0]], bytes_like(texts, (*TEXT_WORDS, b"https://", b"x://")), parse)


class _AnsweringPD(PDClient):
    """A PD that answers everything with the same bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(["h:1"], clock=SystemClock(), timeout_ms=0)
        self._data, self._channels = data, self

    def ask(self, decode: Callable[[bytes], object], data: bytes) -> None:
        with suppress(PDRefusedError):
            self._decoded(decode, data)

    def get(self, address: str) -> Any:
        return self

    def drop(self, address: str) -> None:
        pass

    def unary_unary(self, method: str) -> Callable[..., bytes]:
        return lambda request, timeout: self._data


def etcd_answer(_: Path) -> Target:
    """Registrations of pumps."""
    status = b'{"nodeId": "a", "host": "h:1", "state": "offline"}'
    answer = kv_pb2.RangeResponse(
        kvs=[
            kv_pb2.KeyValue(key=PUMPS.encode() + b"a", value=status),
            kv_pb2.KeyValue(key=PUMPS.encode() + b"b", value=status),
        ]
    )
    seeds = [answer.SerializeToString(), kv_pb2.RangeResponse(more=True).SerializeToString()]

    def parse(data: bytes) -> None:
        PumpRegistry(_Listed(pd_wire.decode_range(data)), "b", "h:1").check_alone()

    return Target([seeds[0]], bytes_like(seeds), parse)


def pump_status(_: Path) -> Target:
    """The JSON of one pump."""
    documents = [{"nodeId": "a", "host": "h:1", "state": "offline", "isAlive": False}]
    seeds = [b'{"nodeId": "a", "host": "h:1", "state": "offline"}']

    def parse(data: bytes) -> None:
        PumpRegistry(_Listed({PUMPS + "a": data}), "b", "h:1").check_alone()

    return Target(seeds, json_like(documents), parse)


class _Listed(PDClient):
    """A PD with these keys."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        super().__init__(["h:1"], clock=SystemClock())
        self._keys = keys

    def list_keys(self, prefix: str, limit: int) -> dict[str, bytes]:
        return self._keys


def http_answer(_: Path) -> Target:
    """Responses of TiDB's status port."""
    body = b'{"a": 1}'
    seeds = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + body,
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n',
        b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n" + body,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + body,
    ]
    words = (*TEXT_WORDS, b"\r\n", b"\r\n ", b"HTTP/1.1 ", b"Content-Length: ", b"x" * 70_000)
    return Target(seeds, bytes_like(seeds, words), lambda data: _Served(data).get("/x"))


class _Served(status_api.StatusApi):
    """Reads its answer from these bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__("http://fuzz:1", SystemClock())
        self._data = data

    def _connect(self, deadline_ms: int) -> HTTPConnection:
        self._connection = HTTPConnection("fuzz", 1)
        self._connection.sock = cast("Any", _Socket(self._data))
        return self._connection


class _Socket:
    """A connection of which the other end has sent this and hung up."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object, **__: object) -> BinaryIO:
        return BytesIO(self._data)

    def sendall(self, data: bytes) -> None:
        pass

    def settimeout(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


def metrics_request(_: Path) -> Target:
    seeds = [
        b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"HEAD /metrics HTTP/1.1\r\nExpect: 100-continue\r\nConnection: keep-alive\r\n\r\n" * 2,
        b"GET /metrics\r\n",
    ]
    words = (*TEXT_WORDS, b"\r\n", b"\r\n ", b"HTTP/1.1", b"PUT ", b"//", b"x" * 70_000)
    server = metrics.MetricsServer("127.0.0.1:0", lambda: {"rows_total": 1.0}, "writer")
    handler = cast("Any", server._server.RequestHandlerClass)
    server.close()

    def parse(data: bytes) -> None:
        handler(_Socket(data), ("127.0.0.1", 1), None)

    return Target(seeds, bytes_like(seeds, words), parse)


def address(_: Path) -> Target:
    """Addresses of servers and listeners; the first byte selects the parser."""
    takers: list[Callable[[str], object]] = [
        metrics._loopback,
        status_api._parse_url,
        lambda text: listen(cast("Any", _NoServer()), text, Access(is_insecure=True)),
    ]
    forms = [b"127.0.0.1:0", b"[::1]:9000", b"localhost:1", b"http://h:1", b"h%eth:65535"]
    seeds = [bytes([n]) + form for n in range(len(takers)) for form in forms]

    def parse(data: bytes) -> None:
        text = data[1:].decode("utf-8", "surrogateescape")
        takers[data[0] % len(takers) if data else 0](text)

    words = (
        *TEXT_WORDS,
        b"[",
        b"]",
        b"%",
        b"/",
        b"@",
        b"https://",
        b"::1",
        b"\xff",
        b"\xe2\x84\x80",
    )
    return Target([b"\0localhost:1", b"\1http://h:1"], bytes_like(seeds, words), parse)


class _NoServer:
    """Binds nothing."""

    def add_insecure_port(self, address: str) -> int:
        return 1
