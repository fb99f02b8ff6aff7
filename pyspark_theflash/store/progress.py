"""How far the writer has come, published together with the rows it is about."""

import json
from dataclasses import asdict, dataclass
from typing import Final

from pyspark_theflash.codec.document import load, shaped, text, uint64
from pyspark_theflash.store.manifest import Record, View
from pyspark_theflash.types import TimeStamp

PROGRESS_KIND: Final = "progress"


@dataclass(frozen=True, slots=True)
class Progress:
    """The writer's durable state. `position` is where in its source a following writer goes on.

    Invariants: `oldest_ts <= resolved_ts`; a snapshot is readable from `oldest_ts` to
    `resolved_ts`, both included; both only grow.
    """

    oldest_ts: TimeStamp
    resolved_ts: TimeStamp
    position: str | None = None

    def to_record(self) -> Record:
        return Record(PROGRESS_KIND, "writer", json.dumps(asdict(self)).encode())

    @classmethod
    def of(cls, view: View) -> "Progress | None":
        """None before the first publication. Raises `CodecError`."""
        body = view.of_kind(PROGRESS_KIND).get("writer")
        if body is None:
            return None
        with shaped(f"{PROGRESS_KIND} record"):
            fields = load(body)
            position = fields.get("position")
            return cls(
                TimeStamp(uint64(fields["oldest_ts"])),
                TimeStamp(uint64(fields["resolved_ts"])),
                None if position is None else text(position),
            )
