"""Stores that hold the captured workloads, each written once a session."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.support.suite import make_suite_store
from tests.support.workloads import make_store, workload


@pytest.fixture(scope="session")
def workload_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """name -> the path of a store that holds the workload; not to be changed."""

    @cache
    def store(name: str) -> Path:
        return make_store(workload(name), tmp_path_factory.mktemp(name) / "store")

    return store


@pytest.fixture(scope="session")
def suite_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the captured suite; not to be changed."""
    return make_suite_store(tmp_path_factory.mktemp("suite") / "store")
