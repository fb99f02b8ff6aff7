"""Scripts of visibility whose expected output shows the files of the engine *magic*.

They have one more command: `stored` shows every version as it is stored, with its file, its end,
and the version that it replaces. The other scripts are `pyspark_theflash/testing/scripts`.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pyspark_theflash.base.types import MAX_TS
from pyspark_theflash.storage.engine.magic.file import FILE_KIND, DataFile
from pyspark_theflash.storage.mvcc.version import Op
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.testing.script import check_script
from pyspark_theflash.testing.visibility import FS, Visibility
from tests.support.golden_scripts import script_paths


class StoredVersions(Visibility):
    """The same, over the engine *magic*."""

    def do_stored(self) -> Iterator[str]:
        with closing(open_manifest(self._path, FS)) as manifest:
            records = manifest.read([FILE_KIND]).of_kind(FILE_KIND).values()
        files = sorted(map(DataFile.from_json, records), key=lambda f: f.number)
        order = {info.number: place for place, info in enumerate(files, 1)}
        for info in files:
            rows = pq.read_table(self._path / "data" / info.path).to_pylist()
            for place, version in enumerate(rows):
                op = Op(version["_op"]).name.lower()
                end = version["_superseded_ts"]
                yield (
                    f"file {order[info.number]} place {place}: row {version['_handle']}"
                    f" {op}@{version['_commit_ts']}"
                    + (f", superseded at {end}" if end != MAX_TS else "")
                    + _replaced(order.get(version["_previous_file"]), version["_previous_row"])
                )


def _replaced(file: int | None, place: int | None) -> str:
    return "" if file is None else f", replaces file {file} place {place}"


@pytest.mark.parametrize("path", script_paths("visibility"), ids=lambda path: path.stem)
def test_script(path: Path, tmp_path: Path) -> None:
    check_script(path, StoredVersions(tmp_path))
