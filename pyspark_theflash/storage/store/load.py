"""Records of a first load, which reads all tables from TiKV at one timestamp.

    plan         {"ts": 7, "cluster_id": 5}    the load has begun: the store has no progress yet
    stripe-N     ["7480..", "7480..", "7480..", 12]

A stripe is a range of raw keys, from its start to its end; one process reads it in order. The rows
below its third key are published, 12 of them. The stripes together contain all tables. They are
removed by the publication that ends the load, which also has the store's first progress, so no
snapshot sees a part of it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from pyspark_theflash.base.errors import LoadUnfinishedError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import int64, load, shaped, text, uint64
from pyspark_theflash.tidb.codec.key import RawKey

LOAD_KIND: Final = "load"
_PLAN: Final = "plan"
_STRIPE: Final = "stripe-"
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
    return [Stripe.from_record(k, records[k]) for k in sorted(records) if k != _PLAN]


def ended_keys(view: View) -> list[tuple[str, str]]:
    """Return the records to delete at the end of a load."""
    return [(LOAD_KIND, key) for key in view.of_kind(LOAD_KIND)]


def check_loaded(view: View) -> None:
    """Raise `LoadUnfinishedError` if a first load is in progress; `view` has `LOAD_KIND`."""
    if (plan := LoadPlan.of(view)) is not None:
        raise LoadUnfinishedError(plan.ts)
