"""A pump killed (-9) while it is written to: what it has acknowledged is in its spool."""

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.replication.pump.spool import Spool
from tests.support import binlog_writer
from tests.support.processes import wait_until
from tests.support.pump_client import PumpWriter, RpcError

PROJECT = Path(__file__).parents[2]
WRITERS = 8
SERVER = """
import sys, threading
from pathlib import Path
from pyspark_theflash.replication.pump.spool import Spool
from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.replication.pump.server import PumpServer

spool = Spool(Path(sys.argv[1]), LocalFileSystem(), file_bytes=20_000)
PumpServer(spool, sys.argv[2], clock=SystemClock()).start()
print("ready", flush=True)
threading.Event().wait()
"""


class Load:
    """Writers that write until the pump is killed, each with its own timestamps."""

    def __init__(self, address: str, first_ts: int) -> None:
        self.acknowledged: set[bytes] = set()
        self.sent: set[bytes] = set()
        self.is_killed = False
        self._address, self._first_ts = address, first_ts
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _write(self, number: int) -> None:
        rng, ts = random.Random(number), self._first_ts + number
        with PumpWriter(self._address) as writer:
            while True:
                ts += WRITERS
                message = binlog_writer.prewrite(ts, binlog_writer.row_value(rng.randrange(1, 200)))
                self.sent.add(message)
                try:
                    answer = writer.write(message, timeout_s=2)
                except RpcError:
                    if self.is_killed:
                        return
                    continue
                assert answer == ""
                self.acknowledged.add(message)


def run_and_kill(spool: Path, address: str, first_ts: int, seconds: float) -> Load:
    command = [sys.executable, "-c", SERVER, str(spool), address]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        load = Load(address, first_ts)
        wait_until(lambda: load.acknowledged)
        SystemClock().sleep_ms(int(1000 * seconds))
        load.is_killed = True
        process.kill()
    load.join()
    return load


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_what_is_acknowledged_is_in_the_spool(rounds: int, tmp_path: Path) -> None:
    folder, rng = tmp_path / "spool", random.Random(rounds)
    acknowledged: set[bytes] = set()
    sent: set[bytes] = set()
    for number in range(rounds):
        address = f"unix:{tmp_path}/pump.sock"
        load = run_and_kill(folder, address, 1 + number * 1_000_000, rng.uniform(0.1, 0.4))
        acknowledged |= load.acknowledged
        sent |= load.sent
        spool = Spool(folder, LocalFileSystem(), file_bytes=20_000)
        stored = [frame.payload for frame in spool.source().frames()]
        spool.close()
        assert acknowledged <= set(stored) <= sent
        assert len(stored) == len(set(stored))
