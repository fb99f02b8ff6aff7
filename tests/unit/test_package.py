"""The package's public names, which are loaded when they are first used."""

import pytest

import pyspark_theflash


def test_public_names():
    assert [name for name in pyspark_theflash.__all__ if not hasattr(pyspark_theflash, name)] == []
    assert pyspark_theflash.DefaultSource.__name__ == "TheFlashDataSource"


def test_other_names_do_not_exist():
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = pyspark_theflash.nothing
