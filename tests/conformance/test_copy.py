"""Copies of captured workloads between engines, which end, die and are continued in any way."""

import os
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from unittest.mock import patch

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    CorruptionError,
    FeedConflictError,
    OptionError,
    StoreExistsError,
    StoreInUseError,
)
from pyspark_theflash.base.failpoint import EVERY_POINT, armed
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.replication import copy
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.service.wire.message import Moment
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.folder import DATA_FOLDER, read_identity
from pyspark_theflash.storage.store.writer_lock import WriterLock
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.engine_package import plain_installed
from tests.support.progress import read_progress
from tests.support.victims import Victim
from tests.support.workloads import NAMES, Workload, check_answers, make_store, workload
from tests.support.writes import latch, schema_change, write

BANK = workload("bank")
TIMES = sorted({answer.snapshot_ts for answer in BANK.answers()})
MIDDLE = TIMES[len(TIMES) // 5]
SMALL_PART = 1 << 16


@pytest.fixture(scope="module", autouse=True)
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The engine *plain* is installed."""
    with plain_installed(tmp_path_factory.mktemp("site")):
        yield


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the first part of a workload; no test writes it."""
    return make_store(first_part(BANK), tmp_path_factory.mktemp("bank") / "store")


def first_part(chosen: Workload) -> Workload:
    return replace(chosen, end_ts=MIDDLE)


def made(
    source: Path,
    target: Path,
    engine: str = "magic",
    ts: TimeStamp | None = None,
    *,
    history: bool = True,
) -> Path:
    clock = SystemClock()
    copy.copy_store(source, target, engine, ts, history=history, fs=LocalFileSystem(), clock=clock)
    return target


def check_bank(store: Path) -> None:
    """The store has the first part of the workload, at each timestamp."""
    until = [answer for answer in BANK.answers() if answer.snapshot_ts <= MIDDLE]
    assert check_answers(store, until[:: max(1, len(until) // 9)]) > 3


def test_to_another_engine_and_back(bank: Path, tmp_path: Path) -> None:
    """Both copies have the history."""
    with patch.object(copy, "PART_BYTES", SMALL_PART):
        there = made(bank, tmp_path / "there", "plain")
        back = made(there, tmp_path / "back")
    engines = [read_identity(path, LocalFileSystem()).engine for path in (there, back)]
    assert engines == ["plain", "magic"]
    check_bank(back)
    assert read_progress(back) == read_progress(bank)


def test_a_writer_continues_a_copy(bank: Path, tmp_path: Path) -> None:
    """It reads the same binlog from where the source stood."""
    there = made(bank, tmp_path / "there", "plain")
    back = made(there, tmp_path / "back")
    for store in (there, back):
        assert main(["writer", *BANK.writer_arguments(store)]) == 0
        assert main(["fsck", str(store)]) == 0
    assert check_answers(there, [*BANK.answers()][-5:]) == 5
    assert check_answers(back, BANK.answers()) > 0


@pytest.mark.parametrize("name", NAMES)
def test_all_answers_of_a_workload(name: str, tmp_path: Path) -> None:
    store = make_store(workload(name), tmp_path / "store")
    there = made(store, tmp_path / "there", "plain")
    back = made(there, tmp_path / "back")
    assert check_answers(back, workload(name).answers()) > 0
    assert main(["fsck", str(back)]) == 0


def test_one_timestamp(bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The copy has nothing else, and no source continues it."""
    ts = TIMES[2]
    arguments = ["copy", str(bank), str(tmp_path / "copy"), "--at", str(ts), "--engine", "plain"]
    assert main(arguments) == 0
    assert check_answers(tmp_path / "copy", [a for a in BANK.answers() if a.snapshot_ts == ts])
    progress = read_progress(tmp_path / "copy")
    assert progress is not None
    assert (progress.oldest_ts, progress.resolved_ts) == (ts, ts)
    capsys.readouterr()
    assert main(["writer", *BANK.writer_arguments(tmp_path / "copy")]) != 0
    assert FeedConflictError.__name__ in capsys.readouterr().err
    assert check_answers(tmp_path / "copy", [a for a in BANK.answers() if a.snapshot_ts == ts])


def die_at(source: Path, target: Path, call: int) -> None:
    """Copy, and die at the given call of any fail point."""
    left = count(call, -1)

    def die() -> None:
        if not next(left):
            os.kill(os.getpid(), signal.SIGKILL)

    with patch.object(copy, "PART_BYTES", SMALL_PART), armed(EVERY_POINT, die):
        made(source, target)


def calls_of(source: Path, target: Path) -> int:
    """Copy, and count the calls of fail points."""
    calls = []
    with patch.object(copy, "PART_BYTES", SMALL_PART), armed(EVERY_POINT, lambda: calls.append(1)):
        made(source, target)
    return len(calls)


def killed(source: Path, folder: Path, rng: random.Random, kills: int) -> None:
    """Kill copies at random fail points; continue each until it ends."""
    calls = calls_of(source, folder / "whole")
    for number in range(kills):
        target = folder / f"copy{number}"
        victim = Victim(die_at, source, target, rng.randrange(calls))
        assert victim.exit_code() == -signal.SIGKILL
        if not target.exists():
            made(source, target)
        check_bank(target)


def test_killed_at_some_points(bank: Path, tmp_path: Path) -> None:
    killed(bank, tmp_path, random.Random(1), 2)


def test_killed_at_many_points(bank: Path, tmp_path: Path) -> None:
    killed(bank, tmp_path, random.Random(2), 20)


def test_the_source_is_written_between_two_runs(tmp_path: Path) -> None:
    """The copy has what the source had when it began."""
    source, target = make_store(first_part(BANK), tmp_path / "store"), tmp_path / "copy"
    progress = read_progress(source)
    victim = Victim(die_at, source, target, calls_of(source, tmp_path / "whole") * 2 // 3)
    assert victim.exit_code() == -signal.SIGKILL
    assert not target.exists()
    assert main(["writer", *BANK.writer_arguments(source)]) == 0
    made(source, target)
    assert read_progress(target) == progress
    check_bank(target)
    assert main(["writer", *BANK.writer_arguments(target)]) == 0
    assert check_answers(target, BANK.answers()) > 0


def test_a_store_of_the_api(tmp_path: Path) -> None:
    """Rows above resolved_ts must be resolved first; the copy has the ledger, too."""
    source, target, tea = tmp_path / "store", tmp_path / "copy", (1, 150, 140, [1, "tea"])
    items = table_info(7, "shop.items", [id_column(), column("name", MySQLType.VARCHAR, flen=9)])
    registry.create(source, registry.MAGIC, LocalFileSystem())
    with connect(source) as api:
        held = latch(api)
        change = (schema_change(items, 100),)
        write(api, held, {}, resolved_ts=100, start_ts=100, schema=change)
        write(api, held, {items: [tea]})
        with pytest.raises(OptionError, match="rows above resolved_ts 100"):
            made(source, target)
        write(api, held, {}, resolved_ts=200)
    made(source, target)
    with connect(target) as api:
        held = latch(api)
        assert write(api, held, {items: [tea]}).repeated == 1
        write(api, held, {items: [(2, 250, 240, [2, "milk"])]}, resolved_ts=300)
        assert [api.digest("shop.items", Moment(ts)).rows for ts in (149, 200, 300)] == [0, 1, 2]


def test_a_damaged_source(tmp_path: Path) -> None:
    """The error names the file, and there is no new store, also if the copy is continued."""
    source, target = make_store(first_part(BANK), tmp_path / "store"), tmp_path / "copy"
    file = max((source / DATA_FOLDER).rglob("*.parquet"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    for _ in range(2):
        with pytest.raises(CorruptionError, match=file.name):
            made(source, target)
        assert not target.exists()


def test_what_is_refused(bank: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    partial = tmp_path / "copy.copying"
    call = calls_of(bank, tmp_path / "whole") // 2
    assert Victim(die_at, bank, target, call).exit_code() == -signal.SIGKILL
    for options, message in (
        ({"history": False}, "was begun with --history"),
        ({"engine": "plain"}, "was begun with --engine magic"),
        ({"source": tmp_path / "whole"}, "unfinished copy of another store"),
    ):
        with pytest.raises(OptionError, match=message):
            made(**{"source": bank, "target": target, **options})  # type: ignore[arg-type]
    lock = WriterLock(partial, "copy.lock")
    with pytest.raises(StoreInUseError):
        made(bank, target)
    lock.release()
    made(bank, target)
    with pytest.raises(StoreExistsError):
        made(bank, target)
    assert not partial.exists()
