"""Soaks for a short while; `make soak` runs them for as long as one likes."""

from pathlib import Path

import pytest

from tests.soak import ddl, where
from tests.soak.outcome import Outcome

pytestmark = pytest.mark.peer


def test_ddl(tmp_path: Path) -> None:
    outcome = Outcome()
    ddl.run(tmp_path, first_seed=1, seconds=0, outcome=outcome)
    assert outcome.different == []
    assert outcome.counts["rows compared"] > 100


def test_where(tmp_path: Path) -> None:
    outcome = Outcome()
    where.run(tmp_path, first_seed=1, seconds=0, outcome=outcome)
    assert outcome.different == []
    assert outcome.counts["alike"] > where.CONDITIONS * 0.7
