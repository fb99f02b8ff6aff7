"""Failures to build TiDB: by the machine, which skips the tests, or by the sources."""

from pathlib import Path

import pytest

from tests.peer import build
from tests.peer.build import NOT_HERE, NotHereError


@pytest.fixture(autouse=True)
def unbuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, path in (("FOLDER", "built"), ("BIN", "built/bin"), ("_STAMP", "built/stamp")):
        monkeypatch.setattr(build, name, tmp_path / path)


def go(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Go that is a shell script."""
    path = folder / "bin" / "go"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")


def listing(said: str) -> str:
    """A Go of a suitable version that cannot fetch modules."""
    return f"""case "$1" in
version) echo go version go1.24.1 linux/amd64 ;;
list) echo '{said}' >&2; exit 1 ;;
esac"""


def test_no_go(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("GOROOT", "/nowhere")
    assert build.main() == NOT_HERE
    assert "no Go found on the PATH or in /nowhere/bin" in capsys.readouterr().err


def test_old_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(tmp_path, "echo go version go1.22.12 linux/amd64", monkeypatch)
    with pytest.raises(NotHereError, match="too old"):
        build.build()


@pytest.mark.parametrize(
    "said",
    [
        'a@v1: Get "https://proxy/a/@v/v1.zip": dial tcp: lookup proxy: no such host',
        "a@v1: reading http://proxy/a/@v/v1.zip: 503 Service Unavailable",
        "module lookup disabled by GOPROXY=off",
    ],
)
def test_modules_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    go(tmp_path, listing(said), monkeypatch)
    assert build.main() == NOT_HERE


@pytest.mark.parametrize(
    "said",
    [
        "tap.go:78:14: syntax error: unexpected {",
        "verifying a@v1: checksum mismatch",
        "missing go.sum entry for module providing package a",
    ],
)
def test_sources_that_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    go(tmp_path, listing(said), monkeypatch)
    assert build.main() == 1


def test_what_does_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = listing("").replace("exit 1", "exit 0").replace("esac", "build) exit 2 ;;\nesac")
    go(tmp_path, text, monkeypatch)
    assert build.main() == 2


def test_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go's caches go below the build's folder, and nothing is written elsewhere."""
    monkeypatch.setenv("HOME", str(tmp_path / "no" / "home"))
    for name in ("GOPATH", "GOCACHE"):
        monkeypatch.delenv(name, raising=False)
    environment = build._environment()
    for name in ("HOME", "GOPATH", "GOCACHE"):
        assert build.FOLDER in Path(environment[name]).parents
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build._environment()["HOME"] == str(tmp_path)
    assert "GOCACHE" not in build._environment()
