"""Short soaks; `make soak` runs longer ones."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.soak import ddl, histories, queries, reorganize, where
from tests.soak.outcome import Outcome

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.peer
def test_ddl(tmp_path: Path) -> None:
    outcome = Outcome()
    ddl.run(tmp_path, first_seed=1, seconds=0, outcome=outcome)
    assert outcome.different == []
    assert outcome.counts["rows compared"] > 100


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_histories(tmp_path: Path, seed: int) -> None:
    outcome = Outcome()
    histories.run(tmp_path, first_seed=seed, seconds=0, outcome=outcome, steps=25)
    assert outcome.different == []
    assert outcome.counts["reads"] > 50
    assert outcome.counts["transactions"] > 20


@pytest.mark.peer
@pytest.mark.slow
def test_reorganize(tmp_path: Path) -> None:
    outcome = Outcome()
    reorganize.run(tmp_path, first_seed=1, seconds=0, outcome=outcome, tables=2)
    assert outcome.different == []
    assert outcome.counts["rows compared"] > 1000


@pytest.mark.peer
def test_where(tmp_path: Path) -> None:
    outcome = Outcome()
    where.run(tmp_path, first_seed=1, seconds=0, outcome=outcome)
    assert outcome.different == []
    assert outcome.counts["alike"] > where.CONDITIONS * 0.7


@pytest.mark.parametrize("seed", [1, 2])
def test_spark_queries(spark: "SparkSession", tmp_path: Path, seed: int) -> None:
    outcome = Outcome()
    queries.compare(spark, tmp_path / "rows", seed, outcome, queries=8)
    assert outcome.different == []
    assert outcome.counts["rows"] > 10
    assert outcome.refused.total() < 6
