"""The runner of golden scripts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import NotCaughtUpError
from pyspark_theflash.testing.script import ScriptError, check_script, rewrite_script, run_script
from tests.golden.rewrite import SUBJECTS
from tests.support.golden_scripts import SCRIPTS

GOOD = """\
# A counter goes up.

# Two commands print a line each.
add 2
add 'by three' n=3
----
2
5 by three

reset
----
ok

read ts=7
----
NotCaughtUpError: timestamp 7 (1970-01-01T00:00:00.000Z) is above resolved_ts 5 \
(1970-01-01T00:00:00.000Z): transactions up to there may still be missing
"""


class Counter:
    """A subject."""

    def __init__(self) -> None:
        self.count, self.is_closed = 0, False

    def close(self) -> None:
        self.is_closed = True

    def do_add(self, what: str, n: str = "2") -> Iterator[str]:
        self.count += int(n)
        yield str(self.count) if what == n else f"{self.count} {what}"

    def do_reset(self) -> None:
        self.count = 0

    def do_read(self, ts: str) -> None:
        raise NotCaughtUpError(5, int(ts))

    def do_gap(self) -> list[str]:
        return ["a", ""]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path for a script."""
    return tmp_path / "counter.txt"


def test_a_script_that_holds(path: Path) -> None:
    path.write_text(GOOD)
    counter = Counter()
    check_script(path, counter)
    assert counter.is_closed


def test_wrong_output_fails_with_a_diff(path: Path) -> None:
    wrong = GOOD.replace("5 by three", "6 by three")
    path.write_text(wrong)
    with pytest.raises(pytest.fail.Exception) as caught:
        check_script(path, Counter())
    lines = str(caught.value).splitlines()
    assert lines[:2] == ["--- counter.txt, expected", "+++ actual"]
    changed = [line for line in lines[2:] if line[0] in "-+"]
    assert changed == ["-6 by three", "+5 by three"]
    assert " add 'by three' n=3" in lines
    assert path.read_text() == wrong


def test_missing_output_fails(path: Path) -> None:
    path.write_text(GOOD.replace("2\n5 by three\n", ""))
    with pytest.raises(pytest.fail.Exception, match=r"\+5 by three"):
        check_script(path, Counter())


def test_rewriting(path: Path) -> None:
    path.write_text(GOOD.replace("5 by three", "what\never").replace("ok\n", ""))
    rewrite_script(path, Counter())
    assert path.read_text() == GOOD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: a script opens with a comment"),
        ("reset\n----\nok\n", "line 1: a script opens with a comment"),
        ("# A comment.\nreset\n----\nok\n", "line 1: a script opens with a comment"),
        ("# A comment.\n\nreset\n", "line 3: a block has commands, then ----"),
        ("# A comment.\n\n----\nok\n", "line 3: a block has commands, then ----"),
        ("# A comment.\n\n# More.\nreset\njump\n----\nok\n", "line 5: there is no command jump"),
        ("# A comment.\n\nadd\n----\nok\n", "line 3: add: missing a required argument: 'what'"),
        ("# A comment.\n\nreset to=3\n----\nok\n", "line 3: reset: got an unexpected keyword"),
        ("# A comment.\n\ngap\n----\nok\n", "line 3: gap has output that a script cannot show"),
    ],
)
def test_a_script_that_is_none(text: str, message: str) -> None:
    with pytest.raises(ScriptError, match=message):
        run_script(text, Counter())


def test_every_folder_of_scripts_has_a_subject() -> None:
    folders = [path for path in SCRIPTS.iterdir() if path.is_dir()]
    assert {folder.name for folder in folders} == set(SUBJECTS)
    for folder in folders:
        assert len(list(folder.glob("*.txt"))) >= 3
        assert {path.suffix for path in folder.iterdir()} == {".txt"}
