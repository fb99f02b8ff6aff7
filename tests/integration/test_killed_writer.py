"""The writer killed (-9) at any moment of a run: what is left is a prefix, and the rest applies."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyspark_theflash.cli.main import main
from pyspark_theflash.planner.snapshot import read_progress
from tests.support.workloads import Workload, check_answers, workload

PROJECT = Path(__file__).parents[2]


def run_for(seconds: float, arguments: list[str]) -> int:
    """Start the writer in a process of its own and kill it after a while; its status."""
    command = [sys.executable, "-m", "pyspark_theflash.cli.main", "writer", *arguments]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


@pytest.mark.parametrize(
    ("name", "rounds"), [("tpch", 4), pytest.param("bank", 30, marks=pytest.mark.slow)]
)
def test_a_killed_writer_leaves_a_prefix(name: str, rounds: int, tmp_path: Path) -> None:
    chosen, store = workload(name), tmp_path / "store"
    assert main(["init", str(store)]) == 0
    rng = random.Random(rounds)
    killed = 0
    for _ in range(rounds):
        status = run_for(rng.uniform(0.3, 1.5), chosen.writer_arguments(store))
        killed += status == -signal.SIGKILL
        check_prefix(chosen, store)
    assert killed
    assert run_for(600, chosen.writer_arguments(store)) == 0
    check_answers(store, chosen.answers())


def check_prefix(chosen: Workload, store: Path) -> None:
    """Whatever the store says it can answer is right."""
    progress = read_progress(store)
    resolved_ts = progress.resolved_ts if progress else 0
    check_answers(store, [a for a in chosen.answers() if a.snapshot_ts <= resolved_ts][-10:])
