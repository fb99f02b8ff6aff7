"""Conformance kit: tests that show that an engine keeps the contract of `storage.engine.api`.

A package that adds an engine (`storage.engine.registry`) runs the kit with pytest:

    from pyspark_theflash.testing import EngineSuite, EngineGap, GapKind

    class TestSteam(EngineSuite):
        engine = "steam"
        gaps = {"test_a_flipped_bit": EngineGap(GapKind.NOT_IMPLEMENTED, "no checksums")}

Needed: pip install 'pyspark-theflash[testing]'. `docs/engines.md` lists the tests by promise.
"""

import pytest

# Before the modules are imported: failures then show the values that were compared.
pytest.register_assert_rewrite(
    *(f"{__name__}.{name}" for name in ("contract", "failures", "store", "subject"))
)

from pyspark_theflash.testing.case import (
    PROMISES,
    EngineCase,
    EngineGap,
    GapKind,
    promises_of,
    shows,
)
from pyspark_theflash.testing.contract import ContractTests
from pyspark_theflash.testing.failures import FailureTests
from pyspark_theflash.testing.memory import MemoryEngine
from pyspark_theflash.testing.store import StoreTests


class EngineSuite(ContractTests, FailureTests, StoreTests):
    """All tests of an engine; a subclass names the engine."""


__all__ = [
    "PROMISES",
    "ContractTests",
    "EngineCase",
    "EngineGap",
    "EngineSuite",
    "FailureTests",
    "GapKind",
    "MemoryEngine",
    "StoreTests",
    "promises_of",
    "shows",
]
