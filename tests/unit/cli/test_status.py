"""Status of a store: what cannot be read, why, and what to do."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Publication
from pyspark_theflash.storage.store.aside import Aside
from pyspark_theflash.storage.store.folder import read_identity
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.storage.store.stopped import StoppedRegion
from pyspark_theflash.testing.stores import StoreBuilder, id_column, table_info

PARTS = [PhysicalTableID(5), PhysicalTableID(6)]


def test_tables_and_regions_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, fs = tmp_path / "store", LocalFileSystem()
    StoreBuilder(store, table_info(1, "d.t", [id_column()])).publish(200)
    records = [Aside(part, TimeStamp(150), "d.t", "a reason").to_record() for part in PARTS]
    records += [StoppedRegion(n, 10 + n, "a bulk load").to_record() for n in (9, 100)]
    engine = registry.open_engine(store, read_identity(store, fs), fs, SystemClock())
    with closing(engine):
        engine.publish(Publication((), ManifestChange(records)))
    assert main(["status", str(store)]) == 0
    lines = capsys.readouterr().out.splitlines()
    facts = dict(line.split(None, 1) for line in lines if line[0] != " ")
    assert (facts["set_aside"], facts["stopped_regions"]) == ("1", "2")
    (aside, *stopped) = [line for line in lines if line.startswith("  ")]
    assert "d.t is set aside from 150 (" in aside
    assert ": a reason; to read all of it again, " in aside
    assert stopped == [
        f"  region {n} stays at index {10 + n}: a bulk load; remove and add its learner, so that "
        "TiKV sends a snapshot, or use theflash follow"
        for n in (9, 100)
    ]
    assert main(["status", str(store), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert [status["set_aside"], status["stopped_regions"]] == [
        [aside.strip()],
        [line.strip() for line in stopped],
    ]
