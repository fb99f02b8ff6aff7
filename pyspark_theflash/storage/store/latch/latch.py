"""Latches: transient records that pin or lock a part of a store for a limited time.

kind    pins                    excludes                 used by
read    timestamp, generation   nothing                  planners, before planning; `AcquireLatch`
pin     timestamp               nothing                  `theflash pin`
write   nothing                 write, mutating admin    writers, in process or through the API
admin   generation              the same, if mutating    operators; commands that read all files

Compatibility of latches with overlapping scopes:

                      read, pin   write   admin   mutating admin
    read, pin         yes         yes     yes     yes             Versions do not change in place,
    write             yes         no      yes     no              so readers neither wait nor block
    admin             yes         yes     yes     yes             others.
    mutating admin    yes         no      yes     no

Latches whose scopes do not overlap are always compatible. A scope is a store, a table, a physical
table (partition) of a table, or a region of a physical table; it overlaps what it contains.

A latch ends when it is released, when it expires on the boot-time clock, or when the machine
restarts. A write or admin latch with a `holder` also ends with that process. A latch granted to a
caller (`grant`) without a holder does not end with a connection or a process.

Each grant has a fencing token larger than those of all earlier grants, also across restarts. A
write under a latch passes its id and token, which are checked in the transaction of the commit
(`queue.py`). So a write after its latch has ended is rejected, even if the latch has not been
granted again.

A latch records the identity of its caller, and every use of it is by a `LatchClaim` of that
identity. A claim of a latch that belongs to another caller, and of one that does not exist, fail
alike. A latch without an identity was taken by a process that has opened the store's folder.
"""

import json
from dataclasses import astuple, dataclass
from enum import Enum
from typing import Any, Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.types import FencingToken, Generation, RegionID, TimeStamp
from pyspark_theflash.storage.store.latch.holder import Holder
from pyspark_theflash.tidb.codec.document import boolean, int64, load, shaped, text, uint64

NAME_CHARS_MAX: Final = 100


class LatchKind(Enum):
    """Kind of a latch; see the module docstring."""

    READ = "read"
    PIN = "pin"
    WRITE = "write"
    ADMIN = "admin"

    @property
    def pins_snapshot(self) -> bool:
        return self in (LatchKind.READ, LatchKind.PIN)

    @property
    def pins_generation(self) -> bool:
        return self in (LatchKind.READ, LatchKind.ADMIN)

    @property
    def ends_with_process(self) -> bool:
        return self in (LatchKind.WRITE, LatchKind.ADMIN)


@dataclass(frozen=True, slots=True)
class LatchScope:
    """Scope of a latch. Each level requires those before it; with none, it is the whole store.

    The range of a region id never changes, so no epoch is needed.
    """

    table_id: int | None = None
    physical_id: int | None = None
    region_id: RegionID | None = None

    @property
    def path(self) -> tuple[int, ...]:
        """The ids from the table down. Scopes are ordered by path."""
        levels = (self.table_id, self.physical_id, self.region_id)
        return tuple(level for level in levels if level is not None)

    @property
    def is_store(self) -> bool:
        return self.table_id is None

    def covers(self, other: "LatchScope") -> bool:
        """Return whether the scope contains `other`."""
        return other.path[: len(self.path)] == self.path

    def overlaps(self, other: "LatchScope") -> bool:
        """Return whether one of the scopes contains the other."""
        return self.covers(other) or other.covers(self)

    def __str__(self) -> str:
        names = ("table", "partition", "region")
        parts = [f"{name} {level}" for name, level in zip(names, self.path, strict=False)]
        return " ".join(parts) or "the store"

    @classmethod
    def of_path(cls, path: object) -> "LatchScope":
        """Return the scope of a path. Raises one of `SHAPE_ERRORS`."""
        if not isinstance(path, list | tuple) or len(path) > 3:
            raise TypeError("not the path of a scope")
        levels = [*map(int64, path), None, None, None][:3]
        return cls(levels[0], levels[1], None if levels[2] is None else RegionID(levels[2]))


STORE: Final = LatchScope()


@dataclass(frozen=True, slots=True)
class LatchRequest:
    """A request for a latch.

    `name` is chosen by the caller; `identity` is the caller's identity as seen by the server.
    """

    kind: LatchKind
    scope: LatchScope
    ttl_ms: int
    name: str = ""
    identity: str = ""
    mutates: bool = False
    """Whether the operation under an admin latch changes anything."""

    @property
    def owner(self) -> tuple[str, str]:
        return self.name, self.identity

    @property
    def excludes(self) -> bool:
        """Whether the latch can exclude others at all."""
        return self.kind is LatchKind.WRITE or (self.kind is LatchKind.ADMIN and self.mutates)

    def conflicts(self, other: "LatchRequest") -> bool:
        """Return whether the latches are incompatible; see the module docstring."""
        return self.excludes and other.excludes and self.scope.overlaps(other.scope)

    def to_json(self) -> list[object]:
        who = [self.name, self.identity]
        return [self.kind.value, list(self.scope.path), self.ttl_ms, *who, self.mutates]

    @classmethod
    def from_json(cls, fields: Any) -> "LatchRequest":  # noqa: ANN401 (JSON)
        """Inverse of `to_json`. Raises one of `SHAPE_ERRORS`."""
        kind, path, ttl_ms, name, identity, mutates = fields
        return cls(
            LatchKind(kind),
            LatchScope.of_path(path),
            uint64(ttl_ms),
            text(name),
            text(identity),
            boolean(mutates),
        )

    def __str__(self) -> str:
        return f"{self.kind.value} latch of {self.name or 'an unnamed caller'} ({self.identity})"


@dataclass(frozen=True, slots=True)
class Grant:
    """The fencing token of a granted latch, and its request."""

    token: FencingToken
    wanted: LatchRequest


@dataclass(frozen=True, slots=True)
class LatchClaim:
    """The id and fencing token of a latch, as presented by the caller `identity`."""

    id: str
    token: int
    identity: str


@dataclass(frozen=True, slots=True)
class Latch:
    """A latch as stored. `expires_ms` is on the boot-time clock of `boot_id`."""

    id: str
    kind: LatchKind
    snapshot_ts: TimeStamp
    generation: Generation
    boot_id: str
    expires_ms: int
    holder: Holder | None
    grant: Grant | None = None
    """None or with token 0 if the latch was not granted (`queue.py`) but taken (`lease.py`)."""

    @property
    def identity(self) -> str:
        """The identity of the caller; empty: see the module docstring."""
        return "" if self.grant is None else self.grant.wanted.identity

    @property
    def excludes(self) -> bool:
        """Whether the latch can exclude others at all."""
        return self.grant is not None and self.grant.wanted.excludes

    @property
    def claim(self) -> LatchClaim:
        """The holder's claim."""
        return LatchClaim(self.id, 0 if self.grant is None else self.grant.token, self.identity)

    def to_body(self) -> bytes:
        """Encode the transient record of this `id`."""
        holder = None if self.holder is None else astuple(self.holder)
        body = [self.kind.value, self.snapshot_ts, self.generation, self.boot_id, self.expires_ms]
        granted = [] if self.grant is None else [[self.grant.token, *self.grant.wanted.to_json()]]
        return json.dumps([*body, holder, *granted]).encode()

    @classmethod
    def from_body(cls, id: str, body: bytes) -> "Latch":
        """Inverse of `to_body`. Raises `CodecError`."""
        with shaped("latch"):
            kind, snapshot_ts, generation, boot_id, expires_ms, holder, *granted = load(body)
            grant = None
            if granted:
                ((token, *wanted),) = granted
                grant = Grant(FencingToken(uint64(token)), LatchRequest.from_json(wanted))
            return cls(
                id,
                LatchKind(kind),
                TimeStamp(uint64(snapshot_ts)),
                Generation(uint64(generation)),
                text(boot_id),
                int64(expires_ms),
                None if holder is None else Holder.from_fields(holder),
                grant,
            )

    def is_alive(self, clock: Clock) -> bool:
        """Return whether the latch has not ended."""
        if self.boot_id != clock.boot_id() or self.expires_ms <= clock.boottime_ms():
            return False
        holder = self.holder if self.kind.ends_with_process else None
        return holder is None or not holder.is_gone(clock)


@dataclass(frozen=True, slots=True)
class LatchWaiter:
    """A ticket in the queue of waiting requests.

    `number` is from the same sequence as fencing tokens. The ticket expires unless its owner renews
    it while waiting.
    """

    id: str
    number: int
    boot_id: str
    expires_ms: int
    wanted: LatchRequest

    def to_body(self) -> bytes:
        """Encode the transient record of this `id`."""
        fields = [self.number, self.boot_id, self.expires_ms, self.wanted.to_json()]
        return json.dumps(fields).encode()

    @classmethod
    def from_body(cls, id: str, body: bytes) -> "LatchWaiter":
        """Inverse of `to_body`. Raises `CodecError`."""
        with shaped("ticket of a waiter"):
            number, boot_id, expires_ms, wanted = load(body)
            return cls(
                id, uint64(number), text(boot_id), int64(expires_ms), LatchRequest.from_json(wanted)
            )

    def is_alive(self, clock: Clock) -> bool:
        """Return whether the owner still waits."""
        return self.boot_id == clock.boot_id() and self.expires_ms > clock.boottime_ms()
