"""The notebooks: how they are stored, and that they run from top to bottom with small settings."""

import json
from pathlib import Path

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOKS = sorted(Path(__file__).parents[2].glob("notebooks/*.ipynb"))
CELL_TIMEOUT = 180  # seconds; the slowest cell needs about 10 on two cores


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_stored_without_results(path):
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert len(json.dumps(raw["metadata"])) < 300
    assert raw["metadata"]["kernelspec"]["name"] == "python3"
    for cell in raw["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_valid_with_cell_ids(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)  # of format 4.5, cells must have ids, each its own
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)


def test_begins_with_a_title_and_the_setup_for_colab(path):
    title, setup = nbformat.read(path, as_version=4).cells[:2]
    assert title.source.startswith("# ")
    assert setup.cell_type == "code"
    assert "google.colab" in setup.source


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A kernel of this interpreter on the CPU, without settings from the user's home."""
    for name in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "PYTHONPATH", "PYTHONSTARTUP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # quicker, as each program runs once
    monkeypatch.setenv("GMFLOW_JAX_QUICK", "1")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    specs = tmp_path / "kernels"
    write_kernel_spec(specs / "python3")
    manager = KernelSpecManager(kernel_dirs=[str(specs)], ensure_native_kernel=False)
    return AsyncKernelManager(kernel_name="python3", kernel_spec_manager=manager)


@pytest.mark.slow
def test_runs_with_small_settings(path, kernel, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    folder = tmp_path / "run"
    folder.mkdir()
    client = NotebookClient(
        notebook, km=kernel, timeout=CELL_TIMEOUT, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(cleanup_kc=True)  # or the kernel would live on, as it was made elsewhere
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert list(folder.iterdir()) == []
