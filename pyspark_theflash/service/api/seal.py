"""Tickets and handles, which are authenticated with the store's key.

    sealed    version u8, purpose u8, body (JSON), HMAC-SHA-256 of all before (32 bytes)

The body names the files to read and the latch that keeps them. Clients store it; the HMAC detects
those that they have changed or invented, so a client cannot choose a path. The key is a file in the
store's folder, so tickets remain valid after the server ends and at other servers. If the folder is
read-only or full, a spare key of the server's processes is used, until they end.
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import threading
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from pyspark_theflash.base.errors import CodecError, CorruptionError, StoreFullError, TicketError
from pyspark_theflash.base.fs import FileSystem, file_stamp
from pyspark_theflash.base.types import Generation, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.service.api.pushed import sealed_request, sealed_text
from pyspark_theflash.service.wire.message import PlanRequest
from pyspark_theflash.storage.engine.api import RegionScan
from pyspark_theflash.storage.engine.registry import region_content
from pyspark_theflash.storage.store.latch.lease import ReadLease
from pyspark_theflash.storage.store.manifest import file_errors
from pyspark_theflash.tidb.codec.document import boolean, int64, load, shaped, text, texts, uint64

KEY_FILE: Final = "serve.key"
_KEY_BYTES: Final = 32
_MAC_BYTES: Final = 32
_VERSION: Final = 1
_OVERLAY: Final = "memory:"
"""Prefix of the id of an overlay in a ticket."""
NOT_ISSUED: Final = "it was not issued by this store to this caller"
"""The same for another caller's handle as for a forged one."""


class Purpose(IntEnum):
    """The purpose of a sealed body; the value is on the wire."""

    TICKET = 1
    HANDLE = 2


class Sealer:
    """Seals with the first key, and accepts seals of all its keys."""

    def __init__(self, key: bytes, *others: bytes) -> None:
        self._key, self._keys = key, (key, *others)

    def seal(self, purpose: Purpose, body: object) -> bytes:
        """Seal a JSON value."""
        sealed = bytes([_VERSION, purpose]) + json.dumps(body, separators=(",", ":")).encode()
        return sealed + _mac(self._key, sealed)

    def unseal(self, purpose: Purpose, sealed: bytes) -> Any:  # noqa: ANN401 (JSON)
        """Inverse of `seal`. Raises `TicketError`."""
        body, mac = sealed[:-_MAC_BYTES], sealed[-_MAC_BYTES:]
        if not any(hmac.compare_digest(_mac(key, body), mac) for key in self._keys):
            raise TicketError(purpose.name.lower(), NOT_ISSUED)
        if body[:2] != bytes([_VERSION, purpose]):
            raise TicketError(purpose.name.lower(), "it has another version or purpose")
        return load(body[2:])


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


class StoreSealer:
    """The sealer of the store at `path`, with a spare key that related processes share."""

    def __init__(self, path: Path, fs: FileSystem, spare_key: bytes) -> None:
        self._path, self._fs, self._spare_key = path, fs, spare_key
        self._mutex = threading.Lock()
        self._cached: tuple[object, Sealer] | None = None

    def get(self) -> Sealer:
        """Return the sealer with the store's key, which is created if there is none.

        The spare key is used if it cannot be created. The file is read again if it has changed,
        since another process may have created it, or another store may be in the folder now.

        Raises:
            CorruptionError: The file is not a key.
        """
        file = self._path / KEY_FILE
        with self._mutex, file_errors(file):
            stamp = file_stamp(file)
            if self._cached is None or self._cached[0] != stamp:
                key = _store_key(self._path, self._fs)
                if key is None:
                    return Sealer(self._spare_key)
                # A file that was created or replaced just now is read again by the next call.
                self._cached = stamp, Sealer(key, self._spare_key)
            return self._cached[1]


def new_key() -> bytes:
    """Create a random key."""
    return secrets.token_bytes(_KEY_BYTES)


def _store_key(path: Path, fs: FileSystem) -> bytes | None:
    """Return the store's key, created if there is none; None if it cannot be created."""
    file = path / KEY_FILE
    if not file.exists():
        try:
            if not os.access(path, os.W_OK):
                return None
            with file_errors(file):
                _make_key(file, fs)
        except StoreFullError:
            return None
    with file_errors(file):
        key = file.read_bytes()
    if len(key) != _KEY_BYTES:
        raise CorruptionError(str(file), 0, "not a key: remove it and plan scans again")
    return key


def _make_key(file: Path, fs: FileSystem) -> None:
    """Create the key file. If several processes do this at once, the first one's key remains."""
    scratch = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        fs.write_new(scratch, memoryview(new_key()))
        with contextlib.suppress(FileExistsError):
            os.link(scratch, file)
        fs.sync_folder(file.parent)
    finally:
        fs.unlink(scratch)


@dataclass(frozen=True, slots=True)
class SealedScan:
    """The part of a scan's request that all its splits share."""

    table: str
    columns: tuple[str, ...] | None
    where: str | None
    zero_dates: str
    as_text: bool
    pushed: PlanRequest
    """A request with only the pushed-down operations."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A split: a scan, the files of one region, and the lease that keeps them."""

    store_id: str
    lease: ReadLease
    shape: SealedScan
    region: RegionScan

    def sealed(self, sealer: Sealer) -> bytes:
        """Return the sealed ticket."""
        shape = self.shape
        scan = [shape.table, shape.columns, shape.where, shape.zero_dates, shape.as_text]
        scan.append(sealed_text(shape.pushed))
        region = [self.region.physical_id, self.region.region_id, region_texts(self.region)]
        parts = [_lease_fields(self.lease), scan, region]
        return sealer.seal(Purpose.TICKET, [self.store_id, *parts])

    @classmethod
    def opened(cls, sealed: bytes, sealer: Sealer, engine: str) -> "Ticket":
        """Inverse of `sealed`, for a store with this engine. Raises `TicketError`."""
        try:
            with shaped("ticket"):
                store_id, lease, shape, region = sealer.unseal(Purpose.TICKET, sealed)
                table, columns, where, zero_dates, as_text, pushed = shape
                physical_id, region_id, content = region
                overlay, parts = _split_overlay(texts(content))
                return cls(
                    text(store_id),
                    _lease(lease),
                    SealedScan(
                        text(table),
                        None if columns is None else texts(columns),
                        None if where is None else text(where),
                        text(zero_dates),
                        boolean(as_text),
                        sealed_request(text(pushed)),
                    ),
                    RegionScan(
                        PhysicalTableID(int64(physical_id)),
                        RegionID(int64(region_id)),
                        region_content(engine, parts),
                        overlay,
                    ),
                )
        except CodecError as error:
            raise TicketError("ticket", "it has another version") from error


def region_texts(region: RegionScan) -> tuple[str, ...]:
    """Return the overlay and the content of a region, as in its ticket."""
    overlay = () if region.overlay is None else (_OVERLAY + region.overlay,)
    return (*overlay, *(() if region.content is None else region.content.texts()))


def _split_overlay(parts: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Inverse of `region_texts`: return the overlay and the texts of the content."""
    if parts and parts[0].startswith(_OVERLAY):
        return parts[0].removeprefix(_OVERLAY), parts[1:]
    return None, parts


def sealed_handle(store_id: str, lease: ReadLease, identity: str, sealer: Sealer) -> bytes:
    """Return the sealed handle of a snapshot for the caller `identity`."""
    return sealer.seal(Purpose.HANDLE, [store_id, _lease_fields(lease), identity])


def opened_handle(handle: bytes, identity: str, sealer: Sealer) -> tuple[str, ReadLease]:
    """Return the store's id and the lease of a handle, for the caller `identity`.

    Raises:
        TicketError: It is not a handle of this store, or it is another caller's.
    """
    try:
        with shaped("handle"):
            store_id, lease, holder = sealer.unseal(Purpose.HANDLE, handle)
            if text(holder) != identity:
                raise TicketError("handle", NOT_ISSUED)
            return text(store_id), _lease(lease)
    except CodecError as error:
        raise TicketError("handle", "it has another version") from error


def _lease_fields(lease: ReadLease) -> list[object]:
    """Inverse of `_lease`."""
    return [lease.id, lease.snapshot_ts, lease.generation, lease.ttl_ms, lease.shared]


def _lease(fields: Any) -> ReadLease:  # noqa: ANN401 (JSON)
    id, snapshot_ts, generation, ttl_ms, shared = fields
    return ReadLease(
        text(id),
        TimeStamp(uint64(snapshot_ts)),
        Generation(uint64(generation)),
        uint64(ttl_ms),
        boolean(shared),
    )
