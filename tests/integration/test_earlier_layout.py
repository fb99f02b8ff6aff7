"""A store written by the version before the package was divided by subject.

`tests/fixtures/stores/format4.tar.gz` has the first half of the workload `ddl`, a third of it
compacted, one region split. It must open unchanged, answer as TiDB did, and accept the other half.
"""

from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.main import main
from pyspark_theflash.storage.store.compared import imports_record
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.manifest import ManifestChange
from tests.support.archives import unpack
from tests.support.progress import read_progress
from tests.support.workloads import Workload, check_answers, workload


@pytest.fixture
def store(fixtures: Path, tmp_path: Path) -> Path:
    unpack(fixtures / "stores" / "format4.tar.gz", tmp_path)
    return tmp_path / "format4"


def contents(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*.parquet")}


def test_it_opens_unchanged_and_goes_on(store: Path) -> None:
    chosen, before = workload("ddl"), contents(store)
    check(chosen, store)
    assert main(["fsck", str(store)]) == 0
    assert contents(store) == before
    assert (store / "format").read_text() == "theflash-store 4\n"
    assert main(["writer", *chosen.writer_arguments(store)]) == 0
    assert main(["compact", str(store)]) == 0
    progress = check(chosen, store)
    assert progress == chosen.end_ts
    assert main(["fsck", str(store)]) == 0
    assert (store / "format").read_text() == "theflash-store 4\n", "that version can open it"


def test_a_record_that_its_version_does_not_have_raises_the_format(store: Path) -> None:
    chosen = workload("ddl")
    with closing(open_manifest(store, LocalFileSystem())) as manifest:
        manifest.commit(ManifestChange([imports_record(1)]), manifest.take_token())
    assert (store / "format").read_text() == "theflash-store 5\n"
    check(chosen, store)


def check(chosen: Workload, store: Path) -> int:
    """Compare with every third timestamp that the store covers; return its resolved_ts."""
    progress = read_progress(store)
    assert progress is not None
    covered = sorted(
        {a.snapshot_ts for a in chosen.answers() if a.snapshot_ts <= progress.resolved_ts}
    )
    chosen_ts = {*covered[::3], covered[-1]}
    assert check_answers(store, (a for a in chosen.answers() if a.snapshot_ts in chosen_ts)) > 20
    return progress.resolved_ts
