"""The pages for users describe every option, command and error, and README is short."""

import re

import pytest

from pyspark_theflash import errors
from pyspark_theflash.base.read_options import SCAN_OPTIONS
from pyspark_theflash.cli.jobs.arguments import ArgumentParser
from pyspark_theflash.cli.main import COMMANDS, command
from tests.tidy.sources import ROOT, name

DOCS = ROOT / "docs"
README_LINES = 200
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"^```(?:sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CALL = re.compile(r"^(?:! )?theflash ([a-z][a-z-]*)\b((?:.*\\\n)*.*(?:\n {4}.*)*)", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
ERRORS = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and error is not errors.TheFlashError
]


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < README_LINES


@pytest.mark.parametrize("name", [option.name for option in SCAN_OPTIONS if option.name != "path"])
def test_every_option_is_documented(name: str) -> None:
    assert f"| `{name}` |" in (DOCS / "options.md").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    assert f"theflash {name} " in (DOCS / "cli.md").read_text()


def test_every_error_is_documented_with_its_meaning_and_an_action() -> None:
    entries = " ".join((DOCS / "errors.md").read_text().split()).split("- `")[1:]
    documented = {}
    for entry in entries:
        title, meaning, action = re.fullmatch(
            r"(\w+Error`(?: \(retry\))?): (.*?) \*Action:\* (.*?)(?: ##.*)?", entry.strip()
        ).groups()
        assert action.endswith(".")
        documented[title] = meaning
    assert documented == {
        f"{error.__name__}`{' (retry)' if error.retryable else ''}": (
            error.__doc__.strip().splitlines()[0]
        )
        for error in ERRORS
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_have_the_options_that_pages_use(page) -> None:
    used: dict[str, set[str]] = {}
    for block in BLOCK.findall(page.read_text()):
        for called, rest in CALL.findall(block):
            used.setdefault(called, set()).update(OPTION.findall(rest))
    unknown = {called: options - known_options(called) for called, options in used.items()}
    assert {called: options for called, options in unknown.items() if options} == {}


def known_options(called: str) -> set[str]:
    parser = ArgumentParser()
    command(called).add_arguments(parser)
    return {*parser._option_string_actions}
