"""Marker record of a store that replicates from TiKV through raft.

The process that applies the raft commands has rows that are not flushed to files yet, locks, and
the applied index of its regions. So such a store must be read through that process, and no other
process writes it.
"""

import json
from dataclasses import asdict, dataclass
from typing import Final

from pyspark_theflash.base.errors import OptionError, RaftFedError
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import load, shaped, uint64

RAFT_FED_KIND: Final = "learned"
_KEY: Final = "tikv"


@dataclass(frozen=True, slots=True)
class RaftFedMarker:
    """The TiKV cluster of a store, and its store id in PD (0: not registered)."""

    cluster_id: int
    pd_store_id: int = 0

    def to_record(self) -> Record:
        return Record(RAFT_FED_KIND, _KEY, json.dumps(asdict(self)).encode())

    @classmethod
    def of(cls, view: View) -> "RaftFedMarker | None":
        """Decode the marker in a view; None if there is none. Raises `CodecError`."""
        body = view.of_kind(RAFT_FED_KIND).get(_KEY)
        if body is None:
            return None
        with shaped(f"{RAFT_FED_KIND} record"):
            fields = load(body)
            return cls(uint64(fields["cluster_id"]), uint64(fields["pd_store_id"]))


def check_readable_alone(view: View, path: str) -> None:
    """Raise `RaftFedError` if a store must be read through the process that TiKV feeds."""
    if view.of_kind(RAFT_FED_KIND):
        raise RaftFedError(path)


def check_not_learned(view: View) -> None:
    """Raise `OptionError` if a store is fed by TiKV."""
    if view.of_kind(RAFT_FED_KIND):
        raise OptionError("store", "is fed by TiKV: only theflash learn writes it")
