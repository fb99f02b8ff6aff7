"""Orphans: transactions whose prewrite or commit is missing.

A prewrite without a commit, or a commit without a prewrite, becomes an orphan after the writer's
deadline. It gets a record, which `theflash status` lists. Its outcome, determined by TiKV or an
operator, is stored in that record before it is applied. A transaction that an operator skips,
because the writer cannot apply it, gets such a record too.
"""

import json
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import boolean, load, shaped, text, uint64

ORPHAN_KIND: Final = "orphan"
NOT_ASKED: Final = "TiKV not asked: give --pd, or --schema tikv: or tidb:"
NO_KEY: Final = "TiKV not asked: the binlog has no primary key"
NO_ANSWER: Final = "no answer from TiKV"
NO_PREWRITE: Final = "committed, but its prewrite is missing"
BY_HAND: Final = "by hand"
SKIPPED: Final = "skipped by hand"


@dataclass(frozen=True, slots=True)
class Orphan:
    """An orphan.

    `hold_ts`: `resolved_ts` remains below it while the outcome is unknown. `size_bytes`: the size
    of the transaction's changes. `commit_ts`: None while the outcome is unknown, 0 if rolled back.
    `by_hand`: whether an operator decided. `state`: the state as text, to be displayed.
    """

    start_ts: TimeStamp
    hold_ts: TimeStamp
    size_bytes: int
    state: str
    commit_ts: TimeStamp | None = None
    by_hand: bool = False

    @property
    def key(self) -> str:
        """The record's key."""
        return f"{self.start_ts:020d}"

    @property
    def is_skipped(self) -> bool:
        """Whether all messages of the transaction are ignored."""
        return self.state == SKIPPED

    def to_record(self) -> Record:
        """Encode the manifest record."""
        fields = [self.hold_ts, self.size_bytes, self.state, self.commit_ts, self.by_hand]
        return Record(ORPHAN_KIND, self.key, json.dumps(fields).encode())

    @classmethod
    def from_record(cls, key: str, body: bytes) -> "Orphan":
        """Inverse of `to_record`. Raises `CodecError`."""
        with shaped(f"{ORPHAN_KIND} record"):
            hold_ts, size_bytes, state, commit_ts, by_hand = load(body)
            return cls(
                TimeStamp(uint64(int(key))),
                TimeStamp(uint64(hold_ts)),
                uint64(size_bytes),
                text(state),
                None if commit_ts is None else TimeStamp(uint64(commit_ts)),
                boolean(by_hand),
            )


def orphans_of(view: View) -> dict[TimeStamp, Orphan]:
    """Return all orphans in the manifest by start_ts. Raises `CodecError`."""
    orphans = (Orphan.from_record(*item) for item in sorted(view.of_kind(ORPHAN_KIND).items()))
    return {orphan.start_ts: orphan for orphan in orphans}
