"""Records of a first load, which reads all tables from TiKV at one timestamp.

    plan         {"ts": 7, "cluster_id": 5}    the load has begun: the store has no progress yet
    stripe-N     ["7480..", "7480..", "7480..", 12]

A stripe is a range of raw keys, from its start to its end; one process reads it in order. The rows
below its third key are published, 12 of them. The stripes together contain all tables. They are
removed by the publication that ends the load, which also has the store's first progress, so no
snapshot sees a part of it.

Tables that enter a store later are loaded in the same way:

    add-T        ["other.*"]                   tables to load at T, when the store has reached it
    entry        {"ts": 9, "tables": [[108, 104]]}
                                               a load of physical tables, each with its table

Then each stripe belongs to one physical table. Their rows are versions committed at `ts`, and the
publication that ends the load makes the store readable at `ts`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from pyspark_theflash.base.errors import LoadUnfinishedError
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import int64, load, shaped, text, texts, uint64
from pyspark_theflash.tidb.codec.key import RawKey

LOAD_KIND: Final = "load"
_PLAN: Final = "plan"
_STRIPE: Final = "stripe-"
_ADD: Final = "add-"
_ENTRY: Final = "entry"
_SHARE_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Stripe:
    """A range of keys to load in order. The rows below `next` are in the store."""

    number: int
    start: RawKey
    end: RawKey
    next: RawKey
    rows: int = 0

    @property
    def is_done(self) -> bool:
        """Whether all rows are in the store."""
        return self.next >= self.end

    @property
    def share(self) -> float:
        """The part of the keys below `next`, from 0 to 1, as if they were evenly distributed."""
        is_same = [a == b for a, b in zip(self.start, self.end, strict=False)]
        first = [*is_same, False].index(False)
        low, at, high = (
            int.from_bytes(each[first : first + _SHARE_BYTES].ljust(_SHARE_BYTES, b"\0"), "big")
            for each in (self.start, self.next, self.end)
        )
        return min(max(0.0, (at - low) / (high - low)), 1.0) if high > low else 1.0

    @property
    def key(self) -> str:
        """The record's key."""
        return f"{_STRIPE}{self.number:06d}"

    def to_record(self) -> Record:
        body = json.dumps([self.start.hex(), self.end.hex(), self.next.hex(), self.rows])
        return Record(LOAD_KIND, self.key, body.encode())

    @classmethod
    def from_record(cls, key: str, body: bytes) -> "Stripe":
        """Inverse of `to_record`. Raises `CodecError`."""
        with shaped(f"{LOAD_KIND} record"):
            start, end, at, rows = load(body)
            number = int(key.removeprefix(_STRIPE))
            return cls(number, _key(start), _key(end), _key(at), int64(rows))


def _key(value: object) -> RawKey:
    return RawKey(bytes.fromhex(text(value)))


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """The timestamp of a load, and the cluster that it reads."""

    ts: TimeStamp
    cluster_id: int

    def to_record(self) -> Record:
        return Record(LOAD_KIND, _PLAN, json.dumps(asdict(self)).encode())

    @classmethod
    def of(cls, view: View) -> "LoadPlan | None":
        """Decode the plan of the load in progress; None if there is none. Raises `CodecError`."""
        body = view.of_kind(LOAD_KIND).get(_PLAN)
        if body is None:
            return None
        with shaped(f"{LOAD_KIND} record"):
            fields = load(body)
            return cls(TimeStamp(uint64(fields["ts"])), uint64(fields["cluster_id"]))


def stripes_of(view: View) -> Sequence[Stripe]:
    """Return the stripes of the load in progress, in order. Raises `CodecError`."""
    records = view.of_kind(LOAD_KIND)
    return [Stripe.from_record(k, records[k]) for k in sorted(records) if k.startswith(_STRIPE)]


@dataclass(frozen=True, slots=True)
class EntryPlan:
    """A load of physical tables that enter at a timestamp; each has the id of its table then."""

    ts: TimeStamp
    tables: Mapping[PhysicalTableID, TableID]

    def to_record(self) -> Record:
        body = {"ts": self.ts, "tables": list(self.tables.items())}
        return Record(LOAD_KIND, _ENTRY, json.dumps(body).encode())

    @classmethod
    def of(cls, view: View) -> "EntryPlan | None":
        """Decode the plan in progress; None if there is none. Raises `CodecError`."""
        body = view.of_kind(LOAD_KIND).get(_ENTRY)
        if body is None:
            return None
        with shaped(f"{LOAD_KIND} record"):
            fields = load(body)
            tables = {PhysicalTableID(int64(i)): TableID(int64(t)) for i, t in fields["tables"]}
            return cls(TimeStamp(uint64(fields["ts"])), tables)


def add_record(ts: TimeStamp, patterns: Sequence[str]) -> Record:
    """Return the record of tables to load at a timestamp, by patterns of their names."""
    return Record(LOAD_KIND, f"{_ADD}{ts:020d}", json.dumps(list(patterns)).encode())


def adds_of(view: View) -> dict[TimeStamp, tuple[str, ...]]:
    """Return the patterns of tables to load, by timestamp. Raises `CodecError`."""
    records = view.of_kind(LOAD_KIND)
    with shaped(f"{LOAD_KIND} record"):
        return {
            TimeStamp(int(key.removeprefix(_ADD))): texts(load(records[key]))
            for key in sorted(records)
            if key.startswith(_ADD)
        }


def ended_keys(view: View, ts: TimeStamp) -> list[tuple[str, str]]:
    """Return the records to delete at the end of a load at a timestamp."""
    keys = view.of_kind(LOAD_KIND)
    return [(LOAD_KIND, k) for k in keys if not k.startswith(_ADD) or k == add_record(ts, ()).key]


def check_loaded(view: View) -> None:
    """Raise `LoadUnfinishedError` if a first load is in progress; `view` has `LOAD_KIND`."""
    if (plan := LoadPlan.of(view)) is not None:
        raise LoadUnfinishedError(plan.ts)
