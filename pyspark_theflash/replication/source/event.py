"""Binlog messages as values: entities as they arrive, transactions once they are matched.

TiDB writes two messages per transaction: a prewrite with the changes before it locks the keys in
TiKV, and a commit or a rollback when the outcome is decided. `pairing` matches the two.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.pairing.spill import Payload, payload_bytes
from pyspark_theflash.tidb.codec.key import RawKey

DIGEST_BYTES: Final = 16
NO_KEY: Final = RawKey(b"")


class EntityKind(Enum):
    """Type of a message; the value is tipb's `BinlogType`, whose 3 and 4 are obsolete."""

    PREWRITE = 0
    COMMIT = 1
    ROLLBACK = 2


@dataclass(frozen=True, slots=True)
class DdlInfo:
    """DDL job that a transaction is one step of.

    Only a hint that the schema may have changed: failed jobs are sent too. `query` is for display;
    bytes that are not UTF-8 are replaced.
    """

    query: str
    job_id: int
    schema_state: int


@dataclass(frozen=True, slots=True)
class Entity:
    """One binlog message.

    `payload` is the unparsed `prewrite_value` of a prewrite, b"" for other kinds. `commit_ts` is 0
    in a prewrite and in most rollbacks. `file` and `offset` locate the message in error messages.
    `primary` is the primary key of a prewrite's transaction, b"" if the message has none. `stream`
    is the number of the pump that the message comes from.
    """

    kind: EntityKind
    start_ts: TimeStamp
    commit_ts: TimeStamp
    payload: bytes = field(repr=False)
    ddl: DdlInfo | None
    file: str
    offset: int
    primary: RawKey = field(default=NO_KEY, repr=False)
    stream: int = 0


class EntitySource(Protocol):
    """Source of entities: files, a pump, or several sources merged."""

    def entities(self, after: str | None = None) -> Iterator[Entity]:
        """Yield the available entities in order of arrival, those after position `after` if set."""

    @property
    def position(self) -> str | None:
        """Position to continue at, after the last entity yielded; None at the beginning."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A prewrite with its commit. `payload` is input of `parse_prewrite`; b"" for a DDL job."""

    start_ts: TimeStamp
    commit_ts: TimeStamp
    payload: Payload = field(repr=False)
    ddl: DdlInfo | None

    def digest(self) -> bytes:
        """Hash the content, to compare it with another delivery of this transaction."""
        return content_digest(payload_bytes(self.payload), self.ddl)


def content_digest(payload: bytes, ddl: DdlInfo | None) -> bytes:
    """Hash a prewrite's payload and its DDL job, if any, with BLAKE2b of `DIGEST_BYTES` bytes."""
    digest = hashlib.blake2b(payload, digest_size=DIGEST_BYTES)
    if ddl is not None:
        digest.update(struct.pack("<qi", ddl.job_id, ddl.schema_state) + ddl.query.encode())
    return digest.digest()
