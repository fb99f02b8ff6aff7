from collections.abc import Iterator

import pytest

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.cluster.tikv.client import TiKVClient
from tests.support.fake_tikv import FakeTiKV


@pytest.fixture
def tikv() -> Iterator[FakeTiKV]:
    with FakeTiKV() as fake:
        yield fake


@pytest.fixture
def pd(tikv: FakeTiKV) -> Iterator[PDClient]:
    with PDClient([tikv.pd.address], clock=SystemClock(), timeout_ms=3000) as client:
        yield client


@pytest.fixture
def client(pd: PDClient) -> Iterator[TiKVClient]:
    with TiKVClient(pd, clock=SystemClock()) as client:
        yield client


@pytest.fixture
def resolving(pd: PDClient) -> Iterator[TiKVClient]:
    with TiKVClient(pd, clock=SystemClock(), policy=LockPolicy.RESOLVE) as client:
        yield client


@pytest.fixture
def soon() -> Deadline:
    """A deadline long enough for any successful call."""
    return Deadline(SystemClock(), 20_000)
