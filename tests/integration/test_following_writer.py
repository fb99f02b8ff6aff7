"""A writer process that follows a growing folder, and commands to it."""

import gzip
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.cli.main import main
from tests.support.binlog_writer import split_frames
from tests.support.progress import read_progress
from tests.support.workloads import check_answers, workload

PROJECT = Path(__file__).parents[2]
BANK = workload("bank")
CLOCK = SystemClock()


class Following:
    """A store, a folder that it is fed from, and the writer between them."""

    def __init__(self, folder: Path) -> None:
        self.store, self._folder = folder / "store", folder / "binlog"
        self._folder.mkdir()
        self._frames = split_frames(gzip.decompress(BANK.binlog.read_bytes()))
        self._fed = 0
        self.process: subprocess.Popen[str] | None = None
        assert main(["init", str(self.store)]) == 0

    def start(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pyspark_theflash.cli.main", "writer", str(self.store)]
        command += ["--source", f"file:{self._folder}", "--schema", f"file:{BANK.schema}"]
        command += ["--base", str(BANK.base), *arguments]
        self.process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)

    def feed(self, share: float) -> None:
        """Write more of the binlog, up to that share of it, in files of a few hundred frames."""
        until = int(len(self._frames) * share)
        while self._fed < until:
            part = self._frames[self._fed : min(self._fed + 700, until)]
            hidden = self._folder / ".next"
            hidden.write_bytes(b"".join(part))
            hidden.rename(self._folder / f"binlog-{self._fed:08d}")
            self._fed += len(part)

    def resolved_ts(self) -> int:
        progress = read_progress(self.store)
        return progress.resolved_ts if progress else 0

    def position(self) -> str | None:
        progress = read_progress(self.store)
        return progress.position if progress else None

    def grows_beyond(self, ts: int) -> int:
        """Wait until the store has resolved more; returns up to where."""
        until(lambda: self.resolved_ts() > ts)
        return self.resolved_ts()

    def ended(self) -> tuple[int, str]:
        """Wait for the writer's end: its status and output."""
        assert self.process is not None
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output


def until(condition: Callable[[], bool]) -> None:
    deadline_ms = CLOCK.boottime_ms() + 60_000
    while not condition():
        assert CLOCK.boottime_ms() < deadline_ms
        CLOCK.sleep_ms(20)


@pytest.fixture
def following(tmp_path: Path) -> Iterator[Following]:
    writer = Following(tmp_path)
    yield writer
    if writer.process is not None and writer.process.poll() is None:
        writer.process.kill()
        writer.process.communicate()


def test_a_writer_follows_obeys_and_goes_on(
    following: Following, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    following.feed(0.2)
    following.start("--interval", "0.1", "--metrics", f"127.0.0.1:{port}")
    first = following.grows_beyond(0)
    until(lambda: following.position() is not None)
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        assert b"theflash_rows_total" in answer.read()
    store = str(following.store)
    # The interval is a day, and is then reduced: commands are executed immediately.
    assert main(["interval", store, "86400"]) == 0
    following.feed(0.4)
    assert main(["interval", store, "0.05"]) == 0
    following.grows_beyond(first)
    assert main(["compact", store]) == 0
    capsys.readouterr()
    assert main(["status", store, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["writer"]["pid"] == following.process.pid if following.process else None
    assert main(["writer", store, "--source", "file:/none", "--schema", "file:/none"]) == 5
    assert main(["stop", store]) == 0
    code, output = following.ended()
    assert code == 0
    assert output.startswith("applied 1,230 rows of the base, ")
    # The next one continues after the messages that the first one read.
    second = following.resolved_ts()
    following.feed(1.0)
    following.start("--interval", "0.1", "--until-ts", str(BANK.end_ts - 1))
    following.grows_beyond(second)
    assert following.process is not None
    following.process.send_signal(signal.SIGTERM)
    code, output = following.ended()
    assert code == 0
    assert "of the base" not in output
    following.start("--once", "--until-ts", str(BANK.end_ts))
    assert following.ended()[0] == 0
    assert check_answers(following.store, BANK.answers()) == 155


def test_a_second_writer_waits_for_the_first(following: Following) -> None:
    following.feed(0.1)
    following.start("--interval", "0.1")
    following.grows_beyond(0)
    first = following.process
    assert first is not None
    following.start("--wait", "60", "--once")
    CLOCK.sleep_ms(500)
    assert following.process is not None
    assert following.process.poll() is None
    first.terminate()
    first.communicate(timeout=60)
    assert following.ended()[0] == 0


def test_only_some_tables(following: Following, capsys: pytest.CaptureFixture[str]) -> None:
    following.feed(1.0)
    excluded = ("--exclude", "*.acc_c?", "--exclude", "bank.ACC_U")
    following.start("--once", "--until-ts", str(BANK.end_ts), *excluded)
    assert following.ended()[0] == 0
    kept = [a for a in BANK.answers() if a.table not in {"bank.acc_ch", "bank.acc_u"}]
    assert check_answers(following.store, kept) == 93
    store = str(following.store)
    assert main(["digest", store, "bank.acc_ch"]) == 3
    assert "is not replicated" in capsys.readouterr().err
    following.start("--once", "--exclude", "bank.acc_ch")
    assert following.ended()[0] == 2
    following.start("--once")
    assert following.ended()[0] == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
