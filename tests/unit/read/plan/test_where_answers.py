"""Conditions find the rows that a real TiDB found (`tests/support/live_where.py` recorded them)."""

import gzip
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import TheFlashError
from pyspark_theflash.read.plan.condition import Condition
from pyspark_theflash.storage.mvcc.version import column_name
from pyspark_theflash.tidb.schema.model import parse_table_info
from tests.support.golden_vectors import stored_columns
from tests.support.live_where import RECORDING
from tests.support.where_cases import CASES

RECORDED: dict[str, Any] = json.loads(gzip.decompress(RECORDING.read_bytes()))
TABLE = parse_table_info("w", RECORDED["table_info"])
NAMES = [column.name for column in TABLE.columns]
STORED = stored_columns(TABLE, NAMES, RECORDED["rows"])
BATCH = pa.RecordBatch.from_pydict({column_name(id_): array for id_, array in STORED.items()})
IDS = [int(row[0]) for row in RECORDED["rows"]]
ANSWERS: dict[str, list[int]] = dict(RECORDED["answers"])


def matching_ids(text: str) -> Sequence[int] | None:
    """Return the ids of the rows; None if the condition is rejected."""
    try:
        kept = Condition.parse(text, TABLE).rows(BATCH)
    except TheFlashError:
        return None
    return [number for number, is_kept in zip(IDS, kept, strict=True) if is_kept]


@pytest.mark.parametrize("text", CASES)
def test_condition_that_was_once_answered_otherwise(text: str) -> None:
    assert matching_ids(text) in (ANSWERS[text], None)


@pytest.mark.parametrize("step", [1, 4])
def test_random_conditions(step: int) -> None:
    answers = {text: matching_ids(text) for text in list(ANSWERS)[::step]}
    refused = [text for text, ids in answers.items() if ids is None]
    assert [t for t, ids in answers.items() if ids is not None and ids != ANSWERS[t]] == []
    # Rejections are correct, too, but not useful.
    assert len(refused) < len(answers) * 0.175
