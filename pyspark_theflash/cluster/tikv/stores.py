"""Connections to TiKV's stores: one per store, kept until a call fails."""

from typing import Final

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import TiKVRefusedError, TiKVUnavailableError
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.cluster.tikv.wire.directory import Directory, Store
from pyspark_theflash.net.channel import Channels, describe, grpc, is_transient

MAX_MESSAGE_BYTES: Final = 256 << 20
_SERVICE: Final = "/tikvpb.Tikv/"


class StoreConnections:
    """Connections by store id. Thread-safe."""

    def __init__(self, directory: Directory, tls: TlsFiles | None) -> None:
        self._directory = directory
        self._stores: dict[int, Store] = {}
        self._channels = Channels(tls, MAX_MESSAGE_BYTES)

    def close(self) -> None:
        """Close the connections."""
        self._channels.close()

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
            self._channels.drop(store.address)

    def call(self, store: Store, method: str, request: bytes, deadline: Deadline) -> bytes:
        """Make a unary call.

        Raises:
            TiKVUnavailableError: The store is unreachable, or did not respond by the deadline.
            TiKVRefusedError: The store returned a gRPC status that a retry does not fix.
        """
        left_ms = deadline.left_ms()
        if not left_ms:
            raise TiKVUnavailableError(store.address, "the deadline has passed")
        call = self._channels.get(store.address).unary_unary(_SERVICE + method)
        try:
            return bytes(call(request, timeout=left_ms / 1000))
        except ValueError as error:
            # Another thread has closed the connection.
            raise TiKVUnavailableError(store.address, str(error)) from error
        except grpc.RpcError as error:
            if is_transient(error) or error.code() is grpc.StatusCode.UNKNOWN:
                raise TiKVUnavailableError(store.address, describe(error)) from error
            raise TiKVRefusedError(store.address, f"{method}: {describe(error)}") from error
