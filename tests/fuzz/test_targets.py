"""No parser does anything with mutated inputs but parse them or raise a typed error."""

from pathlib import Path

import pytest

from tests.fuzz.run import fuzz
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_some_inputs(name: str, tmp_path: Path) -> None:
    assert fuzz(TARGETS[name](tmp_path), 200, name).failures == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many_inputs(name: str, tmp_path: Path) -> None:
    findings = fuzz(TARGETS[name](tmp_path), 20_000, f"{name} at length")
    assert findings.failures == {}
    assert findings.inputs == 20_000
