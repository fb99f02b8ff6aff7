import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[4] / "protos" / "generate.py"


def test_generated_stubs_are_current(monkeypatch, capsys):
    pytest.importorskip("grpc_tools")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--check"])
    monkeypatch.syspath_prepend(SCRIPT.parent)
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert (exited.value.code, capsys.readouterr().out) == (0, "")
