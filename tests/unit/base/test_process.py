"""The processes that the package starts."""

import os
import subprocess

from pyspark_theflash.base.process import start_module


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
