"""Prose is plain technical English, as far as a program can check it.

`python -m tests.tidy.test_language` counts the places that break a rule, by part of the project;
`-v` lists them.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tidy.prose import prose
from tests.tidy.sources import GENERATED, ROOT, name

PACKAGE = "pyspark_theflash"
FOLDERS = (PACKAGE, "demo", "docs", "jvm-shim", "protos", "tests", "tools")
MARKDOWN = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
MARKDOWN_COLUMNS = 120
WORDS = (
    *("anew", "anybody", "becomes of", "everybody", "for ever", "for good", "goes by", "in vain"),
    *("knows", "lacks", "let go", "nobody", "of ours", "riddles?", "somebody", "stands in"),
    *("as of a moment", "gone by", "looks? whether", "tells?", "to be had", "told", "wants"),
    *("turn(?:s|ed|ing)? away", "whatever", "what (?:arrives|comes)", "whoever"),
)
BANNED = re.compile(rf"\b(?:{'|'.join(WORDS)})\b".replace(" ", r"\s+"), re.IGNORECASE)
CLAUSE = re.compile(r"(?:What|Who|Whoever|Whose|Where|When|How|Which)\s")
"""A docstring whose summary is a clause instead of a noun phrase or an imperative."""


def _files() -> Iterator[tuple[str, Path]]:
    """Every file with prose, with the part of the project that it belongs to."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".scala") and not path.is_relative_to(GENERATED):
                is_package = folder == PACKAGE and path.parent != ROOT / folder
                yield path.relative_to(ROOT).parts[1] if is_package else folder, path
    yield from ((path.name, path) for path in MARKDOWN)


def _findings() -> Iterator[tuple[str, str]]:
    """Part and description of each place that breaks a rule."""
    for part, path in _files():
        for line, text in () if path == Path(__file__) else prose(path):
            if CLAUSE.match(text):
                yield part, f"{name(path)}:{line}: begins with a clause: {text.splitlines()[0]}"
            for match in BANNED.finditer(text):
                at = line + text.count("\n", 0, match.start())
                yield part, f"{name(path)}:{at}: {' '.join(match[0].split())}"


def test_language() -> None:
    assert [text for _, text in _findings()] == []


@pytest.mark.parametrize("path", MARKDOWN, ids=name)
def test_markdown_lines_fit(path) -> None:
    lines = enumerate(path.read_text().splitlines(), 1)
    assert [number for number, line in lines if len(line) > MARKDOWN_COLUMNS] == []


if __name__ == "__main__":
    findings = list(_findings())
    if "-v" in sys.argv:
        sys.stdout.write("".join(f"{text}\n" for _, text in findings))
    for part, count in sorted(Counter(part for part, _ in findings).items()):
        sys.stdout.write(f'    "{part}": {count},\n')
