"""The exported sampler: run by another process without this package, and equal to the pipeline."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

from gmflow_jax import pipeline

RUN = """
import sys
import jax, numpy as np, safetensors.numpy
for solver in ("gm_ode", "gm_sde"):
    sampler = jax.export.deserialize(bytearray(open(f"{solver}.jaxexport", "rb").read()))
    params = safetensors.numpy.load_file(f"{solver}.safetensors")
    for size in (1, 3) if solver == "gm_ode" else (3,):
        indices, labels = np.arange(size, dtype=np.int32), np.int32([0, 5, 1])[:size]
        images = sampler.call(params, np.uint32(3), indices, labels, np.float32(0.3))
        np.save(f"{solver}_{size}.npy", images)
assert not any(name.startswith(("gmflow_jax", "flax")) for name in sys.modules)
"""


def test_the_exported_sampler_makes_the_images_of_the_pipeline_without_this_package(bundle, tmp_path):
    distilled = dataclasses.replace(bundle, num_calls=2)  # which says how to sample from it
    pipeline.export_sampler(tmp_path / "gm_ode.jaxexport", distilled)
    recipe = pipeline.Recipe("gm_sde", order=1)
    pipeline.export_sampler(tmp_path / "gm_sde.jaxexport", bundle, recipe, num_steps=2)
    env = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-c", RUN]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=env)
    assert result.returncode == 0, result.stderr
    pipe = pipeline.Pipeline(bundle)
    few = {"order": 1, "num_substeps": 64, "guidance_scale": 0.0}
    guided = {"order": 1, "guidance_scale": 0.3}
    for solver, options, sizes in (("gm_ode", few, (1, 3)), ("gm_sde", guided, (3,))):
        asked = {"solver": solver, "num_steps": 2, "seed": 3, "progress": False}
        expected = pipe([0, 5, 1], **asked, **options).astype(int)
        for size in sizes:
            # Rounding to whole numbers may fall either way.
            found = np.load(tmp_path / f"{solver}_{size}.npy")
            assert np.abs(found - expected[:size]).max() <= 1


def test_impossible_exports_are_refused(bundle, tmp_path):
    path = tmp_path / "sampler.jaxexport"
    with pytest.raises(ValueError, match="needs a transformer and an autoencoder"):
        pipeline.export_sampler(path, dataclasses.replace(bundle, autoencoder=None))
    with pytest.raises(ValueError, match="num_steps is 0"):
        pipeline.export_sampler(path, bundle, num_steps=0)
    with pytest.raises(ValueError, match=r"must be a file that ends in \.jaxexport"):
        pipeline.export_sampler(path.with_suffix(".safetensors"), bundle)
    with pytest.raises(ValueError, match="no platform 'abacus'"):
        pipeline.export_sampler(path, bundle, num_steps=1, platforms=["abacus"])
    distilled = dataclasses.replace(bundle, num_calls=2)
    for recipe in (None, pipeline.Recipe(order=1)):
        with (
            pytest.warns(UserWarning, match="num_calls = 2, but num_steps is 1"),
            pytest.raises(ValueError, match="no platform 'abacus'"),
        ):
            pipeline.export_sampler(path, distilled, recipe, num_steps=1, platforms=["abacus"])
    assert not list(tmp_path.iterdir())
