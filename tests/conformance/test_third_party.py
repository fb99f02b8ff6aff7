"""An engine of another package, installed in a folder of its own, passes the conformance kit."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import invalidate_caches
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import OptionError, UnsupportedError
from pyspark_theflash.cli.main import main
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.folder import StoreIdentity, read_identity
from pyspark_theflash.testing import PROMISES, EngineSuite, promises_of
from pyspark_theflash.testing.case import CLOCK, LOCAL
from pyspark_theflash.testing.script import check_script
from tests.golden.test_sql import Statements
from tests.support.engine_package import install, plain_installed
from tests.support.golden_scripts import script_paths
from tests.support.workloads import check_answers, workload


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of packages with the engine *plain*."""
    with plain_installed(tmp_path_factory.mktemp("site")) as folder:
        yield folder


class TestPlain(EngineSuite):
    engine = "plain"


def test_the_writer_and_readers_use_it(tmp_path: Path) -> None:
    """The command line replicates a captured workload; the answers are TiDB's."""
    store, chosen = tmp_path / "store", workload("bank")
    assert main(["init", str(store), "--engine", "plain"]) == 0
    assert read_identity(store, LOCAL).engine == "plain"
    assert main(["writer", *chosen.writer_arguments(store)]) == 0
    assert check_answers(store, chosen.answers()) > 0
    assert main(["fsck", str(store)]) == 0


def test_engines_that_cannot_be_used(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(registry.engines()) == ["ch", "magic", "plain"]
    for name, value in (("theflash-lost", "no_such_module"), ("theflash-wrong", "json")):
        monkeypatch.syspath_prepend(install(tmp_path / name, name, value))
    invalidate_caches()
    for name, message in (
        ("steam", "no engine 'steam'; installed: ch, lost, magic, plain, wrong"),
        ("lost", "'lost' cannot be loaded from no_such_module"),
        ("wrong", "json of engine 'wrong' has no open_reader, open_engine, region_content"),
    ):
        with pytest.raises(OptionError, match=message):
            registry.create(tmp_path / "store", name, LOCAL)
    assert not (tmp_path / "store").exists()
    for opened in (registry.open_engine, registry.open_reader):
        with pytest.raises(UnsupportedError, match=r"engine 'steam' \(installed: .*magic, plain"):
            opened(tmp_path, StoreIdentity("id", "steam"), LOCAL, CLOCK)
    registry._driver.cache_clear()


def test_another_package_cannot_replace_magic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, "theflash-magic", "theflash_plain"))
    invalidate_caches()
    registry._driver.cache_clear()
    driver = registry._driver("magic")
    assert getattr(driver, "__name__", None) == registry.OWN["magic"]


GAPS = """
from pyspark_theflash.testing import EngineSuite, EngineGap, GapKind

class TestGaps(EngineSuite):
    engine = "plain"
    gaps = {
        "test_modes_of_files": EngineGap(GapKind.NEVER, "this one passes"),
        "test_the_guard_rejects_a_publication": EngineGap(
            GapKind.NOT_IMPLEMENTED, "ignores the guard", BaseException
        ),
    }

    def open_engine(self, path, fs=None, guard=None):
        return super().open_engine(path, **({} if fs is None else {"fs": fs}))
"""


def test_a_gap_that_passes_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "test_gaps.py").write_text(GAPS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rxX", "-k", "modes or guard"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert "1 failed, " in done.stdout, done.stdout + done.stderr
    assert "1 xfailed" in done.stdout
    assert "[XPASS(strict)] never: this one passes" in done.stdout
    assert "notimpl: ignores the guard" in done.stdout


def test_a_gap_names_a_test() -> None:
    with pytest.raises(TypeError, match="there is no test_that_does_not_exist"):
        type("TestWrong", (EngineSuite,), {"gaps": {"test_that_does_not_exist": None}})


def test_the_page_lists_promises_and_tests() -> None:
    page = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()
    tests = promises_of(EngineSuite)
    for promise, statement in PROMISES.items():
        assert f"| {promise} | {statement} |" in page
    assert {p for promises in tests.values() for p in promises} == set(PROMISES)
    for name, promises in tests.items():
        assert f"| `{name}` | {', '.join(promises)} |" in page
    assert page.count("| `test_") == len(tests)


@pytest.mark.parametrize("script", script_paths("sql"), ids=lambda path: path.stem)
def test_statements_of_sql(script: Path, tmp_path: Path) -> None:
    check_script(script, Statements(tmp_path, "plain"))
