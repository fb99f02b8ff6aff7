"""The processes that the package starts."""

import os
import resource
import subprocess

from pyspark_theflash.base.process import allow_files, start_module


def test_modules_are_found_through_pythonpath_only(tmp_path, monkeypatch):
    (tmp_path / "shown.py").write_text("import sys; print(sys.path, sys.argv[1:], __name__)")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}../{os.pathsep}")
    with start_module("shown", "-a", "b", stdout=subprocess.PIPE) as process:
        output = process.stdout.read().decode()
    assert output.endswith("['-a', 'b'] __main__\n")
    assert repr(str(tmp_path)) in output
    assert "'/'" not in output
    assert "''" not in output


def test_files_may_be_opened_up_to_the_hard_limit():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[0] // 2, limits[1]))
        allow_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > limits[0] // 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
