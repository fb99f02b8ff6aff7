"""Random conditions: a scan with `where` returns the rows that TiDB returns."""

from pathlib import Path
from random import Random

from pyspark_theflash.base.clock import SystemClock
from tests.soak.outcome import Outcome
from tests.support.live_where import LiveWhere, live_where
from tests.support.live_writer import following
from tests.support.peer import Peer
from tests.support.where_cases import condition

CLOCK = SystemClock()
CONDITIONS = 1000
"""Of each seed, which has rows of its own."""


def run(folder: Path, *, first_seed: int, seconds: float, outcome: Outcome) -> None:
    """Seeds from `first_seed` on until the time is up, at least one."""
    end_ms = CLOCK.boottime_ms() + round(1000 * seconds)
    seed, is_over = first_seed, False
    while not is_over:
        of_one = folder / str(seed)
        of_one.mkdir()
        with following(of_one, of_one / "store") as peer:
            is_running = True
            while is_running and not is_over:
                is_running = _compare_seed(peer, of_one / "store", seed, outcome)
                seed += 1
                is_over = CLOCK.boottime_ms() >= end_ms


def _compare_seed(peer: Peer, store: Path, seed: int, outcome: Outcome) -> bool:
    """Compare all conditions of a seed; return whether the TiDB still runs.

    Some conditions end it; the seeds after that one get another.
    """
    with live_where(peer, store, str(seed)) as live:
        for number in range(CONDITIONS):
            text = condition(Random(f"{seed} {number}"))
            try:
                _compare(live, f"seed {seed}, condition {number}", text, outcome)
            except ConnectionError:
                outcome.counts["ended the TiDB"] += 1
                return False
    return True


def _compare(live: LiveWhere, name: str, text: str, outcome: Outcome) -> None:
    ours, theirs = live.ours(text), live.theirs(text)
    if isinstance(ours, str):
        outcome.refused[ours] += 1
    elif isinstance(theirs, str):
        # There are no rows to compare with.
        outcome.counts["failed in TiDB alone"] += 1
    elif ours == theirs:
        outcome.counts["alike"] += 1
    else:
        extra, missing = sorted(ours - theirs), sorted(theirs - ours)
        outcome.differs(f"{name}: {text}: extra {extra}, missing {missing}")
