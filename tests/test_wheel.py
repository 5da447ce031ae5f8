"""The package, built and installed as a wheel, samples outside the checkout."""

import importlib.metadata
import pathlib
import shutil
import subprocess
import sys

import gmflow_jax

_ROOT = pathlib.Path(__file__).parent.parent

# The velocity of data that is a point mass at (2, -1) is constant: Euler must arrive there in one step.
_SCRIPT = """
import jax, jax.numpy as jnp
import gmflow_jax
from gmflow_jax import flow, solvers
target = jnp.asarray([[2.0, -1.0]])
denoise = flow.denoiser(lambda x, t: (x - target) / t)
x = jax.random.normal(jax.random.key(0), (8, 2))
x_0 = solvers.sample(None, denoise, x, solvers.euler(), flow.time_grid(1))
assert jnp.allclose(x_0, target, atol=1e-6), x_0
print(gmflow_jax.__file__)
"""


def test_installed_wheel_samples_without_the_checkout(tmp_path):
    source = tmp_path / "source"  # a build in the checkout would leave files there
    shutil.copytree(_ROOT / "gmflow_jax", source / "gmflow_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(_ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("gmflow_jax-*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True)
    assert (site / "gmflow_jax" / "py.typed").is_file()
    (installed,) = importlib.metadata.distributions(name="gmflow-jax", path=[str(site)])
    assert installed.version == gmflow_jax.__version__

    program = f"import sys; sys.path.insert(0, {str(site)!r})\n{_SCRIPT}"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().startswith(str(site))
