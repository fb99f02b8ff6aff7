"""Tickets and handles: what a store gives out, and takes back only as it was.

    sealed    version u8, purpose u8, body, HMAC-SHA-256 of all before (32 bytes)

The body says which files to read and which latch keeps them. Callers carry it about; the seal
shows one that they made or changed, so nothing of what they say becomes a path. The key is a file
in the store's folder, so tickets outlive the server that gave them out and another can take them.
Where the folder cannot be written, or has no room, there is a spare one, of the processes of one
server, for as long as these live.
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
from pyspark_theflash.storage.store.latch.lease import ReadLease
from pyspark_theflash.storage.store.manifest import file_errors
from pyspark_theflash.tidb.codec.document import boolean, int64, load, shaped, text, texts, uint64

KEY_FILE: Final = "serve.key"
_KEY_BYTES: Final = 32
_MAC_BYTES: Final = 32
_VERSION: Final = 1


class Purpose(IntEnum):
    """What a sealed body is for; the value is on the wire."""

    TICKET = 1
    HANDLE = 2


class Sealer:
    """Seals with one key. What others have sealed with another one that it is told is good, too."""

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
            raise TicketError(purpose.name.lower(), "this store has not given it out")
        if body[:2] != bytes([_VERSION, purpose]):
            raise TicketError(purpose.name.lower(), "it is of another version, or something else")
        return load(body[2:])


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


class StoreSealer:
    """The sealer of the store at `path`, and of all processes that have the same spare key."""

    def __init__(self, path: Path, fs: FileSystem, spare_key: bytes) -> None:
        self._path, self._fs, self._spare_key = path, fs, spare_key
        self._mutex = threading.Lock()
        self._made: tuple[object, Sealer] | None = None

    def get(self) -> Sealer:
        """With the store's key, which is made if there is none, or else with the spare one.

        Where there is no key, or another file than before, it is read anew: another process may
        have had room, and another store may have come to the path.

        Raises:
            CorruptionError: the key's file is not one.
        """
        file = self._path / KEY_FILE
        with self._mutex, file_errors(file):
            stamp = file_stamp(file)
            if self._made is None or self._made[0] != stamp:
                key = _store_key(self._path, self._fs)
                if key is None:
                    return Sealer(self._spare_key)
                # Of a file that was made or replaced just now, the next call knows the stamp.
                self._made = stamp, Sealer(key, self._spare_key)
            return self._made[1]


def new_key() -> bytes:
    """A key that nobody else has."""
    return secrets.token_bytes(_KEY_BYTES)


def _store_key(path: Path, fs: FileSystem) -> bytes | None:
    """The store's key, made if there is none; None if it cannot be made."""
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
        raise CorruptionError(str(file), 0, "not a key; remove it, and scans must be planned anew")
    return key


def _make_key(file: Path, fs: FileSystem) -> None:
    """Several may do this at once; the first one's key stays."""
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
    """What is the same in all splits of a scan, as it was asked for."""

    table: str
    columns: tuple[str, ...] | None
    where: str | None
    zero_dates: str
    as_text: bool
    pushed: PlanRequest
    """What the request has done beside the data, and nothing else of it."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A split: which rows of which files, under which latch."""

    store_id: str
    lease: ReadLease
    shape: SealedScan
    region: RegionScan

    def sealed(self, sealer: Sealer) -> bytes:
        """As it is given out."""
        shape = self.shape
        told = [shape.table, shape.columns, shape.where, shape.zero_dates, shape.as_text]
        told.append(sealed_text(shape.pushed))
        region = [self.region.physical_id, self.region.region_id, self.region.parts]
        parts = [_told(self.lease), told, region]
        return sealer.seal(Purpose.TICKET, [self.store_id, *parts])

    @classmethod
    def opened(cls, sealed: bytes, sealer: Sealer) -> "Ticket":
        """Inverse of `sealed`. Raises `TicketError`."""
        try:
            with shaped("ticket"):
                store_id, lease, shape, region = sealer.unseal(Purpose.TICKET, sealed)
                table, columns, where, zero_dates, as_text, pushed = shape
                physical_id, region_id, parts = region
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
                        texts(parts),
                    ),
                )
        except CodecError as error:
            raise TicketError("ticket", "it is of another version") from error


def sealed_handle(store_id: str, lease: ReadLease, sealer: Sealer) -> bytes:
    """A snapshot's handle as it is given out."""
    return sealer.seal(Purpose.HANDLE, [store_id, _told(lease)])


def opened_handle(handle: bytes, sealer: Sealer) -> tuple[str, ReadLease]:
    """The store's id and the latch that a handle stands for. Raises `TicketError`."""
    try:
        with shaped("handle"):
            store_id, lease = sealer.unseal(Purpose.HANDLE, handle)
            return text(store_id), _lease(lease)
    except CodecError as error:
        raise TicketError("handle", "it is of another version") from error


def _told(lease: ReadLease) -> list[object]:
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
