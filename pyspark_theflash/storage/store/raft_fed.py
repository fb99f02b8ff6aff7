"""The mark of a store that TiKV feeds through raft.

What its tables hold is in the process that applies the commands as much as in the files: it has
what was not written out yet, the locks, and knows how far its regions are. So whoever finds the
mark reads through that process, and nobody else writes.
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
    """Which cluster feeds a store, and as which of its stores PD knows it; 0: as none."""

    cluster_id: int
    pd_store_id: int = 0

    def to_record(self) -> Record:
        return Record(RAFT_FED_KIND, _KEY, json.dumps(asdict(self)).encode())

    @classmethod
    def of(cls, view: View) -> "RaftFedMarker | None":
        """None where no TiKV feeds the store. Raises `CodecError`."""
        body = view.of_kind(RAFT_FED_KIND).get(_KEY)
        if body is None:
            return None
        with shaped(f"{RAFT_FED_KIND} record"):
            fields = load(body)
            return cls(uint64(fields["cluster_id"]), uint64(fields["pd_store_id"]))


def check_readable_alone(view: View, path: str) -> None:
    """Raise `RaftFedError` where the files of a store, of whose mark this is, are not all of it."""
    if view.of_kind(RAFT_FED_KIND):
        raise RaftFedError(path)


def check_not_learned(view: View) -> None:
    """Raise `OptionError` where a store, of whose mark this is, is fed by TiKV."""
    if view.of_kind(RAFT_FED_KIND):
        raise OptionError("store", "is fed by TiKV: only theflash learn writes it")
