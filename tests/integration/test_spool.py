"""A message that the writer cannot apply is listed, and skipped by an operator.

A pump of this version does not acknowledge one; a spool of an earlier version may have it.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.replication.source.event import EntityKind
from pyspark_theflash.replication.source.wire import decode_entities
from tests.integration.test_orphans import (
    ANSWERS,
    BANK,
    SHORT,
    SHORT_TS,
    apply,
    orphans,
    store,
    until,
)
from tests.support import binlog_writer
from tests.support.lost_frames import binlog_file
from tests.support.processes import wait_until
from tests.support.serving import command
from tests.support.workloads import check_answers

__all__ = ["store"]

_COMMITS = [
    (at, entity.commit_ts)
    for at, message in enumerate(SHORT)
    if (entity := decode_entities(message, "", 0)[-1]).kind is EntityKind.COMMIT
]
AT, BEFORE_TS = _COMMITS[len(_COMMITS) // 2]
START_TS, COMMIT_TS = TimeStamp(BEFORE_TS + 1), TimeStamp(BEFORE_TS + 2)


def listed(store: Path, capsys: pytest.CaptureFixture[str], *options: object) -> list[Any]:
    capsys.readouterr()
    source = store.parent / "source.bin"
    command = ["spool", str(store), *map(str, options), "--spool", str(source), "--json"]
    assert main(command) == 0
    messages: list[Any] = json.loads(capsys.readouterr().out)["messages"]
    return [(each["kind"], each["start_ts"], bool(each["fault"])) for each in messages]


def skip(store: Path, start_ts: int) -> int:
    source = store.parent / "source.bin"
    return main(["spool", str(store), str(start_ts), "--skip", "--spool", str(source)])


def test_a_malformed_prewrite(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poison = binlog_writer.transaction(START_TS, COMMIT_TS, b"value")
    messages = [*SHORT[: AT + 1], *poison, *SHORT[AT + 1 :]]
    for _ in range(2):
        assert apply(store, messages, *until()) != 0
        assert "prewrite value: not a message" in capsys.readouterr().err
    assert listed(store, capsys) == [("prewrite", START_TS, True)]
    transaction = [("prewrite", START_TS, True), ("commit", START_TS, False)]
    assert listed(store, capsys, START_TS) == transaction
    assert main(["spool", str(store), "--skip"]) == 2
    assert main(["spool", "theflash://127.0.0.1:1"]) == 2
    assert skip(store, START_TS + 9) == 2
    assert "has no message" in capsys.readouterr().err
    assert skip(store, START_TS) == 0
    assert apply(store, messages, *until()) == 0
    assert check_answers(store, ANSWERS) == len(ANSWERS)
    assert [(o["start_ts"], o["state"]) for o in orphans(store, capsys)] == [
        (START_TS, "skipped by hand")
    ]
    assert skip(store, START_TS) == 2
    assert main(["fsck", str(store)]) == 0


def test_a_pending_prewrite_and_its_late_commit(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The prewrite is in the store, and not in the files any more."""
    prewrite, commit = binlog_writer.transaction(START_TS, COMMIT_TS, b"value")
    assert apply(store, [*SHORT[: AT + 1], prewrite]) == 0
    assert apply(store, [commit, *SHORT[AT + 1 :]]) != 0
    assert ("pending", START_TS, True) in listed(store, capsys)
    assert skip(store, START_TS) == 0
    assert apply(store, [commit, *SHORT[AT + 1 :]], *until()) == 0
    assert listed(store, capsys) == []
    assert check_answers(store, ANSWERS) == len(ANSWERS)


def test_a_late_commit(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert apply(store, SHORT, *until()) == 0
    late = [*SHORT, *binlog_writer.transaction(START_TS, COMMIT_TS)]
    assert apply(store, late, *until()) != 0
    assert "it is late" in capsys.readouterr().err
    assert listed(store, capsys) == []
    assert len(listed(store, capsys, START_TS)) == 2
    assert skip(store, START_TS) == 0
    assert apply(store, late, *until()) == 0
    applied = decode_entities(SHORT[AT], "", 0)[-1].start_ts
    assert skip(store, applied) == 2
    assert "is applied" in capsys.readouterr().err


def test_beside_a_running_writer(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The writer executes the command, before the commit shows that the prewrite is malformed."""
    prewrite, commit = binlog_writer.transaction(START_TS, COMMIT_TS, b"value")
    source = store.parent / "source.bin"
    source.write_bytes(binlog_file([*SHORT[: AT + 1], prewrite]))
    options = ["--source", f"file:{source}", "--schema", f"file:{BANK.schema}"]
    options += ["--base", BANK.base, "--interval", 0.05]
    with subprocess.Popen(command("writer", store, *options), stderr=subprocess.PIPE) as writer:
        try:
            wait_until(lambda: status(store, capsys)["pending_transactions"], 60_000)
            assert listed(store, capsys, START_TS)[-1][1:] == (START_TS, True)
            assert skip(store, START_TS) == 0
            with source.open("ab") as file:
                file.write(binlog_file([commit, *SHORT[AT + 1 :]]))
            wait_until(lambda: (status(store, capsys)["resolved_ts"] or 0) >= SHORT_TS, 60_000)
            assert writer.poll() is None
        finally:
            writer.terminate()
    assert check_answers(store, ANSWERS) == len(ANSWERS)
    assert [(o["start_ts"], o["state"]) for o in orphans(store, capsys)] == [
        (START_TS, "skipped by hand")
    ]


def status(store: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["status", str(store), "--json"]) == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    return shown
