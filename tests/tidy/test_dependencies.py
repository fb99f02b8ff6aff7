"""The versions in pyproject.toml, in the locks and in generated code agree."""

import re
import sys
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.tidy.sources import GENERATED, ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _wanted():
    """Every requirement of the package, its extras and its dependency groups, by its lock."""
    project = PYPROJECT["project"]
    lists = [("dev", project["dependencies"])]
    lists += [("dev", extra) for extra in project["optional-dependencies"].values()]
    lists += PYPROJECT["dependency-groups"].items()
    return [
        pytest.param(lock, Requirement(r), id=f"{lock}-{r}")
        for lock, requirements in lists
        for r in requirements
        if isinstance(r, str)
    ]


def _pinned(path):
    """Name to version in one lock, of the lines meant for this interpreter."""
    lines = re.findall(r"^[a-z].*?(?= \\$)", path.read_text(), re.MULTILINE)
    pins = [p for p in map(Requirement, lines) if p.marker is None or p.marker.evaluate()]
    return {p.name: Version(str(p.specifier).removeprefix("==")) for p in pins}


LOCKS = {path.stem: _pinned(path) for path in sorted((ROOT / "requirements").glob("*.txt"))}


@pytest.mark.parametrize(("lock", "requirement"), _wanted())
def test_lock_satisfies(lock, requirement):
    if requirement.marker is not None and not requirement.marker.evaluate():
        pytest.skip("not for this interpreter")
    assert requirement.specifier.contains(LOCKS[lock][canonicalize_name(requirement.name)])


def test_locks_agree():
    assert LOCKS["build"].items() <= LOCKS["dev"].items()


def test_oldest_allowed_protobuf_runs_the_generated_code():
    made_by = {
        Version(version_text)
        for path in GENERATED.rglob("*_pb2.py")
        for version_text in re.findall(
            r"^# Protobuf Python Version: (\S+)$", path.read_text(), re.MULTILINE
        )
    }
    wanted = [requirement for _, requirement in (each.values for each in _wanted())]
    allowed = next(r for r in wanted if r.name == "protobuf").specifier
    oldest = min(Version(s.version) for s in allowed if s.operator == ">=")
    assert all(v.major == oldest.major and v <= oldest for v in made_by)
    assert made_by
    assert Version(version("protobuf")) >= max(made_by)
