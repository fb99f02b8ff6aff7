"""Comparisons with TiKV by a store that follows a cluster (`replication/cdc/imports.py`).

TiKV's change feed does not have the rows of physical imports. Records:

    compared/TABLE_ID    the newest timestamp at which the table's rows were equal to TiKV's
    imports/             the revision of PD's etcd up to which imports have been looked for
"""

import json
from typing import Final

from pyspark_theflash.base.types import TableID, TimeStamp
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import int64, load, shaped, uint64

COMPARED_KIND: Final = "compared"
IMPORTS_KIND: Final = "imports"


def compared_record(table_id: TableID, ts: TimeStamp) -> Record:
    """Return the record of a table whose rows were equal at `ts`."""
    return Record(COMPARED_KIND, f"{table_id:020d}", json.dumps(ts).encode())


def compared_of(view: View) -> dict[TableID, TimeStamp]:
    """Return when each table's rows were equal; `view` has `COMPARED_KIND`. Raises `CodecError`."""
    with shaped(f"{COMPARED_KIND} record"):
        records = view.of_kind(COMPARED_KIND).items()
        return {TableID(int(key)): TimeStamp(uint64(load(body))) for key, body in records}


def imports_record(revision: int) -> Record:
    """Return the record of the revision up to which imports were looked for."""
    return Record(IMPORTS_KIND, "", json.dumps(revision).encode())


def imports_revision(view: View) -> int | None:
    """Return that revision; None if there is none. Raises `CodecError`."""
    body = view.of_kind(IMPORTS_KIND).get("")
    with shaped(f"{IMPORTS_KIND} record"):
        return None if body is None else int64(load(body))
