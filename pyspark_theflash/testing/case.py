"""Test case of an engine: how it is opened, what it promises, and its declared gaps."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import FileSystem, LocalFileSystem
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine, EngineReader
from pyspark_theflash.storage.store.folder import StoreIdentity, read_identity
from pyspark_theflash.storage.store.manifest import Guard

LOCAL: Final = LocalFileSystem()
CLOCK: Final = SystemClock()
_Test = TypeVar("_Test", bound=Callable[..., object])

PROMISES: Final[Mapping[str, str]] = {
    "P1": "a scan returns the newest version of each row at or below its timestamp",
    "P4": "what is acknowledged is durable; after a failed sync the engine rejects writes",
    "P5": "after a crash, the state is that after some whole publication",
    "P6": "publications that are repeated after a crash lead to the same state",
    "P7": "operations on regions, and purges, are atomic and invisible to scans",
    "P8": "rows are read by a schema that is not the one they were written by",
    "P9": "damage is detected and named, and is never returned as data or as no rows",
    "P10": "a full disk is a typed error, reads go on, writes go on when there is room",
    "P11": "a commit with an old fencing token, or that the guard rejects, changes nothing",
    "P12": "nothing that a permitted or pinned snapshot needs is removed",
    "P14": "one writer a store; readers at any time",
    "S4": "names and values are never part of a path or a statement",
    "S6": "content of tickets is decoded strictly",
    "S10": "files have mode 0600, folders 0700",
}
"""The promises that an engine keeps, each shown by a test of the kit. The others (P2, P3, P13, P15,
S1-S3 and so on) are kept by the layers above and by the manifest, for every engine."""


class GapKind(Enum):
    """Why an engine does not pass a test."""

    NOT_IMPLEMENTED = "notimpl"
    """The engine could, and does not yet."""
    NOT_YET = "notyet"
    """A system below the engine does not yet."""
    NEVER = "never"
    """It contradicts the engine's design."""


@dataclass(frozen=True, slots=True)
class EngineGap:
    """A test of the kit that an engine fails, and why; it must fail with one of `raises`."""

    kind: GapKind
    reason: str
    raises: type[BaseException] | tuple[type[BaseException], ...] = AssertionError


def shows(*promises: str) -> Callable[[_Test], _Test]:
    """Decorate a test that shows that an engine keeps these of `PROMISES`."""

    def decorate(test: _Test) -> _Test:
        assert promises
        assert set(promises) <= set(PROMISES)
        test.__promises__ = promises  # type: ignore[attr-defined]
        return test

    return decorate


class EngineCase:
    """Base class of the kit's tests.

    Attributes:
        engine: The name of the engine's entry point.
        gaps: The tests that the engine fails, by name (`test_x`, or `test_x[a-b]` for one choice of
            parameters). They are strict: a test that passes in spite of its gap is a failure.
    """

    engine: ClassVar[str]
    gaps: ClassVar[Mapping[str, EngineGap]] = {}

    def __init_subclass__(cls) -> None:
        """Check that gaps name tests."""
        super().__init_subclass__()
        unknown = [name for name in cls.gaps if not hasattr(cls, name.partition("[")[0])]
        if unknown:
            raise TypeError(f"{cls.__name__}.gaps: there is no {', '.join(unknown)}")

    @pytest.fixture(autouse=True)
    def declared_gap(self, request: pytest.FixtureRequest) -> None:
        """Mark a test that has a gap as one that must fail."""
        name = request.node.name
        gap = self.gaps.get(name) or self.gaps.get(name.partition("[")[0])
        if gap is not None:
            reason = f"{gap.kind.value}: {gap.reason}"
            request.applymarker(pytest.mark.xfail(strict=True, reason=reason, raises=gap.raises))

    def create(self, path: Path) -> StoreIdentity:
        """Create an empty store."""
        return registry.create(path, self.engine, LOCAL)

    def open_engine(self, path: Path, fs: FileSystem = LOCAL, guard: Guard | None = None) -> Engine:
        """Open a store as its writer; override to set limits that tests reach with a few rows."""
        return registry.open_engine(path, read_identity(path, LOCAL), fs, CLOCK, guard)

    def open_reader(self, path: Path) -> EngineReader:
        """Open a store for reading."""
        return registry.open_reader(path, read_identity(path, LOCAL), LOCAL, CLOCK)


def promises_of(case: type[Any]) -> Mapping[str, tuple[str, ...]]:
    """Return the tests of a case by name, each with the promises that it shows."""
    methods = inspect.getmembers(case, inspect.isfunction)
    return {
        name: getattr(test, "__promises__", ())
        for name, test in methods
        if name.startswith("test_")
    }
