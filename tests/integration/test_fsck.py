"""`theflash fsck`: a sound store is sound, and each kind of damage is named."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pyspark_theflash.cli.main import main
from pyspark_theflash.storage.store.folder import DATA_FOLDER
from pyspark_theflash.storage.store.manifest import DATABASE

Run = Callable[[Path], tuple[int, list[str]]]


@pytest.fixture
def fsck(capsys: pytest.CaptureFixture[str]) -> Run:
    """Check a store: (status, lines on stdout)."""

    def run(store: Path) -> tuple[int, list[str]]:
        capsys.readouterr()
        status = main(["fsck", str(store)])
        return status, capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def store(workload_copy: Callable[[str, Path], Path], tmp_path: Path) -> Path:
    """A copy of the bank, to be damaged."""
    return workload_copy("bank", tmp_path / "store")


def data_files(store: Path) -> list[Path]:
    return sorted((store / DATA_FOLDER).rglob("*.parquet"))


@pytest.mark.parametrize("name", ["bank", "tpcc", "tpch"])
def test_a_written_store_is_sound(
    name: str, workload_store: Callable[[str], Path], fsck: Run
) -> None:
    status, lines = fsck(workload_store(name))
    assert (status, len(lines)) == (0, 1)
    assert lines[0].endswith("all sound")


def test_every_damaged_file_is_named(store: Path, fsck: Run) -> None:
    rng = random.Random(7)
    flipped, cut, missing, swapped, other = rng.sample(data_files(store), 5)
    content = bytearray(flipped.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    flipped.write_bytes(content)
    cut.write_bytes(cut.read_bytes()[:-1])
    missing.unlink()
    swapped.write_bytes(other.read_bytes())
    status, lines = fsck(store)
    assert status == 1
    assert lines.pop().endswith("4 damaged")
    assert sorted(line.split(": ")[0] for line in lines) == sorted(
        map(str, [flipped, cut, missing, swapped])
    )


def test_a_damaged_manifest_is_corruption(store: Path, fsck: Run) -> None:
    database = store / DATABASE
    content = database.read_bytes()
    at = content.index(b'"resolved_ts"') + len(b'"resolved_ts": 4')
    database.write_bytes(content[:at] + b"9" + content[at + 1 :])
    assert fsck(store) == (6, [])


def test_no_store_is_no_store(tmp_path: Path, fsck: Run) -> None:
    assert fsck(tmp_path / "no") == (3, [])
