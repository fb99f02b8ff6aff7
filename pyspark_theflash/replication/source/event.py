"""What a binlog says: entities as they arrive, transactions once they are matched.

TiDB writes two messages a transaction: a prewrite with the changes before it locks them in TiKV,
and a commit or a rollback when it knows how that ended. `pairing` puts them together again.
"""

import hashlib
import struct
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.pairing.spill import Payload, payload_bytes
from pyspark_theflash.tidb.codec.key import RawKey

DIGEST_BYTES: Final = 16
NO_KEY: Final = RawKey(b"")


class EntityKind(Enum):
    """What a message is about; the value is tipb's `BinlogType`, whose 3 and 4 are obsolete."""

    PREWRITE = 0
    COMMIT = 1
    ROLLBACK = 2


@dataclass(frozen=True, slots=True)
class DdlInfo:
    """The DDL job of which a transaction is one step.

    A hint that the schema changed, no more: jobs that failed are sent too. `query` is for people;
    bytes of it that are no UTF-8 are replaced.
    """

    query: str
    job_id: int
    schema_state: int


@dataclass(frozen=True, slots=True)
class Entity:
    """One binlog message. `payload` is the prewrite's changes, unparsed; b"" for every other kind.

    `commit_ts` is 0 where the message has none: in a prewrite, and in most rollbacks. `file` and
    `offset` say where it stood, for errors. `primary` is the primary key of a prewrite's
    transaction, b"" if the message has none. `stream` numbers the pump that it comes from.
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


@dataclass(frozen=True, slots=True)
class Transaction:
    """A prewrite and its commit. `payload` is for `parse_prewrite`; b"" where it is a DDL job's."""

    start_ts: TimeStamp
    commit_ts: TimeStamp
    payload: Payload = field(repr=False)
    ddl: DdlInfo | None

    def digest(self) -> bytes:
        """Tells whether another prewrite of this transaction has the same content."""
        return content_digest(payload_bytes(self.payload), self.ddl)


def content_digest(payload: bytes, ddl: DdlInfo | None) -> bytes:
    """`DIGEST_BYTES` bytes of BLAKE2b over a prewrite's payload and its DDL job, if it has one."""
    digest = hashlib.blake2b(payload, digest_size=DIGEST_BYTES)
    if ddl is not None:
        digest.update(struct.pack("<qi", ddl.job_id, ddl.schema_state) + ddl.query.encode())
    return digest.digest()
