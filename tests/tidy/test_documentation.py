"""Paths and links in Markdown exist; hooks and pages agree with the Makefile and the files."""

import re

import pytest

from tests.tidy.sources import ROOT, name

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PACKAGE = ROOT / "pyspark_theflash"
PATH = re.compile(r"`([\w.@*-]+(?:/[\w.@*-]+)+\.(?:c|ipynb|md|npz|proto|py|scala|sh|toml))`")
LINK = re.compile(r"\]\(([^)#:\s]+)[^):\s]*\)")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_exist(page):
    """A path is below the project's folder or the package; `*` stands for a part of a name."""
    paths = set(PATH.findall(page.read_text()))
    assert [p for p in sorted(paths) if not any([*ROOT.glob(p), *PACKAGE.glob(p)])] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page):
    links = LINK.findall(page.read_text())
    assert [link for link in links if not (page.parent / link).is_file()] == []


def test_each_question_has_an_answer():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    questions, answers = text.split("\n## Ten questions\n")[1].split("<details>")
    assert re.findall(r"^(\d+)\. .*\?$", questions, re.MULTILINE) == [*map(str, range(1, 11))]
    paths = re.findall(r"^\d+\. `(.*)`$", answers, re.MULTILINE)
    assert len(paths) == 10
    assert [path for path in paths if not (ROOT / path).is_file()] == []


def test_site_has_every_page():
    linked = set(LINK.findall((ROOT / "docs" / "index.md").read_text()))
    linked_pages = {(ROOT / "docs" / link).resolve() for link in linked}
    assert linked_pages == {page for page in PAGES if page != ROOT / "docs" / "index.md"}


def test_hooks_run_the_commands_of_make_check():
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = recipe[1].replace("$(bin)", ".venv/bin").replace("$(python)", ".venv/bin/python")
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    entries = [e.removesuffix(" --force-exclude") for e in re.findall(r"entry: (.*)", hooks)]
    assert [c.strip() for c in commands.splitlines() if c.strip() not in entries] == []
