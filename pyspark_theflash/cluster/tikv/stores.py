"""Connections to TiKV's stores: one per store, kept until a call fails."""

import threading
from typing import Final

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import TiKVRefusedError, TiKVUnavailableError
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.cluster.tikv.wire.directory import Directory, Store
from pyspark_theflash.net.channel import describe, grpc, is_transient, open_channel

MAX_MESSAGE_BYTES: Final = 256 << 20
_SERVICE: Final = "/tikvpb.Tikv/"


class StoreConnections:
    """Connections by store id. Thread-safe."""

    def __init__(self, directory: Directory, tls: TlsFiles | None) -> None:
        self._directory, self._tls = directory, tls
        self._mutex = threading.Lock()
        self._stores: dict[int, Store] = {}
        self._channels: dict[str, grpc.Channel] = {}

    def close(self) -> None:
        """Close the connections."""
        with self._mutex:
            while self._channels:
                self._channels.popitem()[1].close()

    def get(self, store_id: int, deadline: Deadline) -> Store:
        """Return a store. Raises `PDUnavailableError`, `PDRefusedError`."""
        store = self._stores.get(store_id)
        if store is None:
            store = self._stores[store_id] = self._directory.store(store_id, deadline)
        return store

    def forget(self, store_id: int) -> None:
        """Close the connection to a store, whose address may have changed."""
        store = self._stores.pop(store_id, None)
        if store is not None:
            with self._mutex:
                channel = self._channels.pop(store.address, None)
            if channel is not None:
                channel.close()

    def call(self, store: Store, method: str, request: bytes, deadline: Deadline) -> bytes:
        """Make a unary call.

        Raises:
            TiKVUnavailableError: The store is unreachable, or did not respond by the deadline.
            TiKVRefusedError: The store returned a gRPC status that a retry does not fix.
        """
        left_ms = deadline.left_ms()
        if not left_ms:
            raise TiKVUnavailableError(store.address, "the deadline has passed")
        call = self._channel(store.address).unary_unary(_SERVICE + method)
        try:
            return bytes(call(request, timeout=left_ms / 1000))
        except ValueError as error:
            # Another thread has closed the connection.
            raise TiKVUnavailableError(store.address, str(error)) from error
        except grpc.RpcError as error:
            if is_transient(error) or error.code() is grpc.StatusCode.UNKNOWN:
                raise TiKVUnavailableError(store.address, describe(error)) from error
            raise TiKVRefusedError(store.address, f"{method}: {describe(error)}") from error

    def _channel(self, address: str) -> grpc.Channel:
        with self._mutex:
            if address not in self._channels:
                self._channels[address] = open_channel(
                    address, self._tls, max_message_bytes=MAX_MESSAGE_BYTES
                )
            return self._channels[address]
