"""No caller acts in another's name: random histories of several identities against a model."""

from pathlib import Path

import pytest

from tests.support.latch_histories import run_history

STEPS = 2_000


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_callers_use_their_own_latches_only(tmp_path: Path, seed: int) -> None:
    counts = run_history(tmp_path / "store", seed, 250)
    assert counts["refused"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_callers_over_100_000_steps(tmp_path: Path, seed: int) -> None:
    counts = run_history(tmp_path / "store", seed, STEPS)
    assert counts["refused"] > STEPS / 4
