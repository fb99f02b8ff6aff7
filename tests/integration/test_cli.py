"""The command line: what each command prints, in both forms, and how it ends."""

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.storage.store.writer_lock import WriterLock
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.archives import unpack
from tests.support.workloads import workload

PROJECT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]
TABLE = table_info(7, "db.t", [id_column(), column("name", MySQLType.VARCHAR)])
HIDDEN = table_info(8, "db.h", [column("a", MySQLType.LONG)], has_rowid=True)


@pytest.fixture
def builder(tmp_path: Path) -> StoreBuilder:
    """Two tables; readable from 100 to 300."""
    made = StoreBuilder(tmp_path / "store", TABLE, HIDDEN)
    rows = {TABLE: [(1, 110, [1, "one"]), (2, 120, [2, "zwei\n二"])], HIDDEN: [(5, 110, [50])]}
    made.publish(200, rows)
    return made.publish(300, {TABLE: [(1, 210, [1, "uno"]), (2, 220, None)]})


@pytest.fixture
def store(builder: StoreBuilder) -> Path:
    return builder.path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command: (status, stdout, stderr)."""

    def command(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture
def document(run: Run) -> Callable[..., Any]:
    """Run a command with --json; what it prints."""

    def command(*argv: object) -> Any:
        status, out, err = run(*argv, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)

    return command


def test_tables(store: Path, run: Run, document: Callable[..., Any]) -> None:
    assert run("tables", store)[1].splitlines()[2:] == [
        "db.h   8         1        1",
        "db.t   7         2        1",
        "readable from 100 (1970-01-01T00:00:00.000Z) to 300 (1970-01-01T00:00:00.000Z)",
    ]
    assert document("tables", store) == {
        "oldest_ts": 100,
        "resolved_ts": 300,
        "tables": [
            {"table": "db.h", "table_id": 8, "columns": 1, "partitions": 1, "not_loaded": None},
            {"table": "db.t", "table_id": 7, "columns": 2, "partitions": 1, "not_loaded": None},
        ],
    }


def test_tables_at_a_timestamp(store: Path, run: Run) -> None:
    newest = run("tables", store)[1]
    assert run("tables", store, "--at", 250)[1] == newest
    for ts, error in ((99, "SnapshotTooOldError"), (301, "NotCaughtUpError")):
        status, _, err = run("tables", store, "--at", ts)
        assert (status, err.split(":")[1]) == (4, f" {error}")


@pytest.mark.parametrize(
    "words", [["tables"], ["scan", "db.t"], ["fsck"], ["compact"], ["status"], ["latches"]]
)
def test_a_folder_of_another_user(store: Path, run: Run, words: list[str]) -> None:
    command, *others = words
    run(command, store, *others)  # imports the modules while they can be read
    format_file, user = store / "format", os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        else:
            format_file.chmod(0)
        status, _, err = run(command, store, *others)
    finally:
        os.seteuid(user)
        format_file.chmod(0o600)
    assert (status, err.split(":")[1]) == (7, " StoreAccessError")
    assert "theflash serve" in err
    assert str(store) in err


def test_an_empty_store(tmp_path: Path, run: Run, document: Callable[..., Any]) -> None:
    assert run("init", tmp_path / "s")[0] == 0
    assert document("status", tmp_path / "s")["retention_ms"] == 86_400_000
    assert document("tables", tmp_path / "s") == {
        "oldest_ts": None,
        "resolved_ts": None,
        "tables": [],
    }
    assert document("regions", tmp_path / "s") == {"regions": [], "purged": []}
    status = document("status", tmp_path / "s")
    assert (status["resolved_ts"], status["lag_ms"], status["rows"]) == (None, None, 0)
    assert run("status", tmp_path / "s")[0] == 0
    assert run("scan", tmp_path / "s", "db.t")[0] == 4
    assert run("pin", tmp_path / "s", "--ttl", 5)[0] == 4


def test_regions(store: Path, run: Run, document: Callable[..., Any]) -> None:
    assert run("compact", store)[0] == 0
    regions = document("regions", store)["regions"]
    assert [(r["table"], r["physical_id"], r["rows"], r["start"]) for r in regions] == [
        ("db.h", 8, 1, None),
        ("db.t", 7, 4, None),
    ]
    assert all(r["bytes"] > 0 and (r["files"], r["deltas"]) == (1, 0) for r in regions)
    assert len(run("regions", store)[1].splitlines()) == 4


def test_what_was_purged_is_listed(store: Path, run: Run, document: Callable[..., Any]) -> None:
    assert run("compact", store)[0] == 0
    regions = {r["physical_id"]: r["region_id"] for r in document("regions", store)["regions"]}
    assert run("purge", store, 7, regions[7])[:2] == (0, "purged 4 versions\n")
    assert run("purge", store, 7, regions[7])[:2] == (0, "purged 0 versions\n")
    gap = {"physical_id": 7, "region_id": regions[7], "start": None, "end": None}
    assert document("regions", store)["purged"] == [gap]
    assert run("regions", store)[1].splitlines()[-1].startswith("purged of physical table 7: ")
    assert (run("scan", store, "db.t")[0], run("scan", store, "db.h")[0]) == (4, 0)


def test_partitions(store: Path, run: Run, document: Callable[..., Any], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    assert run("compact", store)[0] == 0
    digest = run("digest", store, "db.t")
    assert run("partitions", store, "--add", disk)[:2] == (0, "partition 1\n")
    assert run("partitions", store, "--add", disk)[:2] == (0, "partition 1\n")
    regions = {r["physical_id"]: r for r in document("regions", store)["regions"]}
    assert run("move", store, 7, regions[7]["region_id"], 1)[0] == 0
    assert run("mirror", store, 8, regions[8]["region_id"], 1)[0] == 0
    home, other = document("partitions", store)["partitions"]
    assert (home["files"], home["fault"], other["files"], other["fault"]) == (1, None, 2, None)
    assert (other["folder"], run("digest", store, "db.t")) == (str(disk), digest)
    shown = run("partitions", store)[1].splitlines()
    assert [line.split()[:2] for line in shown[2:]] == [["0", "1"], ["1", "2"]]
    assert [line.split()[-1] for line in run("regions", store)[1].splitlines()[2:]] == ["0,1", "1"]
    assert run("fsck", store)[0] == 0
    disk.rename(tmp_path / "unplugged")
    assert run("digest", store, "db.h")[0] == 0
    status, _, err = run("digest", store, "db.t")
    assert (status, "partition 1 is missing" in err) == (7, True)
    assert run("fsck", store)[0] == 1
    assert document("partitions", store)["partitions"][1]["fault"]
    for words in (["--remove", 1], ["--remove", 0], ["--add", store / "data"]):
        assert run("partitions", store, *words)[0] == 2
    (tmp_path / "unplugged").rename(disk)
    assert run("move", store, 7, regions[7]["region_id"], 0)[0] == 0
    assert run("move", store, 8, regions[8]["region_id"], 0)[0] == 0
    assert run("partitions", store, "--remove", 1)[0] == 0
    assert not [path for path in disk.rglob("*") if path.is_file()]
    assert run("digest", store, "db.t") == digest
    assert run("partitions", store, "--add", disk)[0] == 0
    assert run("partitions", "theflash://127.0.0.1:1")[0] == 2


def test_status(store: Path, run: Run, document: Callable[..., Any]) -> None:
    assert run("compact", store)[0] == 0
    status = document("status", store)
    assert status["resolved_time"] == "1970-01-01T00:00:00.000Z"
    assert status["lag_ms"] > 1_000_000_000_000
    expected = {
        "engine": "magic",
        "format": 4,
        "resolved_ts": 300,
        "oldest_ts": 100,
        "writer": None,
        "interval_ms": None,
        "pending_transactions": 0,
        "held_by_start_ts": None,
        "ledger_entries": 0,
        "latches": 0,
        "physical_tables": 2,
        "rows": 5,
    }
    assert {name: status[name] for name in expected} == expected
    lock = WriterLock(store)
    assert document("status", store)["writer"]["pid"] == os.getpid()
    assert f"process {os.getpid()} on" in run("status", store)[1]
    assert document("latches", store)["writer"]["pid"] == os.getpid()
    assert run("latches", store)[1].splitlines()[2].startswith("writer")
    lock.release()
    assert run("interval", store, "2.5")[:2] == (0, "polling every 2500 ms\n")
    assert document("status", store)["interval_ms"] == 2500


def test_what_holds_a_writer_back(tmp_path: Path, run: Run, document: Callable[..., Any]) -> None:
    bank, store = workload("bank"), tmp_path / "store"
    assert run("init", store)[0] == 0
    arguments = bank.writer_arguments(store)[:-2]
    source = tmp_path / "cut.bin"
    source.write_bytes(gzip.decompress(bank.binlog.read_bytes())[:300_000])
    arguments[arguments.index("--source") + 1] = f"file:{source}"
    main(["writer", *arguments])
    status = document("status", store)
    assert status["pending_transactions"] > 0
    assert status["held_by_start_ts"] is not None
    assert status["ledger_bytes"] == 32 * status["ledger_entries"] > 0


def test_pins(store: Path, run: Run, document: Callable[..., Any]) -> None:
    status, out, _ = run("pin", store, "--at", 150, "--ttl", 60)
    pin = out.strip()
    assert status == 0
    (latch,) = document("latches", store)["latches"]
    assert (latch["id"], latch["kind"], latch["snapshot_ts"]) == (pin, "pin", 150)
    assert latch["generation"] is None
    assert 0 < latch["expires_in_ms"] <= 60_000
    assert latch["holder"]["pid"] == os.getpid()
    assert run("latches", store)[1].splitlines()[2].startswith(f"pin   {pin}  150")
    gc = run("gc", store, "--safe-point", 300)[1]
    assert gc.startswith(f"safe point {shown(150)}, held back by the pin latch of process ")
    assert run("scan", store, "db.t", "--at", 149)[0] == 4
    assert run("pin", store, "--at", 149, "--ttl", 60)[0] == 4
    assert run("pin", store, "--at", 301, "--ttl", 60)[0] == 4
    assert run("unpin", store, pin)[:2] == (0, "")
    status, _, err = run("unpin", store, pin)
    assert (status, err.split(":")[1]) == (3, " LatchNotFoundError")
    assert run("pin", store, "--ttl", 0)[0] == 2
    assert run("pin", store)[0] == 2


def test_upkeep(store: Path, run: Run, document: Callable[..., Any]) -> None:
    before = [run("digest", store, "db.t", "--at", at)[1] for at in (250, 300)]
    assert run("compact", store)[:2] == (0, "compacted 5 versions of 3 files into 5 of 2\n")
    status, out, _ = run("gc", store, "--safe-point", 250)
    assert status == 0
    assert out.startswith(
        f"safe point {shown(250)}: dropped 3 versions and 0 tables, forgot 0 transactions;"
    )
    assert [run("digest", store, "db.t", "--at", at)[1] for at in (250, 300)] == before
    assert run("retention", store, 5)[:2] == (0, "garbage collection keeps 5 s of history\n")
    assert document("status", store)["retention_ms"] == 5000
    for more in ([], ["--dry-run"], ["--safe-point", 100]):
        status, out, _ = run("gc", store, *more)
        assert status == 0
        assert "never decreases" in out
        assert run("tables", store)[1].splitlines()[-1].startswith(f"readable from {shown(250)}")
    assert run("stop", store)[:2] == (0, "no writer is running\n")
    lock = WriterLock(store)
    status, _, err = run("compact", store, "--timeout", "0.05")
    assert (status, err.split(":")[1]) == (5, " CommandTimeoutError")
    lock.release()
    assert run("fsck", store)[0] == 0


# -- scan


def test_a_table_for_people(store: Path, run: Run) -> None:
    assert run("scan", store, "db.t", "--at", 200)[:2] == (
        0,
        "id  name\n--  ------------\n1   one\n2   zwei\\n\\u4e8c\n",
    )
    assert run("scan", store, "DB.T", "--columns", "name")[1].splitlines() == [
        "name",
        "----",
        "uno",
    ]


def test_a_table_wider_further_down(run: Run, tmp_path: Path) -> None:
    rows = [(n, 110, [n, "x" * (n // 1000)]) for n in range(3000)]
    store = StoreBuilder(tmp_path / "store", TABLE).publish(200, {TABLE: rows}).path
    lines = run("scan", store, "db.t")[1].splitlines()
    assert len(lines) == 3002
    assert lines[1] == "---  ----"
    assert lines[-1] == "2999  xx"


def test_rowid(store: Path, run: Run) -> None:
    for words, header in [
        ([], ["a"]),
        (["--rowid"], ["a", "_tidb_rowid"]),
        (["--columns", "_tidb_rowid", "--rowid"], ["_tidb_rowid"]),
    ]:
        assert run("scan", store, "db.h", *words)[1].splitlines()[0].split() == header
    assert run("scan", store, "db.t", "--rowid", "--format", "jsonl")[1] == '["1","uno"]\n'
    assert run("scan", store, "db.h", "--rowid", "--format", "jsonl")[1] == '["50","5"]\n'


@pytest.mark.parametrize("name", ["db.t", "db.h"])
def test_every_format_says_the_same(
    store: Path, tmp_path: Path, name: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    words = ["scan", str(store), name, "--rowid"]
    with open_snapshot(store) as snapshot:
        table = snapshot.table(name)
        columns = [c.name for c in table.public_columns] + ["_tidb_rowid"] * table.has_rowid
        expected = pa.Table.from_batches(list(snapshot.scan(name, columns))).to_pylist()
    assert expected
    for form in ("arrow", "parquet"):
        file = tmp_path / f"out.{form}"
        assert main([*words, "--format", form, "--output", str(file)]) == 0
        read = pa.ipc.open_stream(file.read_bytes()).read_all if form == "arrow" else None
        assert (read() if read else pq.read_table(file)).to_pylist() == expected
    for form in ("jsonl", "table", "csv", "arrow"):
        file = tmp_path / f"{form}.out"
        assert main([*words, "--format", form, "--output", str(file)]) == 0
        capfdbinary.readouterr()
        assert main([*words, "--format", form]) == 0
        assert file.read_bytes() == capfdbinary.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_no_rows_have_types_all_the_same(tmp_path: Path) -> None:
    store = StoreBuilder(tmp_path / "store", TABLE).publish(200).path
    for form in ("arrow", "parquet", "jsonl"):
        words = ["scan", str(store), "db.t", "--format", form, "--output", str(tmp_path / form)]
        assert main(words) == 0
    schema = pa.schema([("id", pa.int64()), ("name", pa.string())])
    assert pa.ipc.open_stream((tmp_path / "arrow").read_bytes()).schema == schema
    assert pq.read_table(tmp_path / "parquet").schema == schema
    assert (tmp_path / "jsonl").read_bytes() == b""


def test_csv_tells_null_from_an_empty_string(tmp_path: Path, run: Run) -> None:
    values = ["", None, "a,b", 'say "x"', "two\nlines", "\r", "é", " "]
    binary = column("b", MySQLType.BLOB, charset="binary")
    blob = table_info(7, "db.t", [id_column(), column("name", MySQLType.VARCHAR), binary])
    rows = [
        (n, 110, [n, value, value and value.encode("latin1")]) for n, value in enumerate(values)
    ]
    store = StoreBuilder(tmp_path / "store", blob).publish(200, {blob: rows}).path
    out = tmp_path / "rows.csv"
    assert run("scan", store, "db.t", "--format", "csv", "--output", out)[0] == 0
    read = csv.read_csv(
        out,
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types={"name": pa.string(), "b": pa.string()},
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    )
    expected = [
        {"id": n, "name": value, "b": value if value is None else _hex(value)}
        for n, value in enumerate(values)
    ]
    assert read.sort_by("id").to_pylist() == expected
    query = ["sql", store, "SELECT name, id FROM db.t WHERE id < 2 ORDER BY id"]
    assert run(*query, "--format", "csv")[1] == 'name,id\n"",0\n,1\n'


def _hex(value: str) -> str:
    return "0x" + value.encode("latin1").hex()


def test_a_condition_and_a_number_of_rows(tmp_path: Path, run: Run) -> None:
    built = StoreBuilder(tmp_path / "store", TABLE)
    for ts in (200, 300, 400):
        rows = [(n, ts - 90, [n, f"n{n % 5}"]) for n in range(ts, ts + 50)]
        built.publish(ts, {TABLE: rows})

    def ids(*words: str) -> list[int]:
        printed = run("scan", built.path, "db.t", "--columns", "id", "--format", "jsonl", *words)[1]
        return [int(json.loads(line)[0]) for line in printed.splitlines()]

    every = {n for ts in (200, 300, 400) for n in range(ts, ts + 50)}
    assert set(ids()) == every
    for limit in (1, 50, 51, 149, 150, 1000):
        chosen = ids("--limit", str(limit))
        assert len(chosen) == len(set(chosen)) == min(limit, 150)
        assert set(chosen) <= every
    matching = {n for n in every if n > 310 and n != 412}
    assert set(ids("--where", "id > 310 AND id <> 412")) == matching
    assert set(ids("--where", "id > 310 AND id <> 412", "--limit", "4")) < matching
    assert len(ids("--where", "id > 310 AND id <> 412", "--limit", "4")) == 4
    assert run("scan", built.path, "db.t", "--where", "nope = 1")[0] == 2
    for wrong in ("0", "-1", "x"):
        status, _, err = run("scan", built.path, "db.t", "--limit", wrong)
        assert (status, "number of rows" in err) == (2, True)


def test_a_file_is_whole_or_not_there(
    store: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    status, _, err = run("scan", store, "db.t", "--output", out)
    assert (status, out.read_text()) == (2, "mine")
    assert "already exists" in err
    assert run("scan", store, "db.t", "--output", tmp_path / "no" / "out")[0] == 2
    out.unlink()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyspark_theflash.cli.rows.print_table", fail)
    status, _, err = run("scan", store, "db.t", "--output", out)
    assert (status, err.split(":")[1]) == (7, " StoreFullError")
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_formats_that_are_no_text(store: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _, err = run("scan", store, "db.t", "--format", "parquet")
    assert status == 2
    assert "--output" in err
    monkeypatch.setattr(sys, "stdout", _Terminal())
    assert main(["scan", str(store), "db.t", "--format", "arrow"]) == 2


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_waiting(builder: StoreBuilder, store: Path, run: Run) -> None:
    assert run("scan", store, "db.t", "--at", 300, "--wait", 0)[0] == 0
    status, _, err = run("scan", store, "db.t", "--at", 301, "--wait", "0.1")
    assert (status, err.split(":")[1]) == (4, " NotCaughtUpError")

    def publish() -> None:
        SystemClock().sleep_ms(200)
        builder.publish(400)

    writer = threading.Thread(target=publish)
    writer.start()
    assert run("scan", store, "db.t", "--at", 400, "--wait", 60, "--format", "jsonl")[0] == 0
    writer.join()


@pytest.mark.parametrize(
    "form",
    ["arrow", *(pytest.param(f, marks=pytest.mark.slow) for f in ("jsonl", "table"))],
)
def test_whoever_reads_may_stop(store: Path, form: str) -> None:
    command = [sys.executable, "-m", "pyspark_theflash.cli.main", "scan", str(store), "db.t"]
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" | true', "sh", *command, "--format", form],
        cwd=PROJECT,
        capture_output=True,
        check=False,
    )
    assert done.stderr == b""


# -- exit statuses


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["scan", "{store}", "db.t", "--at", "x"], 2),
        (["scan", "{store}", "db.t", "--columns", "nope"], 2),
        (["scan", "{store}", "db.t", "--columns", "id,ID"], 2),
        (["scan", "{store}", "db.t", "--wait", "-1"], 2),
        (["interval", "{store}", "nan"], 2),
        (["interval", "{store}", "0"], 2),
        (["retention", "{store}", "-1"], 2),
        (["gc", "{store}", "--safe-point", "1795248306157"], 2),
        (["scan", "{store}", "db.nope"], 3),
        (["status", "{store}/no"], 3),
        (["latches", "{store}/no"], 3),
        (["regions", "{store}/no"], 3),
        (["compact", "{store}/no"], 3),
        (["gc", "{store}/no"], 3),
        (["unpin", "{store}", "nope"], 3),
        (["digest", "{store}", "db.t", "--at", "301"], 4),
        (["digest", "{store}", "db.t", "--at", "99"], 4),
    ],
)
def test_a_failure_is_one_line_and_a_status(
    store: Path, run: Run, words: list[str], status: int
) -> None:
    exit_code, out, err = run(*(word.format(store=store) for word in words))
    assert (exit_code, out) == (status, "")
    assert err.startswith("theflash: ")
    assert err.count("\n") == 1


COMMANDS = [
    ["tables"],
    ["regions"],
    ["status"],
    ["scan", "db.t"],
    ["digest", "db.t"],
    ["fsck"],
    ["compact"],
    ["gc"],
    ["pin", "--ttl", "5"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_damaged_manifest_is_corruption(store: Path, run: Run, words: list[str]) -> None:
    (store / "ack").write_bytes(b"x")
    command, *rest = words
    status, _, err = run(command, store, *rest)
    assert (status, err.split(":")[1]) == (6, " CorruptionError")


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_later_format_is_refused(store: Path, run: Run, words: list[str]) -> None:
    (store / "format").write_text("theflash-store 6\n")
    before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    command, *rest = words
    status, _, err = run(command, store, *rest)
    assert (status, err.split(":")[1]) == (7, " StoreFormatError")
    assert {p: p.read_bytes() for p in store.rglob("*") if p.is_file()} == before


def test_a_store_of_format_1(fixtures: Path, tmp_path: Path, run: Run) -> None:
    unpack(fixtures / "stores" / "format1.tar.gz", tmp_path)
    assert run("fsck", tmp_path / "format1")[0] == 0
    assert run("status", tmp_path / "format1")[0] == 0
    assert run("digest", tmp_path / "format1", "bank.acc_int")[0] == 0


def test_spark_conf(store: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark_theflash.cli import spark_conf

    monkeypatch.chdir(store.parent)
    status, out, err = run("spark-conf", "--store", "store", "--catalog", "tidb")
    assert (status, err) == (0, "")
    for part in (
        "--jars /",
        "--packages io.theflash:theflash-spark-4.2_2.13:",
        "HiveThriftServer2",
    ):
        assert part in out
    assert f"\nspark.sql.catalog.tidb.store {store}\n" in f"{out}\n"
    words = run("spark-conf", "--format", "arguments")[1].split()
    assert words[:3] == ["--jars", str(spark_conf.JAR), "--conf"]
    option = ("--store", "theflash://h:1", "--option", "token_file=/a b\\c")
    assert run("spark-conf", "--format", "defaults", *option)[1].splitlines()[-2:] == [
        "spark.sql.catalog.theflash.store theflash://h:1",
        "spark.sql.catalog.theflash.token_file /a b\\\\c",
    ]
    for wrong in ("none=1", "where", "token=secret"):
        status, _, err = run("spark-conf", "--store", "s", "--option", wrong)
        assert status == 2, err
    assert run("spark-conf", "--option", "where=1")[0] == 2


def test_completion_in_bash(run: Run) -> None:
    script = (
        run("completion")[1]
        + """
    complete_words() {
        COMP_WORDS=(theflash "$@"); COMP_CWORD=$#; _theflash; echo "${COMPREPLY[@]}"
    }
    complete_words sp
    complete_words scan STORE --wh
    """
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["spark-conf split spool", "--where"]


def test_python_m(store: Path) -> None:
    command = [sys.executable, "-m", "pyspark_theflash", "tables", store]
    assert "db.t" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
