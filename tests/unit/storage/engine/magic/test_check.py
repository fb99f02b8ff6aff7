"""Files with right checksums and wrong content, which only a complete check detects."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.types import MAX_TS, ColumnID, PhysicalTableID, RegionID
from pyspark_theflash.storage.engine.magic.check import check_table
from pyspark_theflash.storage.engine.magic.file import (
    PREVIOUS_FILE,
    PREVIOUS_ROW,
    DataFile,
    FileKind,
)
from pyspark_theflash.storage.engine.magic.layout import Layout
from pyspark_theflash.storage.engine.magic.region import NO_REGION, Region
from pyspark_theflash.storage.mvcc.version import SUPERSEDED_TS, version_schema
from tests.support.data_files import encode_file

TABLE = PhysicalTableID(7)
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


def write(
    folder: Path,
    number: int,
    columns: dict[str, list[Any]],
    kind: FileKind = FileKind.DELTA,
    region_id: int = NO_REGION,
) -> DataFile:
    schema = version_schema(pa.int64(), [(ColumnID(1), pa.string())])
    for name, tp in (
        (SUPERSEDED_TS, pa.uint64()),
        (PREVIOUS_FILE, pa.uint64()),
        (PREVIOUS_ROW, pa.uint32()),
    ):
        schema = schema.append(pa.field(name, tp))
    table = pa.table(columns, schema=schema)
    encoded = encode_file(
        table, number=number, physical_id=TABLE, kind=kind, region_id=RegionID(region_id)
    )
    (folder / encoded.info.path).parent.mkdir(exist_ok=True)
    (folder / encoded.info.path).write_bytes(encoded.data)
    return encoded.info


def damages(folder: Path, *files: DataFile, regions: Sequence[Region] = ()) -> list[str]:
    layout = Layout.of(TABLE, regions, files)
    return [damage.reason for damage in check_table(folder, layout)]


def region(region_id: int, start: int | None, end: int | None) -> Region:
    return Region(TABLE, RegionID(region_id), start, end)


def test_files_as_the_writer_makes_them_are_sound(tmp_path: Path) -> None:
    assert damages(tmp_path, write(tmp_path, 1, FIRST), write(tmp_path, 2, SECOND)) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"_handle": [2, 1, 1]}, "not sorted"),
        ({"_commit_ts": [10, 20, 20]}, "not sorted"),
        ({SUPERSEDED_TS: [NEVER, NEVER, NEVER]}, "has a wrong _superseded_ts"),
        ({SUPERSEDED_TS: [15, 20, NEVER]}, "has a wrong _superseded_ts"),
    ],
)
def test_rows_that_contradict_each_other(
    change: dict[str, list[Any]], reason: str, tmp_path: Path
) -> None:
    (damage,) = damages(tmp_path, write(tmp_path, 1, {**FIRST, **change}))
    assert reason in damage


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({PREVIOUS_FILE: [9]}, "does not supersede"),
        ({PREVIOUS_ROW: [0]}, "does not supersede"),
        ({PREVIOUS_ROW: [3]}, "does not supersede"),
        ({"_handle": [3]}, "does not supersede"),
        ({"_commit_ts": [20]}, "does not supersede"),
        ({"_commit_ts": [15]}, "does not supersede"),
        ({PREVIOUS_FILE: [None], PREVIOUS_ROW: [None]}, "does not point to"),
    ],
)
def test_pointers_that_lead_astray(
    change: dict[str, list[Any]], reason: str, tmp_path: Path
) -> None:
    first = write(tmp_path, 1, FIRST)
    reported = damages(tmp_path, first, write(tmp_path, 2, {**SECOND, **change}))
    assert len(reported) == 1
    assert reason in reported[0]


def test_nothing_points_at_a_delete(tmp_path: Path) -> None:
    files = [write(tmp_path, 1, FIRST), write(tmp_path, 2, SECOND)]
    third = {**SECOND, "_commit_ts": [40], PREVIOUS_FILE: [2], PREVIOUS_ROW: [0]}
    (damage,) = damages(tmp_path, *files, write(tmp_path, 3, third))
    assert "does not supersede" in damage
    third = {**third, PREVIOUS_FILE: [None], PREVIOUS_ROW: [None]}
    assert damages(tmp_path, *files, write(tmp_path, 4, third)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 2},
        {"min_commit_ts": 11},
        {"max_commit_ts": 19},
        {"min_handle": 0},
        {"max_handle": 3},
        {"garbage_ts": 21},
        {"has_superseded": False},
    ],
)
def test_a_description_of_another_file(change: dict[str, Any], tmp_path: Path) -> None:
    info = replace(write(tmp_path, 1, FIRST), **change)
    assert damages(tmp_path, info) == ["does not match its manifest record"]


def test_a_description_that_hides_something(tmp_path: Path) -> None:
    first, second = write(tmp_path, 1, FIRST), write(tmp_path, 2, SECOND)
    for change in ({"has_deletes": False}, {"has_previous": False}):
        assert damages(tmp_path, first, replace(second, **change)) == [
            "does not match its manifest record"
        ]


def test_files_of_divided_tables(tmp_path: Path) -> None:
    """A delta covers several regions, whose other files do not."""
    stable = write(tmp_path, 1, FIRST, FileKind.STABLE, 3)
    delta = write(tmp_path, 2, SECOND)
    regions = [region(2, None, 1), region(3, 1, 5), region(4, 5, None)]
    assert damages(tmp_path, stable, delta, regions=regions) == []
    for narrower in (
        [region(2, None, 2), region(3, 2, None)],
        [region(3, None, 2), region(4, 2, None)],
    ):
        reported = damages(tmp_path, stable, delta, regions=narrower)
        assert reported[0] == "has rows outside of region 3"
    regions = [region(2, None, 1), region(5, 1, None)]
    assert damages(tmp_path, stable, regions=regions) == ["belongs to an unknown region 3"]
    other = write(tmp_path, 5, {**FIRST, "_handle": [6, 7, 7]}, FileKind.STABLE, 3)
    reported = damages(tmp_path, stable, other, regions=[region(3, None, None)])
    assert reported == ["is not its region's only stable file"]


@pytest.mark.parametrize(
    ("regions", "reason"),
    [
        ([region(2, None, 5)], "do not cover all handles"),
        ([region(2, 0, None)], "do not cover all handles"),
        ([region(2, None, 4), region(3, 5, None)], "gap between regions 2 and 3"),
        ([region(2, None, 6), region(3, 5, None)], "regions 2 and 3 overlap"),
        ([region(2, None, None), region(3, None, None)], "regions 2 and 3 overlap"),
    ],
)
def test_region_maps_with_holes(regions: list[Region], reason: str, tmp_path: Path) -> None:
    (damage,) = damages(tmp_path, write(tmp_path, 1, FIRST), regions=regions)
    assert reason in damage
