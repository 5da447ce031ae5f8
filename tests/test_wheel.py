"""The package as users install it: built as a wheel, imported from outside the checkout, sampling."""

import pathlib
import subprocess
import sys

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
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(_ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("gmflow_jax-*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True)
    assert (site / "gmflow_jax" / "py.typed").is_file()

    program = f"import sys; sys.path.insert(0, {str(site)!r})\n{_SCRIPT}"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().startswith(str(site))
