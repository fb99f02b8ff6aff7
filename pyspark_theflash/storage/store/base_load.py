"""Records of the load of a base that is read in pieces: by SQL, or from the files of Dumpling.

    plan               {"source": "mysql"}             the load has begun; kept when it has ended
    TABLE_ID           {"at": "[104, ...]", "rows": 12}

A table's record is written with the rows of a piece, 12 of them until then. `at` is where the base
continues, in a form of its own. The record is removed when the table is complete (`BASE_KIND`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.types import TableID
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import load, shaped, text, uint64

BASE_LOAD_KIND: Final = "base-load"
_PLAN: Final = "plan"


@dataclass(frozen=True, slots=True)
class TablePlace:
    """The place at which the load of a table continues; `rows` are in the store."""

    table_id: TableID
    at: str
    rows: int

    @property
    def key(self) -> str:
        """The record's key."""
        return f"{self.table_id:020d}"

    def to_record(self) -> Record:
        body = json.dumps({"at": self.at, "rows": self.rows}).encode()
        return Record(BASE_LOAD_KIND, self.key, body)


def plan_record(source: str) -> Record:
    """Return the record of a load that has begun to read a base."""
    return Record(BASE_LOAD_KIND, _PLAN, json.dumps({"source": source}).encode())


def plan_source(view: View) -> str | None:
    """Return the base of the load in progress; None if there is none. Raises `CodecError`."""
    body = view.of_kind(BASE_LOAD_KIND).get(_PLAN)
    if body is None:
        return None
    with shaped(f"{BASE_LOAD_KIND} record"):
        return text(load(body)["source"])


def places_of(view: View) -> Mapping[TableID, TablePlace]:
    """Return the places of the tables whose load has begun. Raises `CodecError`."""
    places = {}
    with shaped(f"{BASE_LOAD_KIND} record"):
        for key, body in view.of_kind(BASE_LOAD_KIND).items():
            if key != _PLAN:
                fields, table_id = load(body), TableID(int(key))
                places[table_id] = TablePlace(table_id, text(fields["at"]), uint64(fields["rows"]))
    return places
