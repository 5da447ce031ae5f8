"""jit, eager, pmap and shard_map over four devices give the same samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gmflow_jax import flow, solvers

SOLVERS = {"gm_ode": lambda: solvers.gm_ode(2, 2), "gm_sde": lambda: solvers.gm_sde(2)}


@pytest.fixture(scope="module")
def inputs():
    """Per-sample keys and starting points of 8 samples."""
    return jax.random.split(jax.random.key(1), 8), jax.random.normal(jax.random.key(2), (8, 2))


@pytest.mark.parametrize("name", list(SOLVERS))
def test_compiled_and_distributed_samples_are_the_same(name, rippled, inputs, loops, fast_compile):
    def run(keys, x_init):
        times = flow.time_grid(3)
        return solvers.sample(keys, rippled.denoiser(), x_init, SOLVERS[name](), times)

    def same(found):  # measured: at most 5e-7 apart
        np.testing.assert_allclose(jnp.reshape(found, (8, 2)), expected, atol=2e-6)

    with loops():
        expected = np.asarray(run(*inputs))

    assert jax.device_count() == 4
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    sharded = jax.device_put(inputs, NamedSharding(mesh, spec))
    by_jit = jax.jit(run)(*sharded)
    assert len(by_jit.sharding.device_set) == 4
    same(by_jit)
    same(jax.jit(jax.shard_map(run, mesh=mesh, in_specs=(spec, spec), out_specs=spec))(*sharded))

    keys, x_init = inputs
    same(jax.pmap(run)(keys.reshape(4, 2), x_init.reshape(4, 2, 2)))
