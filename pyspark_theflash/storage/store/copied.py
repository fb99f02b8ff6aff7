"""Records of a store that is made as a copy of another (`replication.copy`).

    plan           {"source": "0a5f..", "history": true,
                    "progress": {"writer": [7, 900, "...", false]}}
    table-N        "80.." or 17: the rows below this handle are copied; null: all of them

The plan is published first, with the records that the copy takes over from its source. The progress
of the plan, and with it the first readable timestamp, is published last, when all rows are copied.
"""

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Final

from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.storage.store.command import handle_of, handle_text
from pyspark_theflash.storage.store.feed import MAIN, SIDE
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.tidb.codec.document import boolean, load, shaped, text, uint64

COPY_KIND: Final = "copy"
_PLAN: Final = "plan"
_TABLE: Final = "table-"


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """The source and the extent of a copy.

    Attributes:
        source: the id of the source store.
        history: whether a writer can continue the copy.
        progress: the progress of each feed of the copy, by its key.
    """

    source: str
    history: bool
    progress: Mapping[str, Progress]

    @property
    def resolved_ts(self) -> TimeStamp:
        """The newest timestamp at which all tables of the copy can be read."""
        return min(each.resolved_ts for each in self.progress.values())

    def to_record(self) -> Record:
        progress = {key: astuple(each) for key, each in self.progress.items()}
        body = {"source": self.source, "history": self.history, "progress": progress}
        return Record(COPY_KIND, _PLAN, json.dumps(body).encode())

    @classmethod
    def of(cls, view: View) -> "CopyPlan | None":
        """Decode the plan; None if the store is no copy. Raises `CodecError`."""
        body = view.of_kind(COPY_KIND).get(_PLAN)
        if body is None:
            return None
        with shaped(f"{COPY_KIND} record"):
            fields = load(body)
            progress = {text(key): _progress(*each) for key, each in fields["progress"].items()}
            return cls(text(fields["source"]), boolean(fields["history"]), progress)

    def progress_records(self) -> list[Record]:
        """Return the records that make the copy readable."""
        feeds = {feed.progress_key: feed for feed in (MAIN, SIDE)}
        return [each.to_record(feeds[key]) for key, each in self.progress.items()]


def _progress(
    oldest_ts: object, resolved_ts: object, position: object, follows: object
) -> Progress:
    oldest, resolved = TimeStamp(uint64(oldest_ts)), TimeStamp(uint64(resolved_ts))
    where = None if position is None else text(position)
    return Progress(oldest, resolved, where, boolean(follows))


def table_record(physical_id: PhysicalTableID, following: int | bytes | None) -> Record:
    """Return the record of a table whose rows below `following` are copied; None: all."""
    body = None if following is None else handle_text(following)
    return Record(COPY_KIND, _table_key(physical_id), json.dumps(body).encode())


def is_copied(view: View, physical_id: PhysicalTableID) -> bool:
    """Return whether all rows of a table are copied; `view` has `COPY_KIND`."""
    return view.of_kind(COPY_KIND).get(_table_key(physical_id)) == b"null"


def copied_to(view: View, physical_id: PhysicalTableID) -> int | bytes | None:
    """Return the first handle to copy; None: all. `view` has `COPY_KIND`. Raises `CodecError`."""
    body = view.of_kind(COPY_KIND).get(_table_key(physical_id))
    if body is None:
        return None
    with shaped(f"{COPY_KIND} record"):
        return handle_of(text(load(body)))


def table_keys(view: View) -> list[tuple[str, str]]:
    """Return the records to delete at the end; `view` has `COPY_KIND`."""
    return [(COPY_KIND, key) for key in view.of_kind(COPY_KIND) if key != _PLAN]


def _table_key(physical_id: PhysicalTableID) -> str:
    return f"{_TABLE}{physical_id:020d}"
