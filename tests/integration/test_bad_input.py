"""Wrong input on the command line: a one-line message, an exit status, no lost data."""

import gzip
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pyspark_theflash.cli.main import main
from pyspark_theflash.tidb.schema.file import read_schema_file
from tests.support.workloads import check_answers, workload

BANK = workload("bank")
START_TS = read_schema_file(BANK.schema).start_ts
CONTENT = gzip.decompress(BANK.binlog.read_bytes())
FIRST_FRAME = 16 + int.from_bytes(CONTENT[4:12], "little")


@pytest.fixture
def failed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail with this status; returns the error's name."""

    def run(status: int, *arguments: object) -> str:
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == status
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        program, name, text = lines[0].split(": ", 2)
        assert program == "theflash"
        assert text
        return name

    return run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty store."""
    assert main(["init", str(tmp_path / "store")]) == 0
    return tmp_path / "store"


def binlog(folder: Path, content: bytes) -> Path:
    """A source file with this content."""
    path = folder / "bad.bin"
    path.write_bytes(content)
    return path


BAD_SOURCES = {
    "garbage": b"this is not a binlog, but it is longer than a frame's head",
    "flipped bit": CONTENT[:1000] + bytes([CONTENT[1000] ^ 4]) + CONTENT[1001:],
    "length of 2**62": CONTENT[:FIRST_FRAME]
    + struct.pack("<IQ", 471532804, 1 << 62)
    + CONTENT[FIRST_FRAME:],
    "wrong magic in the middle": CONTENT[:FIRST_FRAME] + b"\0" + CONTENT[FIRST_FRAME + 1 :],
    "gzip that is not": b"\x1f\x8b" + CONTENT[:100],
}


@pytest.mark.parametrize("content", BAD_SOURCES.values(), ids=BAD_SOURCES.keys())
def test_a_bad_binlog_is_corruption_and_the_right_one_applies_afterwards(
    content: bytes, store: Path, tmp_path: Path, failed: Callable[..., str]
) -> None:
    bad = BANK.writer_arguments(store, binlog(tmp_path, content))
    assert failed(6, "writer", *bad) == "BinlogCorruptionError"
    assert_right_input_applies(store)


def test_a_wrong_schema_file_is_refused_and_the_right_one_applies_afterwards(
    store: Path, tmp_path: Path, failed: Callable[..., str]
) -> None:
    source = ["--source", f"file:{BANK.binlog}", "--once"]
    other = workload("tpcc").schema
    assert failed(7, "writer", store, *source, "--schema", f"file:{other}") == "SchemaOutdatedError"
    for number, content in enumerate([b"", b"{", b"[]", b'{"start_ts": 1}', b"\x1f\x8bgarbage"]):
        file = tmp_path / f"schema{number}.json"
        file.write_bytes(content)
        assert failed(7, "writer", store, *source, "--schema", f"file:{file}") == "SchemaFileError"
    assert failed(2, "writer", store, *source, "--schema", f"file:{tmp_path}/no") == "OptionError"
    assert_right_input_applies(store)
    conflict = failed(7, "writer", store, *source, "--schema", f"file:{other}")
    assert conflict == "SchemaConflictError"


def test_a_table_cannot_change_its_history(
    store: Path, tmp_path: Path, failed: Callable[..., str]
) -> None:
    assert_right_input_applies(store)
    document = json.loads(gzip.decompress(BANK.schema.read_bytes()))
    document["initial"][0]["table"]["name"]["O"] = "renamed"
    (tmp_path / "schema.json").write_text(json.dumps(document))
    arguments = [
        "--source",
        f"file:{BANK.binlog}",
        "--schema",
        f"file:{tmp_path}/schema.json",
        "--once",
    ]
    assert failed(7, "writer", store, *arguments) == "SchemaConflictError"


def test_reads_that_cannot_be_answered(
    workload_store: Callable[[str], Path], tmp_path: Path, failed: Callable[..., str]
) -> None:
    bank, table = workload_store("bank"), "bank.acc_int"
    for command in ("scan", "digest"):
        assert failed(3, command, tmp_path / "no", table, "--at", START_TS) == "StoreNotFoundError"
        assert failed(3, command, bank, "bank.nothing", "--at", START_TS) == "TableNotFoundError"
        assert failed(4, command, bank, table, "--at", BANK.end_ts + 1) == "NotCaughtUpError"
        assert failed(4, command, bank, table, "--at", START_TS - 1) == "SnapshotTooOldError"
        assert failed(2, command, bank, table, "--at", "yesterday") == "UsageError"
    assert failed(2, "scan", bank, table, "--columns", "id,no") == "ColumnNotFoundError"
    assert failed(2, "scan", bank) == "UsageError"
    assert failed(2, "dance") == "UsageError"
    assert failed(7, "init", bank) == "StoreExistsError"
    assert failed(2, "init", tmp_path / "new", "--engine", "steam") == "OptionError"
    assert not (tmp_path / "new").exists()


def test_an_empty_store_cannot_answer(store: Path, failed: Callable[..., str]) -> None:
    assert failed(4, "scan", store, "bank.acc_int") == "NotCaughtUpError"


def test_sources_that_are_not_there(
    store: Path, tmp_path: Path, failed: Callable[..., str]
) -> None:
    schema = ["--schema", f"file:{BANK.schema}", "--once"]
    assert failed(2, "writer", store, "--source", f"file:{tmp_path}/no", *schema) == "OptionError"
    assert failed(2, "writer", store, "--source", f"{BANK.binlog}", *schema) == "OptionError"
    served = ["--source", f"pump-server:unix:{tmp_path}/pump", *schema]
    assert failed(2, "writer", store, *served) == "UsageError"
    assert failed(2, "writer", store, *served[:-1], "--allow", "tidb") == "OptionError"
    tcp = ["--source", "pump-server:127.0.0.1:0", *schema[:-1]]
    assert failed(2, "writer", store, *tcp) == "OptionError"
    unused = ["--source", f"file:{tmp_path}", *schema, "--insecure"]
    assert failed(2, "writer", store, *unused) == "UsageError"
    unknown = ["--source", f"kafka:{tmp_path}", *schema]
    assert failed(2, "writer", store, *unknown) == "OptionError"
    assert failed(3, "writer", *BANK.writer_arguments(tmp_path / "no")) == "StoreNotFoundError"


def test_an_incomplete_input_cannot_be_vouched_for(
    store: Path, tmp_path: Path, failed: Callable[..., str]
) -> None:
    """Complete transactions are applied, the others by the next run."""
    first_half = binlog(tmp_path, CONTENT[: len(CONTENT) // 2])
    assert (
        failed(4, "writer", *BANK.writer_arguments(store, first_half)) == "UnmatchedPrewriteError"
    )
    assert_right_input_applies(store)


def test_a_torn_tail_is_warned_about_and_not_an_error(
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    torn = binlog(tmp_path, CONTENT[: len(CONTENT) // 2])
    arguments = BANK.writer_arguments(store, torn)[:-2]
    assert main(["writer", *arguments]) == 0
    assert "truncated frame" not in caplog.text  # the file may be growing
    os.utime(torn, (0, 0))
    assert main(["writer", *arguments]) == 0
    assert "truncated frame" in caplog.text
    assert "pending for the next run" in capsys.readouterr().out
    assert_right_input_applies(store)


def assert_right_input_applies(store: Path) -> None:
    """The whole workload applies, and the store has TiDB's answers."""
    assert main(["writer", *BANK.writer_arguments(store)]) == 0
    assert check_answers(store, list(BANK.answers())[-5:]) == 5
