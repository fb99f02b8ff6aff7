"""The folder of sockets of engine processes."""

import os
import tempfile
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.service.client.embedded import private_folder

NAME = f"theflash-{os.geteuid()}"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    for name in ("run", "tmp", "home", "elsewhere"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


def test_the_runtime_folder_is_first(folders):
    assert private_folder() == private_folder() == folders / "run" / NAME
    assert private_folder().stat().st_mode & 0o777 == 0o700


def test_without_a_runtime_folder(folders, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folders / "none"))
    assert private_folder() == folders / "tmp" / NAME


def link(folder: Path) -> None:
    folder.symlink_to(folder.parents[1] / "elsewhere")


def of_another_user(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)


def open_to_others(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


@pytest.mark.parametrize(
    "occupy",
    [
        link,
        open_to_others,
        Path.touch,
        pytest.param(
            of_another_user, marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
        ),
    ],
)
def test_what_others_have_put_there_is_not_used(folders, monkeypatch, occupy):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folders / "none"))
    occupy(folders / "tmp" / NAME)
    assert private_folder() == folders / "home" / ".theflash"
    assert private_folder().lstat().st_mode & 0o777 == 0o700


def test_no_folder(folders, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folders / "none"))
    link(folders / "tmp" / NAME)
    link_at = folders / "home" / ".theflash"
    link_at.symlink_to(folders / "elsewhere")
    with pytest.raises(OptionError, match="is a folder of this user with mode 0700"):
        private_folder()
