"""Latches: rows of the store's transient records that say who may count on what, and until when.

kind    pins                    excludes                 taken by
read    timestamp, generation   nothing                  a planner, before it plans; `AcquireLatch`
pin     timestamp               nothing                  `theflash pin`
write   nothing                 write, mutating admin    who writes through the API; a writer
admin   generation              the same, if it mutates  what reads all files, as `fsck`; operators

Which may be held at the same time, where their scopes overlap:

                      read, pin   write   admin   mutating admin
    read, pin         yes         yes     yes     yes             versions stay where they are:
    write             yes         no      yes     no              readers wait for nobody, and
    admin             yes         yes     yes     yes             nobody waits for readers
    mutating admin    yes         no      yes     no

Scopes that do not overlap never matter to each other. A scope is a store, one of its tables, a
physical table (partition) of that, or a region of that; it overlaps what it contains.

A latch ends when it is released, when it runs out on the boot-time clock, or when the machine
restarts. One that a process holds for itself (`holder`) also ends with that process, a `read` and a
`pin` excepted; one that was granted to a caller (`grant`) does not end with a connection or a
process: it is the caller's for its time.

Each grant has a fencing token, larger than that of every grant before, over restarts too. Whoever
writes under a latch shows its id and token, and they are looked at in the transaction that commits
(`grants.py`), so what comes after its time is refused even if nobody else has been granted it.
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
    """See the module."""

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
    """The scope of a latch; each level needs those before it, and without any it is the store.

    A region's id stands for one range of handles for ever, so it is its epoch, too.
    """

    table_id: int | None = None
    physical_id: int | None = None
    region_id: RegionID | None = None

    @property
    def path(self) -> tuple[int, ...]:
        """From the table down; scopes are in the order of these."""
        levels = (self.table_id, self.physical_id, self.region_id)
        return tuple(level for level in levels if level is not None)

    @property
    def is_store(self) -> bool:
        return self.table_id is None

    def covers(self, other: "LatchScope") -> bool:
        """Whether all of `other` lies in it."""
        return other.path[: len(self.path)] == self.path

    def overlaps(self, other: "LatchScope") -> bool:
        """Whether one of them covers the other."""
        return self.covers(other) or other.covers(self)

    def __str__(self) -> str:
        names = ("table", "partition", "region")
        parts = [f"{name} {level}" for name, level in zip(names, self.path, strict=False)]
        return " ".join(parts) or "the store"

    @classmethod
    def of_path(cls, path: object) -> "LatchScope":
        """The reverse of `path`. Raises one of `SHAPE_ERRORS`."""
        if not isinstance(path, list | tuple) or len(path) > 3:
            raise TypeError("no path of a scope")
        levels = [*map(int64, path), None, None, None][:3]
        return cls(levels[0], levels[1], None if levels[2] is None else RegionID(levels[2]))


STORE: Final = LatchScope()


@dataclass(frozen=True, slots=True)
class LatchRequest:
    """A request for a latch. `name` is the caller's own, `identity` what the server saw of it."""

    kind: LatchKind
    scope: LatchScope
    ttl_ms: int
    name: str = ""
    identity: str = ""
    mutates: bool = False
    """Whether what is done under an admin latch changes anything."""

    @property
    def owner(self) -> tuple[str, str]:
        return self.name, self.identity

    @property
    def excludes(self) -> bool:
        """Whether it is one of those that exclude each other."""
        return self.kind is LatchKind.WRITE or (self.kind is LatchKind.ADMIN and self.mutates)

    def conflicts(self, other: "LatchRequest") -> bool:
        """Whether both cannot be held at once: the matrix of the module."""
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
        return f"{self.kind.value} latch of {self.name or 'somebody'} ({self.identity})"


@dataclass(frozen=True, slots=True)
class Grant:
    """A latch that was granted, and its fencing token."""

    token: FencingToken
    wanted: LatchRequest


@dataclass(frozen=True, slots=True)
class Latch:
    """A latch as the store has it. `expires_ms` is on the boot-time clock of `boot_id`."""

    id: str
    kind: LatchKind
    snapshot_ts: TimeStamp
    generation: Generation
    boot_id: str
    expires_ms: int
    holder: Holder | None
    grant: Grant | None = None

    def to_body(self) -> bytes:
        """Encode the transient record of this `id`."""
        holder = None if self.holder is None else astuple(self.holder)
        body = [self.kind.value, self.snapshot_ts, self.generation, self.boot_id, self.expires_ms]
        granted = [] if self.grant is None else [[self.grant.token, *self.grant.wanted.to_json()]]
        return json.dumps([*body, holder, *granted]).encode()

    @classmethod
    def from_body(cls, id: str, body: bytes) -> "Latch":
        """Inverse of `to_body`. Raises `CodecError` on anything else."""
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
        """Whether it still stands for anything."""
        if self.boot_id != clock.boot_id() or self.expires_ms <= clock.boottime_ms():
            return False
        holder = self.holder if self.kind.ends_with_process else None
        return holder is None or not holder.is_gone(clock)


@dataclass(frozen=True, slots=True)
class LatchWaiter:
    """A place in the queue of those who wait; `number` is from the same sequence as tokens.

    Its owner says again and again that it is still there; otherwise it soon counts for nothing.
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
        """Inverse of `to_body`. Raises `CodecError` on anything else."""
        with shaped("ticket of a waiter"):
            number, boot_id, expires_ms, wanted = load(body)
            return cls(
                id, uint64(number), text(boot_id), int64(expires_ms), LatchRequest.from_json(wanted)
            )

    def is_alive(self, clock: Clock) -> bool:
        """Whether its owner still waits."""
        return self.boot_id == clock.boot_id() and self.expires_ms > clock.boottime_ms()
