"""The row files under `tests/fixtures`: TiDB's answers, and its content before the binlog."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pyspark_theflash.tidb.codec.field_type import FieldType
from pyspark_theflash.tidb.schema.model import ROWID_NAME, ROWID_TYPE, TableInfo, parse_table_info

FIXTURES: Final = Path(__file__).parents[1] / "fixtures"


@dataclass(frozen=True)
class RowFile:
    """One file, with its entry in the index."""

    path: Path
    columns: tuple[str, ...]
    rows: int
    checksum: str
    checksum_without_rowid: str | None
    table: TableInfo

    def __str__(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def types(self) -> list[FieldType]:
        by_name = {column.name: column.type for column in self.table.columns}
        return [by_name.get(name, ROWID_TYPE) for name in self.columns]

    def lines(self) -> list[str]:
        with gzip.open(self.path, "rt", encoding="utf-8", newline="\n") as file:
            return [line.removesuffix("\n") for line in file]


def row_files(workload: str) -> Iterator[RowFile]:
    """All row files of a workload without DDL, of its base and of its truth."""
    folder = FIXTURES / workload
    tables = table_infos(workload)
    for entry in json.loads((folder / "base" / "base.json").read_text()):
        yield _row_file(folder / "base", entry, tables)
    for point in json.loads((folder / "truth" / "truth.json").read_text())["points"]:
        for entry in point["tables"]:
            if "file" in entry:
                yield _row_file(folder / "truth", entry, tables)


def table_infos(workload: str) -> dict[int, TableInfo]:
    """The tables of a workload without DDL, by id."""
    schema = json.loads(gzip.decompress((FIXTURES / workload / "schema.json.gz").read_bytes()))
    tables = (parse_table_info(e["db"], e["table"]) for e in schema["initial"])
    return {table.id: table for table in tables}


def _row_file(folder: Path, entry: dict[str, Any], tables: dict[int, TableInfo]) -> RowFile:
    without_rowid = entry.get("checksum_without_rowid")
    assert (without_rowid is not None) == (ROWID_NAME in entry["columns"])
    return RowFile(
        path=folder / entry["file"],
        columns=tuple(entry["columns"]),
        rows=entry["rows"],
        checksum=entry["checksum"],
        checksum_without_rowid=without_rowid,
        table=tables[entry["table_id"]],
    )
