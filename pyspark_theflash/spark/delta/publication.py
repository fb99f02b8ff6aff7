"""The publication table: the commit point of a store of the engine delta.

    PATH/publications        records, as in the manifest of other engines; one commit a publication
    PATH/tables/<table id>   versions of the rows of a TiDB table

A row of `publications` puts or deletes a record: the state is the newest row of each (kind, key).
Besides the records of the layers above (schema history, progress, ledger), there are

    delta-store     ""              id and format of the store
    delta-writer    ""              token and id of the newest writer
    delta-table     table id        published version of its Delta table
    delta-home      physical id     table whose Delta table has its rows, and the kind of its
                                    handles; never changes
    delta-shape     number          ids of the columns of a set (`_shape`)
    delta-odd       physical id,    the column has dates that do not exist
                    column id

A publication first commits rows to Delta tables, in versions that are not read yet. Then one commit
of `publications` has the numbers of these versions and all records. Readers take the versions from
one version of `publications`, so they see all of a transaction over several tables or nothing.
"""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import BinaryType, LongType, StringType, StructField, StructType

from pyspark_theflash.base.errors import (
    StaleTokenError,
    StoreExistsError,
    StoreFormatError,
    StoreNotFoundError,
)
from pyspark_theflash.base.failpoint import fail_point
from pyspark_theflash.base.types import ColumnID, FencingToken, Generation, PhysicalTableID, TableID
from pyspark_theflash.spark.delta import table
from pyspark_theflash.spark.delta.table import BatchId
from pyspark_theflash.storage.store.manifest import ManifestChange, Record, View
from pyspark_theflash.tidb.codec.document import boolean, int64, load, shaped, text, uint64

STORE_KIND: Final = "delta-store"
WRITER_KIND: Final = "delta-writer"
TABLE_KIND: Final = "delta-table"
HOME_KIND: Final = "delta-home"
SHAPE_KIND: Final = "delta-shape"
ODD_KIND: Final = "delta-odd"
FORMAT: Final = 1
REPLACED_EVERY: Final = 64
"""Number of publications after which one replaces all rows of the publication table."""
_CLAIMS: Final = 20
_SCHEMA: Final = StructType(
    [
        StructField("generation", LongType()),
        StructField("kind", StringType()),
        StructField("key", StringType()),
        StructField("body", BinaryType()),
    ]
)


@dataclass(frozen=True, slots=True)
class Home:
    """Place of the rows of a physical table: a TiDB table's Delta table."""

    table_id: TableID
    is_common: bool

    def to_json(self) -> bytes:
        return json.dumps([self.table_id, self.is_common]).encode()

    @classmethod
    def from_json(cls, body: bytes) -> "Home":
        table_id, is_common = load(body)
        return cls(TableID(int64(table_id)), boolean(is_common))


@dataclass(frozen=True, slots=True)
class PublishedState:
    """The records after a publication."""

    generation: Generation
    records: Mapping[str, Mapping[str, bytes]] = field(repr=False)

    def view(self) -> View:
        """Return all records as a view, in key order."""
        return View(
            self.generation, {k: dict(sorted(of.items())) for k, of in self.records.items()}
        )

    @property
    def store_id(self) -> str:
        """The store's id."""
        with shaped(f"{STORE_KIND} record"):
            return text(load(self.records[STORE_KIND][""])["id"])

    @property
    def token(self) -> FencingToken:
        """The token of the newest writer; 0 if there was none."""
        if (body := self.records.get(WRITER_KIND, {}).get("")) is None:
            return FencingToken(0)
        with shaped(f"{WRITER_KIND} record"):
            return FencingToken(uint64(load(body)["token"]))

    @property
    def versions(self) -> dict[TableID, int]:
        """Published versions of the Delta tables."""
        with shaped(f"{TABLE_KIND} record"):
            return {
                TableID(int(key)): int64(load(body))
                for key, body in self.records.get(TABLE_KIND, {}).items()
            }

    @property
    def homes(self) -> dict[PhysicalTableID, "Home"]:
        """The places of the rows of physical tables."""
        with shaped(f"{HOME_KIND} record"):
            return {
                PhysicalTableID(int(key)): Home.from_json(body)
                for key, body in self.records.get(HOME_KIND, {}).items()
            }

    @property
    def shapes(self) -> dict[int, frozenset[int]]:
        """The sets of columns by number."""
        with shaped(f"{SHAPE_KIND} record"):
            return {
                int(key): frozenset(int64(id) for id in load(body))
                for key, body in self.records.get(SHAPE_KIND, {}).items()
            }

    @property
    def odd(self) -> frozenset[tuple[PhysicalTableID, ColumnID]]:
        """The columns of physical tables that have dates that do not exist."""
        with shaped(f"{ODD_KIND} record"):
            pairs = (key.split(",") for key in self.records.get(ODD_KIND, {}))
            return frozenset((PhysicalTableID(int(i)), ColumnID(int(c))) for i, c in pairs)

    def changed(self, generation: Generation, change: ManifestChange) -> "PublishedState":
        """Return the state after a change."""
        records = {kind: dict(of) for kind, of in self.records.items()}
        for kind, key in change.deletes:
            records.get(kind, {}).pop(key, None)
        for put in change.puts:
            records.setdefault(put.kind, {})[put.key] = put.body
        return PublishedState(generation, records)


class Publications:
    """The publication table of a store."""

    def __init__(self, spark: SparkSession, path: str) -> None:
        self.spark, self.path = spark, path.rstrip("/")
        self._table = f"{self.path}/publications"
        self._version = -1

    def table_path(self, table_id: TableID) -> str:
        """Return the path of a TiDB table's Delta table."""
        return f"{self.path}/tables/{table_id}"

    def create(self, settings: Iterable[Record] = ()) -> str:
        """Create an empty store; return its id.

        Raises:
            StoreExistsError: There is a store.
        """
        if table.exists(self.spark, self._table):
            raise StoreExistsError(self.path)
        store_id = uuid.uuid4().hex
        body = json.dumps({"id": store_id, "format": FORMAT}).encode()
        records = [Record(STORE_KIND, "", body), *settings]
        batch = BatchId(store_id, FencingToken(0), 0)
        table.append(self._rows(Generation(1), ManifestChange(records)), self._table, batch)
        return store_id

    def read(self) -> PublishedState:
        """Return the newest state.

        Raises:
            StoreNotFoundError: There is no store.
            StoreFormatError: A newer version of this package wrote the store.
        """
        if not table.exists(self.spark, self._table):
            raise StoreNotFoundError(self.path)
        rows = table.read(self.spark, self._table).toArrow().to_pylist()
        newest: dict[tuple[str, str], tuple[int, bytes | None]] = {}
        for row in rows:
            key = row["kind"], row["key"]
            if key not in newest or row["generation"] >= newest[key][0]:
                newest[key] = row["generation"], row["body"]
        records: dict[str, dict[str, bytes]] = {}
        for (kind, name), (_, body) in newest.items():
            if body is not None:
                records.setdefault(kind, {})[name] = body
        state = PublishedState(Generation(max((g for g, _ in newest.values()), default=0)), records)
        if STORE_KIND not in records:
            raise StoreNotFoundError(self.path)
        with shaped(f"{STORE_KIND} record"):
            written = uint64(load(records[STORE_KIND][""])["format"])
        if written > FORMAT:
            raise StoreFormatError(self.path, written, FORMAT)
        return state

    def claim(self) -> PublishedState:
        """Become the store's writer, and return the state. An earlier writer can commit no more.

        Raises:
            StoreNotFoundError: There is no store.
            StaleTokenError: Others became the writer each time.
        """
        for _ in range(_CLAIMS):
            state = self.read()
            token = FencingToken(state.token + 1)
            body = json.dumps({"token": token, "writer": uuid.uuid4().hex}).encode()
            change = ManifestChange([Record(WRITER_KIND, "", body)])
            batch = BatchId(state.store_id, token, 0)
            generation = Generation(state.generation + 1)
            table.append(self._rows(generation, change), self._table, batch)
            # Another writer may have published before the claim, or have claimed the same token.
            claimed = self.read()
            if claimed.records[WRITER_KIND].get("") == body:
                self._version = table.newest_version(self.spark, self._table)
                return claimed
        raise StaleTokenError(token, claimed.token)

    def commit(
        self, state: PublishedState, change: ManifestChange, batch: BatchId
    ) -> PublishedState:
        """Publish a change of the records in one commit; return the new state.

        Raises:
            StaleTokenError: Another writer has taken over, and nothing was published.
        """
        generation = Generation(state.generation + 1)
        changed = state.changed(generation, change)
        replaces = generation % REPLACED_EVERY == 0
        rows = self._rows(generation, changed if replaces else change)
        fail_point("delta.before_publication")
        table.append(rows, self._table, batch, replaces=replaces)
        commits = table.commits_after(self.spark, self._table, self._version)
        self._version = next((c.version for c in commits if c.tag == batch.tag), -1)
        if self._version < 0:
            raise StaleTokenError(batch.token, self.read().token)
        return changed

    def _rows(self, generation: Generation, change: "ManifestChange | PublishedState") -> DataFrame:
        records: list[tuple[str, str, bytes | None]]
        if isinstance(change, PublishedState):
            records = [
                (k, key, body) for k, of in change.records.items() for key, body in of.items()
            ]
        else:
            puts = {(r.kind, r.key) for r in change.puts}
            records = [(r.kind, r.key, r.body) for r in change.puts]
            records += [(*key, None) for key in change.deletes if key not in puts]
        rows = [(int(generation), *record) for record in records]
        return self.spark.createDataFrame(rows, _SCHEMA).coalesce(1)
