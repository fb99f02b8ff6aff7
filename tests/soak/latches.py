"""Random histories of latches: several identities against a model (`latch_histories.py`).

Each seed is a new store and 2,000 calls, of which most name what belongs to another caller.
"""

from pathlib import Path

from pyspark_theflash.base.clock import SystemClock
from tests.soak.outcome import Outcome
from tests.support.latch_histories import run_history

STEPS = 2_000


def run(
    folder: Path, *, first_seed: int, seconds: float, outcome: Outcome, steps: int = STEPS
) -> None:
    """Run one seed after the other, at least one, until the time is up."""
    clock, seed = SystemClock(), first_seed
    end_ms = clock.boottime_ms() + round(1000 * seconds)
    while True:
        try:
            outcome.counts.update(run_history(folder / f"latches-{seed}", seed, steps))
        except AssertionError as error:
            outcome.differs(str(error))
        outcome.counts["steps"] += steps
        seed += 1
        if clock.boottime_ms() >= end_ms:
            return
