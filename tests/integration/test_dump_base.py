"""Bases that are folders of Dumpling, recorded from the real one: the rows are TiDB's answers."""

import gzip
import json
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.errors import TableNotLoadedError
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import open_snapshot
from tests.support.record_dumps import FORMS
from tests.support.sql_base import check_store, resolved_ts

FIXTURES = Path(__file__).parents[1] / "fixtures/dumpling"
OPTIONS = {
    "sql-raw": "escape-backslash=false&time-zone=UTC",
    "sql-zone": "time-zone=%2B08:00",
    "csv-raw": "escape-backslash=false&time-zone=UTC",
    "csv-plain": "csv-delimiter=&csv-separator=%7C%2B%7C&time-zone=UTC",
    "csv-zstd": "no-header=true&csv-null-value=nil&time-zone=UTC",
}
"""Options of the URL for the forms of `record_dumps`; UTC only for all others."""
NOT_LOADED = {"rowid": "clustered", "rowparts": "clustered", "stored": "generated"}
REFUSED = {"floats": "6 digits", "elements": "name is empty"}


@pytest.fixture(scope="session")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all dumps."""
    folder = tmp_path_factory.mktemp("dumps")
    with tarfile.open(FIXTURES / "dumps.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@cache
def truth() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        gzip.decompress((FIXTURES / "truth.json.gz").read_bytes())
    )
    return document


def command(folder: Path, base: str, *extra: str) -> list[str]:
    """The command that loads a new store; its sink has no changes."""
    (folder / "sink").mkdir(exist_ok=True)
    (folder / "sink/metadata").write_text(json.dumps({"checkpoint-ts": 1}))
    return [
        *("writer", str(folder / "store"), "--source", f"cdc:file://{folder}/sink?time-zone=UTC"),
        *("--schema", f"file:{FIXTURES}/schema.json.gz", "--include", "shop.*", "--once"),
        *(each for table in REFUSED for each in ("--exclude", f"shop.{table}")),
        *("--base", base, *extra),
    ]


@pytest.mark.parametrize("form", FORMS)
def test_the_store_has_the_rows_of_tidb(form: str, dumps: Path, tmp_path: Path) -> None:
    url = f"dump:file://{dumps}/{form}?{OPTIONS.get(form, 'time-zone=UTC')}"
    assert main(["init", str(tmp_path / "store")]) == 0
    assert main(command(tmp_path, url)) == 0
    assert resolved_ts(tmp_path / "store") == truth()["ts"]
    left_out = {*NOT_LOADED, *REFUSED}
    tables = {name: list(map(tuple, rows)) for name, rows in truth()["tables"].items()}
    loaded = {name: rows for name, rows in tables.items() if name not in left_out}
    assert check_store(tmp_path / "store", loaded) > 6500
    with open_snapshot(tmp_path / "store") as snapshot:
        for name in NOT_LOADED:
            with pytest.raises(TableNotLoadedError):
                snapshot.plan(f"shop.{name}")


KILLED = """
import os, signal, sys
from pyspark_theflash.cli.main import main
from pyspark_theflash.replication.base import dump

decoded, left = dump.DumpBase._decoded, [14]

def kill(*arguments):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return decoded(*arguments)

dump.PIECE_BYTES = 4000
dump.DumpBase._decoded = kill
sys.exit(main(sys.argv[1:]))
"""
"""A program that kills itself at its 14th page of about 4,000 bytes."""


def test_a_killed_load_continues(dumps: Path, tmp_path: Path) -> None:
    url = f"dump:file://{dumps}/sql-small?time-zone=UTC"
    assert main(["init", str(tmp_path / "store")]) == 0
    only = [each for name in ("ci", "odd") for each in ("--exclude", f"shop.{name}")]
    run = [sys.executable, "-c", KILLED, *command(tmp_path, url, *only)]
    ends = [subprocess.run(run, capture_output=True, text=True, timeout=300)]
    while ends[-1].returncode == -9 and len(ends) < 20:
        ends.append(subprocess.run(run, capture_output=True, text=True, timeout=300))
    assert ends[-1].returncode == 0, ends[-1].stderr
    assert len(ends) > 2
    names = {"bytes", "hashes", "prefix", "parts", "types", "texts", "uns`igned", "empty"}
    rows = {n: [tuple(r) for r in rows] for n, rows in truth()["tables"].items() if n in names}
    assert check_store(tmp_path / "store", rows) > 5000
    # The last run has loaded only what was missing.
    loaded = int(ends[-1].stdout.split(" rows of the base")[0].split()[-1].replace(",", ""))
    assert 0 < loaded < 4000


@pytest.mark.parametrize("table", REFUSED)
def test_values_that_a_dump_does_not_determine(
    table: str, dumps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "store")]) == 0
    run = command(tmp_path, f"dump:file://{dumps}/csv?time-zone=UTC")
    patterns = run.index("shop.*")
    run = [*run[:patterns], f"shop.{table}", *run[run.index("--base") :], "--once"]
    assert main(run) != 0
    error = capsys.readouterr().err
    assert REFUSED[table] in error
    assert f"shop.{table}.000000000.csv, lines 2 to 3" in error


def test_a_folder_needs_no_url(
    dumps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has no time zone, so tables with TIMESTAMPs are refused."""
    folder = tmp_path / "a dump"
    folder.symlink_to(dumps / "sql")
    assert main(["init", str(tmp_path / "store")]) == 0
    assert main(command(tmp_path, str(folder))) == 2
    assert "is a TIMESTAMP: add ?time-zone=ZONE" in capsys.readouterr().err
    excluded = [x for name in ("types", "bytes") for x in ("--exclude", f"shop.{name}")]
    assert main(command(tmp_path, str(folder), *excluded)) == 0
    # A complete base is not read again.
    folder.unlink()
    assert main(command(tmp_path, f"dump:file://{dumps}/csv", *excluded)) == 0


def test_the_schema_must_begin_with_the_dump(
    dumps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dump").mkdir()
    for file in (dumps / "sql").iterdir():
        (tmp_path / "dump" / file.name).write_bytes(file.read_bytes())
    metadata = tmp_path / "dump/metadata"
    text, ts = metadata.read_text(), truth()["ts"]
    metadata.write_text(text.replace(str(ts), str(ts - 1)))
    assert main(["init", str(tmp_path / "store")]) == 0
    run = command(tmp_path, f"dump:file://{tmp_path}/dump?time-zone=UTC")
    assert main(run) == 2
    assert f"the rows at {ts - 1}, but the schema begins at {ts}" in capsys.readouterr().err
    metadata.write_text(text.partition("Finished")[0])
    assert main(run) == 2
    assert "does not say that Dumpling has finished" in capsys.readouterr().err
