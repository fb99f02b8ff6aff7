"""README describes every option of the source and every command."""

from pathlib import Path

import pytest

from pyspark_theflash.base.options import SCAN_OPTIONS
from pyspark_theflash.cli.main import COMMANDS

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.parametrize("name", [option.name for option in SCAN_OPTIONS if option.name != "path"])
def test_every_option_is_documented(name: str) -> None:
    assert f"| `{name}` |" in README


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    assert f"theflash {name} " in README
