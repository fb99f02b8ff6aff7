"""Files whose bytes are sound and whose content is not: only a check of everything finds them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.engine.magic.check import check_files
from pyspark_theflash.engine.magic.file import PREVIOUS_FILE, PREVIOUS_ROW, DataFile, encode_file
from pyspark_theflash.mvcc.version import SUPERSEDED_TS, version_schema
from pyspark_theflash.types import MAX_TS, ColumnID, PhysicalTableID

NEVER = int(MAX_TS)
FIRST = {
    "_handle": [1, 2, 2],
    "_commit_ts": [10, 10, 20],
    "_start_ts": [9, 9, 19],
    "_op": [1, 1, 1],
    "c1": ["a", "b", "c"],
    SUPERSEDED_TS: [NEVER, 20, NEVER],
    PREVIOUS_FILE: [None, None, None],
    PREVIOUS_ROW: [None, None, None],
}
SECOND = {
    "_handle": [2],
    "_commit_ts": [30],
    "_start_ts": [29],
    "_op": [0],
    "c1": [None],
    SUPERSEDED_TS: [NEVER],
    PREVIOUS_FILE: [1],
    PREVIOUS_ROW: [2],
}


def write(folder: Path, number: int, columns: dict[str, list[Any]]) -> DataFile:
    schema = version_schema(pa.int64(), [(ColumnID(1), pa.string())])
    for name, tp in (
        (SUPERSEDED_TS, pa.uint64()),
        (PREVIOUS_FILE, pa.uint64()),
        (PREVIOUS_ROW, pa.uint32()),
    ):
        schema = schema.append(pa.field(name, tp))
    table = pa.table(columns, schema=schema)
    encoded = encode_file(
        table, number=number, physical_id=PhysicalTableID(7), path=f"{number}", is_stable=False
    )
    (folder / encoded.info.path).write_bytes(encoded.data)
    return encoded.info


def damages(folder: Path, *files: DataFile) -> list[str]:
    return [damage.reason for damage in check_files(folder, files)]


def test_files_as_the_writer_makes_them_are_sound(tmp_path: Path) -> None:
    assert damages(tmp_path, write(tmp_path, 1, FIRST), write(tmp_path, 2, SECOND)) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"_handle": [2, 1, 1]}, "not sorted"),
        ({"_commit_ts": [10, 20, 20]}, "not sorted"),
        ({SUPERSEDED_TS: [NEVER, NEVER, NEVER]}, "end at another commit"),
        ({SUPERSEDED_TS: [15, 20, NEVER]}, "end at another commit"),
    ],
)
def test_rows_that_contradict_each_other(
    change: dict[str, list[Any]], reason: str, tmp_path: Path
) -> None:
    (found,) = damages(tmp_path, write(tmp_path, 1, {**FIRST, **change}))
    assert reason in found


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({PREVIOUS_FILE: [9]}, "unknown file 9"),
        ({PREVIOUS_ROW: [0]}, "not older versions"),
        ({PREVIOUS_ROW: [3]}, "not older versions"),
        ({"_commit_ts": [20]}, "not older versions"),
    ],
)
def test_pointers_that_lead_astray(
    change: dict[str, list[Any]], reason: str, tmp_path: Path
) -> None:
    first = write(tmp_path, 1, FIRST)
    (found,) = damages(tmp_path, first, write(tmp_path, 2, {**SECOND, **change}))
    assert reason in found


def test_a_description_of_another_file(tmp_path: Path) -> None:
    info = replace(write(tmp_path, 1, FIRST), min_commit_ts=11)
    assert damages(tmp_path, info) == ["is not the file that the manifest describes"]
