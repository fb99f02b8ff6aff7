"""A client of PD: timestamps, the GC safe point, and its embedded etcd, where pumps register.

Every member of PD reports the leader, and only the leader allocates timestamps. A failed call is
retried on the current leader until its deadline.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from google.protobuf.message import Message

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import (
    ClusterMismatchError,
    CodecError,
    OptionError,
    PDRefusedError,
    PDUnavailableError,
)
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster import wire
from pyspark_theflash.net.channel import Channels, describe, grpc, is_transient

R = TypeVar("R")

TIMEOUT_MS: Final = 10_000
_MEMBERS_MS: Final = 3000
_BACKOFF_MS: Final = 100
_SILENT_MS: Final = 3000
"""Duration of retries after which a call logs that it waits."""
_MESSAGE_BYTES: Final = 4 << 20
_KEEPALIVE_MS: Final = 20_000
_log = logging.getLogger(__name__)


class PDClient:
    """A client of one cluster's PD. Thread-safe; calls are serialized.

    Every method raises `PDUnavailableError` after its deadline, `PDRefusedError` if PD returns an
    error, and `ClusterMismatchError` if the members now belong to another cluster.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        tls: TlsFiles | None = None,
        *,
        clock: Clock,
        timeout_ms: int = TIMEOUT_MS,
    ) -> None:
        """Create a client, which connects on the first call.

        `addresses` are client URLs of members, HOST:PORT with or without a scheme; one is enough.
        Raises `OptionError` if an address is invalid, or needs certificates.
        """
        if not addresses:
            raise OptionError("pd", "contains no address")
        self._addresses = tuple(_address(url, tls) for url in addresses)
        self._tls, self._clock, self._timeout_ms = tls, clock, timeout_ms
        self._mutex = threading.Lock()
        self._channels = Channels(tls, _MESSAGE_BYTES, _KEEPALIVE_MS)
        self._leader: str | None = None
        self._cluster_id: int | None = None

    def __enter__(self) -> "PDClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        with self._mutex:
            self._channels.close()

    def cluster_id(self) -> int:
        """Return the id of the cluster, which its TiDB servers send with their binlogs."""
        return self._on_leader(lambda _channel, cluster_id, _timeout_s: cluster_id)

    def tso(self, timeout_ms: int | None = None) -> TimeStamp:
        """Return a timestamp greater than all that PD has allocated before this call."""

        def request(channel: grpc.Channel, cluster_id: int, timeout_s: float) -> bytes:
            requests = iter([wire.encode_tso_request(cluster_id)])
            call = channel.stream_stream(wire.TSO)(requests, timeout=timeout_s)
            try:
                return bytes(next(call))
            except StopIteration:
                raise CodecError("PD's timestamp", "the stream ended without one") from None
            finally:
                call.cancel()

        return self._decoded(wire.decode_tso, self._on_leader(request, timeout_ms))

    def gc_safe_point(self) -> TimeStamp:
        """Return the safe point, below which TiKV may have removed old versions."""
        request = wire.SafePointRequest()
        return self.call(wire.GET_GC_SAFE_POINT, request, wire.decode_safe_point)

    def call(
        self,
        method: str,
        request: Message,
        decode: Callable[[bytes], R],
        timeout_ms: int | None = None,
    ) -> R:
        """Make any other unary call. The request's header, if it has one, is filled in.

        `decode` decodes the response, and raises `CodecError` if it contains an error.
        """

        def send(channel: grpc.Channel, cluster_id: int, timeout_s: float) -> bytes:
            return _unary(channel, method, wire.encode_request(request, cluster_id), timeout_s)

        return self._decoded(decode, self._on_leader(send, timeout_ms))

    def put_key(self, key: str, value: bytes) -> None:
        """Set a key of etcd."""
        self.call(wire.ETCD_PUT, wire.put_request(key, value), lambda _: None)

    def list_keys(self, prefix: str, limit: int) -> dict[str, bytes]:
        """Return etcd's keys that begin with `prefix`, at most `limit`, with their values."""
        return self.call(wire.ETCD_RANGE, wire.range_request(prefix, limit), wire.decode_range)

    def keys_at(self, prefix: str, limit: int) -> tuple[int, dict[str, bytes]]:
        """Return etcd's revision, and the keys at it as `list_keys`."""
        return self.call(wire.ETCD_RANGE, wire.range_request(prefix, limit), wire.decode_revision)

    def open_watch(self, prefix: str, revision: int, ended: threading.Event) -> grpc.Call:
        """Return a call that yields the changes of etcd's keys with a prefix from `revision` on.

        Its messages are for `wire.decode_key_changes`. The caller cancels it and sets `ended`.
        """

        def requests() -> Iterator[bytes]:
            yield wire.encode_watch_request(prefix, revision)
            ended.wait()

        def send(channel: grpc.Channel, _cluster_id: int, _timeout_s: float) -> grpc.Call:
            return channel.stream_stream(wire.ETCD_WATCH)(requests())

        return self._on_leader(send)

    def _decoded(self, decode: Callable[[bytes], R], data: bytes) -> R:
        try:
            return decode(data)
        except CodecError as error:
            raise PDRefusedError(self._name, str(error)) from error

    @property
    def _name(self) -> str:
        return f"PD at {self._leader or ', '.join(self._addresses)}"

    def _on_leader(
        self, call: Callable[[grpc.Channel, int, float], R], timeout_ms: int | None = None
    ) -> R:
        """Make a call with the leader's channel, the cluster id and a timeout in seconds."""
        timeout_ms = self._timeout_ms if timeout_ms is None else min(timeout_ms, self._timeout_ms)
        deadline, is_logged = Deadline(self._clock, timeout_ms), False
        if not self._mutex.acquire(timeout=timeout_ms / 1000):
            raise PDUnavailableError(self._name, "timed out waiting for other calls")
        try:
            while True:
                try:
                    leader, cluster_id = self._find_leader(deadline)
                    left_s = max(1, deadline.left_ms()) / 1000
                    return call(self._channels.get(leader), cluster_id, left_s)
                except grpc.RpcError as error:
                    # PD returns UNKNOWN if it is not the leader, or not yet.
                    if not is_transient(error) and error.code() is not grpc.StatusCode.UNKNOWN:
                        raise PDRefusedError(self._name, describe(error)) from error
                    reason = describe(error)
                    self._forget_leader()
                except PDUnavailableError as error:
                    reason = error.reason
                left_ms = deadline.left_ms()
                if left_ms <= _BACKOFF_MS:
                    raise PDUnavailableError(self._name, reason)
                if not is_logged and timeout_ms - left_ms >= _SILENT_MS:
                    left_s = left_ms / 1000
                    _log.warning("waiting up to %.0f s for %s: %s", left_s, self._name, reason)
                    is_logged = True
                self._clock.sleep_ms(_BACKOFF_MS)
        finally:
            self._mutex.release()

    def _find_leader(self, deadline: Deadline) -> tuple[str, int]:
        """Return the leader's address and the cluster id. Raises `PDUnavailableError`."""
        if self._leader is not None and self._cluster_id is not None:
            return self._leader, self._cluster_id
        reasons = []
        for address in self._addresses:
            left_ms = max(1, min(_MEMBERS_MS, deadline.left_ms()))
            try:
                members = self._members(address, left_ms / 1000)
            except grpc.RpcError as error:
                self._channels.drop(address)
                reasons.append(f"{address}: {describe(error)}")
                continue
            if self._cluster_id not in (None, members.cluster_id):
                raise ClusterMismatchError(f"PD at {address}", members.cluster_id, self._cluster_id)
            if members.leader_urls:
                self._cluster_id = members.cluster_id
                self._leader = _address(members.leader_urls[0], self._tls)
                return self._leader, self._cluster_id
            reasons.append(f"{address}: no leader")
        raise PDUnavailableError(self._name, "; ".join(reasons))

    def _members(self, address: str, timeout_s: float) -> wire.Members:
        request = wire.encode_members_request()
        answer = _unary(self._channels.get(address), wire.GET_MEMBERS, request, timeout_s)
        return self._decoded(wire.decode_members, answer)

    def _forget_leader(self) -> None:
        if self._leader is not None:
            self._channels.drop(self._leader)
            self._leader = None


def _unary(channel: grpc.Channel, method: str, request: bytes, timeout_s: float) -> bytes:
    return bytes(channel.unary_unary(method)(request, timeout=timeout_s))


def _address(url: str, tls: TlsFiles | None) -> str:
    """Return HOST:PORT of a client URL."""
    scheme, separator, rest = url.strip().rpartition("://")
    if separator and scheme not in ("http", "https"):
        raise OptionError("pd", f"{url!r} is not of the form HOST:PORT")
    if scheme == "https" and tls is None:
        raise OptionError("pd", f"{url} needs certificates")
    return rest.rstrip("/")
