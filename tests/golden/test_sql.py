"""Scripts of statements of SQL, each executed by SQLite too, whose rows must be the same.

sql      execute a statement
rows     show the rows of a table
check    compare the rows at the timestamps of all statements so far
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import SqlError, TableNotFoundError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.read.sql.sql import run_sql
from pyspark_theflash.service.client import statement
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.testing.script import check_script
from tests.support.golden_scripts import script_paths
from tests.support.sql_oracle import SqlMirror


class Statements:
    """The commands of the scripts."""

    def __init__(self, folder: Path, engine: str = registry.MAGIC) -> None:
        registry.create(folder / "store", engine, LocalFileSystem())
        self._mirror = SqlMirror(connect(folder / "store"))
        # The process is tested elsewhere; it takes a second.
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(statement, "run_confined", run_sql)

    def do_sql(self, text: str) -> Iterator[str]:
        try:
            done = self._mirror.execute(text)
        except SqlError as error:
            # The lines after the first one show the query.
            yield f"{type(error).__name__}: {str(error).splitlines()[0]}"
            return
        except TableNotFoundError as error:
            yield f"{type(error).__name__}: {error.table}"
            return
        yield f"{done.rows} rows" if done.commit_ts else "nothing to write"

    def do_rows(self, table: str) -> Iterator[str]:
        yield from (" | ".join(map(str, row)) for row in self._mirror.rows(table))

    def do_check(self) -> None:
        self._mirror.check_history()

    def close(self) -> None:
        self._patch.undo()
        self._mirror.close()


@pytest.mark.parametrize("path", script_paths("sql"), ids=lambda path: path.stem)
def test_script(path: Path, tmp_path: Path) -> None:
    check_script(path, Statements(tmp_path))
