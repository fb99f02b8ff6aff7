"""Golden scripts: text files of commands and their expected output.

A script opens with a comment that says what it shows and why. Blocks follow, separated by empty
lines: comments, commands, a line of four dashes, and the output of these commands.

    # A version is visible from its commit_ts on, that timestamp included.

    put row=1 ts=110 value=tea
    publish resolved_ts=120
    ----
    ok

    read ts=109
    read ts=110
    ----
    no rows
    1 tea

A command is a name, words and `key=value` pairs, quoted as in a shell. The method `do_<name>` of a
subject executes it and returns its output; the signature of the method is that of the command. An
error of the package is output, too: its class and its message. A block without output has `ok`.

`make golden-rewrite` replaces expected output by actual output; its diff is to be reviewed. Tests
only compare.
"""

import difflib
import inspect
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, Protocol

import pytest

from pyspark_theflash.base.errors import TheFlashError

_DASHES: Final = "----"
_KEY: Final = re.compile(r"[a-z_]+=")


class ScriptError(Exception):
    """A malformed script, or one with an unknown command or wrong arguments."""


class ScriptSubject(Protocol):
    """The commands of some scripts, `do_<name>`, over one instance of the code under test."""

    def close(self) -> None:
        """Close the resources that the commands have opened."""


def check_script(path: Path, subject: ScriptSubject) -> None:
    """Fail with a diff unless the expected output of a script is the actual output."""
    text = path.read_text()
    with closing(subject):
        actual = run_script(text, subject)
    if actual != text:
        lines = difflib.unified_diff(
            text.splitlines(), actual.splitlines(), f"{path.name}, expected", "actual", lineterm=""
        )
        pytest.fail("\n".join(lines), pytrace=False)


def rewrite_script(path: Path, subject: ScriptSubject) -> None:
    """Replace the expected output of a script by the actual output."""
    with closing(subject):
        path.write_text(run_script(path.read_text(), subject))


def run_script(text: str, subject: ScriptSubject) -> str:
    """Run the commands of a script; return the script with actual in place of expected output.

    Raises:
        ScriptError: The script has no opening comment, a malformed block, an unknown command or
            wrong arguments.
    """
    paragraphs = list(_paragraphs(text))
    if not paragraphs or not all(line.startswith("# ") for line in paragraphs[0][1]):
        raise ScriptError("line 1: a script opens with a comment that says what it shows and why")
    return "\n\n".join(_run_block(number, lines, subject) for number, lines in paragraphs) + "\n"


def _paragraphs(text: str) -> Iterator[tuple[int, list[str]]]:
    """Runs of lines without empty ones, each with the number of its first line."""
    lines: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.strip():
            lines.append(line)
        elif lines:
            yield number - len(lines), lines
            lines = []


def _run_block(first: int, lines: list[str], subject: ScriptSubject) -> str:
    head = lines[: lines.index(_DASHES)] if _DASHES in lines else lines
    commands = [(n, line) for n, line in enumerate(head, first) if not line.startswith("#")]
    if bool(commands) != (_DASHES in lines):
        raise ScriptError(f"line {first}: a block has commands, then {_DASHES}, then their output")
    if not commands:
        return "\n".join(head)
    output = [line for number, command in commands for line in _run(number, command, subject)]
    return "\n".join([*head, _DASHES, *(output or ["ok"])])


def _run(number: int, line: str, subject: ScriptSubject) -> Iterable[str]:
    name, *words = shlex.split(line)
    command: Callable[..., Iterable[str] | None] | None = getattr(subject, f"do_{name}", None)
    if command is None:
        raise ScriptError(f"line {number}: there is no command {name}")
    named = dict(word.split("=", 1) for word in words if _KEY.match(word))
    try:
        to_parameters = inspect.signature(command).bind
        bound = to_parameters(*(w for w in words if not _KEY.match(w)), **named)
    except TypeError as error:
        raise ScriptError(f"line {number}: {name}: {error}") from error
    try:
        output = list(command(*bound.args, **bound.kwargs) or ())
    except TheFlashError as error:
        output = [f"{type(error).__name__}: {error}"]
    if not all(each.strip() and "\n" not in each and each != _DASHES for each in output):
        raise ScriptError(f"line {number}: {name} has output that a script cannot show: {output}")
    return output
