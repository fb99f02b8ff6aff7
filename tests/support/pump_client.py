"""TiDB's side of a pump: writes binlogs to it."""

from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.net.access import Access
from pyspark_theflash.net.channel import grpc, open_channel
from pyspark_theflash.replication.pump.wire import WriteBinlogRequest, decode_write_response

CLUSTER = 7_480_000_000_000_000_001
INSECURE = Access(is_insecure=True)
WRITE_BINLOG = "/binlog.Pump/WriteBinlog"


class PumpWriter:
    """One connection to a pump."""

    def __init__(self, address: str, tls: TlsFiles | None = None, cluster_id: int = CLUSTER):
        self._cluster_id = cluster_id
        self._channel = open_channel(address, tls, max_message_bytes=-1)
        self._call = self._channel.unary_unary(WRITE_BINLOG)

    def __enter__(self) -> "PumpWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def write(self, payload: bytes, timeout_s: float = 20) -> str:
        """Return the pump's error text, "" if the binlog is durable. Raises `grpc.RpcError`."""
        request = WriteBinlogRequest(self._cluster_id, payload).to_bytes()
        answer = self._call(request, timeout=timeout_s, wait_for_ready=True)
        return decode_write_response(answer)


RpcError = grpc.RpcError
