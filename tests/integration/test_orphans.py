"""Commits and rollbacks that never come: TiKV is asked, or an operator decides.

The binlogs are captured ones from which the ends of some transactions are taken out.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp, physical_ms
from pyspark_theflash.cli.main import main
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.folder import read_identity
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.file import FileSchema
from pyspark_theflash.tidb.schema.meta_key import Outcome, OutcomeState
from tests.support import feeds
from tests.support.fake_tikv import FakeTiKV
from tests.support.lost_frames import Lost, binlog_file, messages_of, tell, without
from tests.support.manual_clock import ManualClock
from tests.support.percolator import Record
from tests.support.progress import read_progress
from tests.support.workloads import check_answers, workload

BANK = workload("bank")
DDL = workload("ddl")
SHORT_TS = sorted({answer.snapshot_ts for answer in BANK.answers()})[6]
SHORT = feeds.messages(BANK, SHORT_TS)
ANSWERS = [answer for answer in BANK.answers() if answer.snapshot_ts <= SHORT_TS]


class Crash(BaseException):
    """The process is gone."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    assert main(["init", str(path)]) == 0
    return path


@pytest.fixture
def tikv() -> Iterator[FakeTiKV]:
    with FakeTiKV() as cluster:
        yield cluster


def apply(store: Path, messages: list[bytes], *options: str, chosen: Any = BANK) -> int:
    """One run of the writer over these messages; its exit status."""
    source = store.parent / "source.bin"
    source.write_bytes(binlog_file(messages))
    base = ["--base", str(chosen.base)] if chosen.base else []
    arguments = [str(store), "--source", f"file:{source}", "--schema", f"file:{chosen.schema}"]
    return main(["writer", *arguments, *base, "--once", *options])


def until(ts: int = SHORT_TS) -> list[str]:
    return ["--until-ts", str(ts)]


def pd(tikv: FakeTiKV) -> list[str]:
    return ["--pd", tikv.pd.address]


def orphans(store: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["status", str(store), "--json"]) == 0
    listed: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["orphans"]
    return listed


def resolved_ts(store: Path) -> int:
    progress = read_progress(store)
    assert progress is not None
    return progress.resolved_ts


def lose(seed: int) -> tuple[list[bytes], list[Lost]]:
    """A short binlog without one commit."""
    return without(SHORT, random.Random(seed), 1)


def test_an_operator_decides(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, (lost,) = lose(2)
    assert lost.commit_ts
    assert apply(store, kept) == 0
    frozen = resolved_ts(store)
    assert frozen < lost.commit_ts
    (orphan,) = orphans(store, capsys)
    assert (orphan["start_ts"], orphan["commit_ts"]) == (lost.start_ts, None)
    assert orphan["bytes"] > 0
    assert orphan["age_ms"] > 600_000
    assert "TiKV not asked" in orphan["state"]
    # The input is not complete, even if `--until-ts` declares it so.
    assert apply(store, kept, *until()) == 4
    resolve = ["resolve", str(store), str(lost.start_ts)]
    for wrong in (
        ["resolve", str(store), str(lost.start_ts + 1), "--rolled-back"],
        [*resolve, "--committed", str(lost.start_ts)],
        [*resolve, "--committed", str(frozen)],
        resolve,
        [*resolve, *lost.end, "--rolled-back"],
        [*resolve, "--committed", "0"],
        ["resolve", "theflash://127.0.0.1:1", str(lost.start_ts), *lost.end],
    ):
        assert main(wrong) == 2, wrong
    assert main([*resolve, *lost.end]) == 0
    assert main([*resolve, "--rolled-back"]) == 2
    assert "known to be committed" in capsys.readouterr().err
    assert apply(store, kept, *until()) == 0
    assert check_answers(store, ANSWERS) == len(ANSWERS)
    # What was decided by hand stays in sight.
    assert main(["status", str(store)]) == 0
    shown = capsys.readouterr().out
    assert f"committed at {lost.commit_ts} (by hand)" in shown
    assert main([*resolve, "--rolled-back"]) == 2
    # The commit comes after all: it is a duplicate. Another one is a contradiction.
    assert apply(store, SHORT, *until()) == 0
    assert check_answers(store, ANSWERS) == len(ANSWERS)
    assert [o["by_hand"] for o in orphans(store, capsys)] == [True]
    assert main(["fsck", str(store)]) == 0


def test_a_wrong_decision_shows_when_the_commit_arrives(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, (lost,) = lose(2)
    assert apply(store, kept) == 0
    assert main(["resolve", str(store), str(lost.start_ts), "--rolled-back"]) == 0
    assert apply(store, kept, *until()) == 0
    assert apply(store, SHORT, *until()) == 7
    assert "it was rolled back, and is now committed at" in capsys.readouterr().err


def test_tikv_tells(store: Path, tikv: FakeTiKV, capsys: pytest.CaptureFixture[str]) -> None:
    messages = messages_of(BANK)
    kept, lost = without(messages, random.Random(1), 400)
    assert {bool(each.commit_ts) for each in lost} == {True, False}
    tell(tikv, lost)
    before = tikv.cluster.tikv.state()
    assert apply(store, kept, *until(BANK.end_ts), *pd(tikv)) == 0
    assert check_answers(store, BANK.answers()) == 155
    assert orphans(store, capsys) == []
    # Nothing was written to TiKV, and the frames that come after all change nothing.
    assert tikv.cluster.tikv.state() == before
    assert apply(store, messages, *until(BANK.end_ts), *pd(tikv)) == 0
    assert check_answers(store, list(BANK.answers())[::9]) == 18


def test_schema_changes_are_told_too(store: Path, tikv: FakeTiKV) -> None:
    kept, lost = without(messages_of(DDL), random.Random(5), 12, ddl=True)
    tell(tikv, lost)
    assert apply(store, kept, *until(DDL.end_ts), chosen=DDL) == 4
    assert apply(store, kept, *until(DDL.end_ts), *pd(tikv), chosen=DDL) == 0
    assert check_answers(store, list(DDL.answers())[::5]) == 62


def test_open_unknown_and_unreachable_wait(
    store: Path, tikv: FakeTiKV, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, (lost,) = lose(2)
    model = tikv.cluster.tikv
    resolve = ["resolve", str(store), str(lost.start_ts), *lost.end]
    model.prewrite(lost.start_ts, lost.primary, {lost.primary: b"value"})
    assert apply(store, kept, *pd(tikv)) == 0
    assert [o["state"] for o in orphans(store, capsys)] == ["open"]
    assert main(resolve) == 2
    assert "may still commit" in capsys.readouterr().err
    model.locks.clear()
    assert apply(store, kept, *pd(tikv)) == 0
    assert [o["state"] for o in orphans(store, capsys)] == ["unknown to TiKV"]
    frozen = resolved_ts(store)
    # Of another transaction: it does not say that ours was rolled back.
    model.records[lost.primary] = [Record("R", lost.start_ts + 5, lost.start_ts + 5)]
    assert apply(store, kept, *pd(tikv)) == 0
    assert resolved_ts(store) == frozen
    # Beyond the deadline only.
    model.records[lost.primary] = [Record("P", lost.start_ts, lost.commit_ts, b"value")]
    assert apply(store, kept, *pd(tikv), "--ask-after", str(5 * 365 * 86400)) == 0
    assert resolved_ts(store) == frozen
    assert apply(store, kept, *until(), *pd(tikv)) == 0
    assert check_answers(store, ANSWERS) == len(ANSWERS)


def test_tikv_contradicts_what_is_known(
    store: Path, tikv: FakeTiKV, capsys: pytest.CaptureFixture[str]
) -> None:
    """A commit at or below the readable timestamp is rejected, and not recorded."""
    kept, (lost,) = lose(2)
    assert apply(store, kept) == 0
    late = resolved_ts(store)
    tell(tikv, [Lost(lost.start_ts, late, lost.primary)])
    for _ in range(2):
        assert apply(store, kept, *pd(tikv)) == 7
        assert "it is late" in capsys.readouterr().err
        assert [o["commit_ts"] for o in orphans(store, capsys)] == [None]


@pytest.mark.parametrize("step", ["orphans.decided", "orphans.by_hand", "manifest.before_commit"])
def test_a_crash_at_a_decision(store: Path, tikv: FakeTiKV, step: str) -> None:
    def crash() -> None:
        raise Crash

    kept, (lost,) = lose(2)
    if step == "orphans.decided":
        tell(tikv, [lost])
        with armed(step, crash), pytest.raises(Crash):
            apply(store, kept, *pd(tikv))
        tikv.cluster.tikv.records.clear()
    else:
        assert apply(store, kept) == 0
        resolve = ["resolve", str(store), str(lost.start_ts), *lost.end]
        with armed(step, crash), pytest.raises(Crash):
            main(resolve)
        # Either it is durable, or it is as if it had never been said.
        assert main(resolve) == (2 if step == "orphans.by_hand" else 0)
    assert apply(store, kept, *until(), *pd(tikv)) == 0
    assert check_answers(store, ANSWERS) == len(ANSWERS)


class Later(ManualClock):
    """A clock whose wall shows some time in the past."""

    def __init__(self, wall_ms: int) -> None:
        super().__init__()
        self._ahead_ms = wall_ms - self.now_ms

    def wall_ms(self) -> int:
        return self.now_ms + self._ahead_ms


class ConfiguredSchema(FileSchema):
    """A schema file, and a TiKV with a configured outcome of every transaction."""

    outcome_now = Outcome(OutcomeState.OPEN, None)
    lookups = 0

    def outcome(self, primary: RawKey, start_ts: TimeStamp) -> Outcome:
        self.lookups += 1
        return self.outcome_now


def test_a_writer_that_follows_asks_after_the_deadline_and_again(
    store: Path, tmp_path: Path
) -> None:
    kept, (lost,) = lose(2)
    (tmp_path / "source.bin").write_bytes(binlog_file(kept))
    clock = Later(physical_ms(TimeStamp(lost.start_ts)) + 590_000)
    fs, schema = LocalFileSystem(), ConfiguredSchema(BANK.schema)
    engine = registry.open_engine(store, read_identity(store, fs), fs, clock)
    try:
        writer = Writer(engine, schema, clock=clock, orphan_ms=600_000)
        writer.load_base(BANK.folder / "base")
        for step_ms, lookups in ((0, 0), (60_000, 1), (9_000, 1), (1_000, 2)):
            clock.sleep_ms(step_ms)
            writer.poll(FileSource(tmp_path / "source.bin"))
            assert schema.lookups == lookups
        assert writer.resolved_ts < lost.commit_ts
        schema.outcome_now = Outcome(OutcomeState.COMMITTED, TimeStamp(lost.commit_ts))
        clock.sleep_ms(10_000)
        writer.poll(FileSource(tmp_path / "source.bin"))
        assert writer.resolved_ts == SHORT_TS
    finally:
        engine.close()
    assert check_answers(store, ANSWERS) == len(ANSWERS)
