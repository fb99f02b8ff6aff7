"""`tests/unit` mirrors the package: a folder for a package, `test_X.py` beside the module `X`."""

from pathlib import Path

import pytest

from tests.tidy.sources import ROOT

UNIT = ROOT / "tests" / "unit"
FILES = sorted(path.relative_to(UNIT).as_posix() for path in UNIT.rglob("test_*.py"))


@pytest.mark.parametrize("file", FILES)
def test_a_unit_test_is_where_its_module_is(file: str) -> None:
    """A file may be named after its subject, but not after a module of a subpackage."""
    folder = ROOT / "pyspark_theflash" / Path(file).parent
    assert (folder / "__init__.py").is_file()
    module = file.rpartition("/")[2].removeprefix("test_")
    if not (folder / module).exists():
        assert list(folder.rglob(module)) == []
