"""The memory of one request is limited in the workers of a server and in engine processes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.service.client.embedded import connect_embedded
from pyspark_theflash.service.client.theflash import TheFlash, connect
from tests.support.serving import served
from tests.unit.service.api.test_limits import check_memory, large_rows


@contextmanager
def of_the_command(store: Path, limits: Sequence[str]) -> Iterator[TheFlash]:
    """Its workers."""
    with served(store, "--limit", *limits) as (_, address), connect(address) as api:
        yield api


def of_the_engine_process(store: Path, limits: Sequence[str]) -> TheFlash:
    return connect_embedded(store, idle_ms=100, limits=limits)


@pytest.mark.parametrize("way", [of_the_command, of_the_engine_process])
def test_memory_of_a_request(way: Any, tmp_path: Path) -> None:
    check_memory(way, large_rows(tmp_path / "store"))
