"""Each notebook runs from a clean kernel, and is kept without output."""

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.fixture
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def notebooks(*slow):
    """All notebooks, some of them only where there is time."""
    marks = dict.fromkeys(slow, pytest.mark.slow)
    params = [
        pytest.param(path, id=path.stem, marks=marks.get(path.stem, ())) for path in NOTEBOOKS
    ]
    return pytest.mark.parametrize("notebook", params, indirect=True)


@pytest.mark.spark
@notebooks("02_following")
def test_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # a home need not be there
    folder = str(NOTEBOOKS[0].parent)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": folder}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@notebooks()
def test_is_kept_without_output(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
