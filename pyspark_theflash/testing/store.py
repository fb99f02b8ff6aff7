"""Tests of an engine below the other parts of a store: planner, leases, latches, tickets."""

import random
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from pyspark_theflash.base.errors import (
    CodecError,
    EngineError,
    LatchNotFoundError,
    StaleTokenError,
    StoreInUseError,
)
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import EngineReader, RegionScan, ScanSpec
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.testing.case import CLOCK, LOCAL, EngineCase, shows
from pyspark_theflash.testing.failures import HISTORY, publish, state, states
from pyspark_theflash.testing.histories import scan_columns
from pyspark_theflash.testing.script import check_script
from pyspark_theflash.testing.subject import TABLES
from pyspark_theflash.testing.visibility import Visibility

SCRIPTS: Final = Path(__file__).parent / "scripts"


class StoreTests(EngineCase):
    """Tests of an engine with a store in a folder."""

    @shows("P1", "P12")
    @pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.txt")), ids=lambda path: path.stem)
    def test_script(self, script: Path, tmp_path: Path) -> None:
        """A golden script, by the planner of reads and the maintenance of stores."""
        check_script(script, Visibility(tmp_path, self.engine))

    @shows("P14")
    def test_a_reader_sees_what_is_published(self, tmp_path: Path) -> None:
        """An open reader sees each publication, and an old view does not change."""
        store = tmp_path / "store"
        self.create(store)
        with closing(self.open_engine(store)) as engine, closing(self.open_reader(store)) as reader:
            before = reader.read([])
            for number, publication in enumerate(HISTORY, 1):
                engine.publish(publication)
                assert state(reader) == states()[number]
            assert [list(reader.plan(before, table)) for table in TABLES] == [[], []]

    @shows("P14")
    def test_a_second_writer_is_rejected(self, tmp_path: Path) -> None:
        """A store has one writer at a time."""
        store = tmp_path / "store"
        self.create(store)
        with closing(self.open_engine(store)) as engine:
            with pytest.raises(StoreInUseError):
                self.open_engine(store)
            engine.publish(HISTORY[0])
        with closing(self.open_engine(store)) as engine:
            engine.publish(HISTORY[1])
            assert state(engine) == states()[2]

    @shows("P4")
    def test_a_store_is_renamed(self, tmp_path: Path) -> None:
        """A closed store can have another path, as a copy has when it is complete."""
        self.create(tmp_path / "store")
        with closing(self.open_engine(tmp_path / "store")) as engine:
            engine.publish(HISTORY[0])
        (tmp_path / "store").rename(tmp_path / "renamed")
        with closing(self.open_engine(tmp_path / "renamed")) as engine:
            assert state(engine) == states()[1]
            engine.publish(HISTORY[1])
        with closing(self.open_reader(tmp_path / "renamed")) as reader:
            assert state(reader) == states()[2]

    @shows("P11")
    def test_an_old_token_is_rejected(self, tmp_path: Path) -> None:
        """After another writer has taken a token, nothing is committed with the old one."""
        store = tmp_path / "store"
        self.create(store)
        with closing(self.open_engine(store)) as engine:
            engine.publish(HISTORY[0])
            with closing(open_manifest(store, LOCAL)) as manifest:
                manifest.take_token()
            with pytest.raises(StaleTokenError):
                engine.publish(HISTORY[1])
            with pytest.raises(EngineError):
                engine.publish(HISTORY[1])
            assert state(engine) == states()[1]
        with closing(self.open_engine(store)) as engine:
            engine.publish(HISTORY[1])
            assert state(engine) == states()[2]

    @shows("P11")
    def test_the_guard_rejects_a_publication(self, tmp_path: Path) -> None:
        """A rejected publication changes nothing, and the engine can be used further."""
        store, rejects = tmp_path / "store", True

        def guard(_: object) -> None:
            if rejects:
                raise LatchNotFoundError("latch")

        self.create(store)
        with closing(self.open_engine(store, guard=guard)) as engine:
            with pytest.raises(LatchNotFoundError):
                engine.publish(HISTORY[0])
            assert state(engine) == states()[0]
            rejects = False
            engine.publish(HISTORY[0])
            assert state(engine) == states()[1]

    @shows("P12")
    @pytest.mark.parametrize("removal", ["compaction", "purge", "range purge"])
    def test_a_pinned_plan_stays_readable(self, removal: str, tmp_path: Path) -> None:
        """A plan can be scanned while a lease pins its generation."""
        store = tmp_path / "store"
        self.create(store)
        with closing(self.open_engine(store)) as engine, closing(self.open_reader(store)) as reader:
            for publication in HISTORY[:2]:
                publish(engine, publication)
            with _pinned(store):
                view = reader.read([])
                plans = {table: reader.plan(view, table) for table in TABLES}
                before = [_rows(reader, plan) for plan in plans.values()]
                assert all(before)
                for table in TABLES:
                    _remove(engine, table, removal)
                publish(engine, HISTORY[2])
                _remove(engine, TABLES[0], removal)
                assert [_rows(reader, plan) for plan in plans.values()] == before
        with closing(self.open_engine(store)) as engine:
            assert not list(engine.check(engine.read([])))

    @shows("S6")
    def test_content_is_encoded_for_tickets(self, tmp_path: Path) -> None:
        """Texts of a content return it; changed texts return another or raise `CodecError`."""
        store, rng = tmp_path / "store", random.Random(3)
        self.create(store)
        with closing(self.open_engine(store)) as engine:
            for publication in HISTORY:
                publish(engine, publication)
            plan = engine.plan(engine.read([]), TABLES[1])
            contents = [region.content for region in plan if region.content is not None]
        assert contents
        for content in contents:
            texts = content.texts()
            assert texts
            assert registry.region_content(self.engine, texts) == content
            for _ in range(100):
                with suppress(CodecError):
                    registry.region_content(self.engine, _mutated(texts, rng))

    @shows("S10")
    def test_modes_of_files(self, tmp_path: Path) -> None:
        """Files can be read and written by their owner only."""
        store = tmp_path / "store"
        self.create(store)
        with closing(self.open_engine(store)) as engine:
            for publication in HISTORY:
                publish(engine, publication)
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [store, *store.rglob("*")]}
        wrong = {
            p: oct(mode) for p, mode in modes.items() if mode != (0o700 if p.is_dir() else 0o600)
        }
        # SQLite gives its files the mode of the database.
        assert wrong == {}


@contextmanager
def _pinned(store: Path) -> Iterator[None]:
    """Hold a lease on the current generation."""
    with closing(open_manifest(store, LOCAL)) as manifest:
        leases = LeaseTable(manifest, CLOCK)
        lease = leases.take(TimeStamp(150), 600_000)
        yield
        leases.release(lease)


def _remove(engine: Any, table: Any, removal: str) -> None:
    newest = TimeStamp(10_000)
    if removal == "compaction":
        engine.compact(table, scan_columns(), safe_point=newest, everything=True)
    elif removal == "purge":
        engine.purge([table])
    else:
        engine.purge_range(table, None, None, scan_columns())


def _rows(reader: EngineReader, plan: Sequence[RegionScan]) -> Sequence[str]:
    return sorted(
        repr(row)
        for region in plan
        for ts in (150, 250, 350)
        for batch in reader.scan(region, ScanSpec(scan_columns(), TimeStamp(ts), with_handle=True))
        for row in batch.to_pylist()
    )


def _mutated(texts: Sequence[str], rng: random.Random) -> Sequence[str]:
    """Return texts of which one is changed, cut or missing."""
    changed = list(texts)
    at = rng.randrange(len(changed))
    place = rng.randrange(len(changed[at]) + 1)
    kind = rng.randrange(3)
    if kind == 0:
        del changed[at]
        return changed or ["null"]
    if kind == 1:
        changed[at] = changed[at][:place]
    else:
        changed[at] = changed[at][:place] + rng.choice('"0[{,x') + changed[at][place + 1 :]
    return changed
