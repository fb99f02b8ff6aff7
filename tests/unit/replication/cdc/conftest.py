"""Stores that writers under test write from one log of changes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.tidb.schema.history import TableEvent
from tests.support.change_log import ChangeLog, GrowingSchema
from tests.support.change_store import ChangeStore, history


@pytest.fixture
def log() -> ChangeLog:
    return ChangeLog()


@pytest.fixture
def stores(tmp_path: Path, log: ChangeLog) -> Iterator[Callable[..., ChangeStore]]:
    made: list[ChangeStore] = []

    def make(*events: TableEvent, **options: Any) -> ChangeStore:
        options.setdefault("assume_empty", ["*"])
        schema = GrowingSchema(history(*events), log)
        made.append(ChangeStore(tmp_path / f"store{len(made)}", log, schema, **options))
        return made[-1]

    yield make
    for store in made:
        store.engine.close()
