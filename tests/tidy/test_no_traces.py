"""No file of the project names the machine it was written on or a host that packages came from."""

import re
import shutil
import subprocess

import pytest

from tests.tidy.sources import ROOT, name

MACHINE_PATH = re.compile(r"(?<![\w./$}])/(?:root|work|opt/wheels|home/\w+|Users/\w+)/\w")
REGISTRY_HOST = re.compile(
    r"pypi\.org|pythonhosted\.org|repo1?\.maven\.|registry\.npmjs\.|static\.crates\.io"
    r"|index\.crates\.io|proxy\.golang\.org|deb\.debian\.org"
)


def _files():
    """Every file that git has or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / path for path in sorted(set(listed.split("\0"))) if (ROOT / path).is_file()]


def _text(path):
    """Return the text of a file; nothing if it is binary."""
    content = path.read_bytes()
    return "" if b"\0" in content else content.decode("utf-8", "replace")


def test_no_traces():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    traces = [
        f"{name(path)}: {match.group()}"
        for path in _files()
        for pattern in (MACHINE_PATH, REGISTRY_HOST)
        for match in pattern.finditer(_text(path))
    ]
    assert traces == []
