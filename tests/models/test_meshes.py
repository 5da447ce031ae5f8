"""Networks and the training step on a mesh with Explicit axes, the default of `jax.make_mesh`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gmflow_jax import gm, models, sharding, training
from tests.helpers import assert_trees_close

pytestmark = pytest.mark.usefixtures("fast_compile")

ROUNDING = dict(rtol=0, atol=2e-6)  # of two different programs; measured: 6e-7
CONFIG = models.GMDiTConfig(
    input_size=4, patch_size=2, hidden_size=8, depth=1, num_heads=2, num_classes=5, num_components=2
)


@pytest.fixture
def split():
    """split(array): the array with its rows split over four devices, while the mesh is in use."""
    mesh = jax.make_mesh((4,), ("data",))
    with jax.set_mesh(mesh):
        yield lambda a: jax.device_put(a, NamedSharding(mesh, PartitionSpec("data")))


def test_networks_keep_the_sharding(split):
    """Tracing shows it."""
    images, points = split(jnp.ones((4, 4, 4, 4))), split(jnp.ones((4, 2)))
    networks = {
        "GMDiT": lambda: models.GMDiT(CONFIG, nnx.Rngs(0))(images, 0.5, split(jnp.arange(4))),
        "GMMLP": lambda: models.GMMLP(models.GMMLPConfig(), nnx.Rngs(0))(points, 0.5),
        "SpectrumMLP": lambda: models.SpectrumMLP(models.SpectrumMLPConfig(base_size=4), nnx.Rngs(0))(
            gm.Gaussian(images, split(jnp.ones((4, 1, 1))))
        ),
    }
    for name, run in networks.items():
        for leaf in jax.tree.leaves(jax.eval_shape(run)):
            assert leaf.sharding.spec[0] == "data", name


def train(place, num_microbatches, run=jax.jit):
    graphdef, params = nnx.split(models.GMDiT(CONFIG, nnx.Rngs(0)))
    optimizer = optax.sgd(0.1)
    step = training.make_train_step(
        lambda params, *args: nnx.merge(graphdef, params)(*args), optimizer, lambda step: jnp.float32(0.9),
        num_microbatches=num_microbatches, num_classes=5, class_dropout_prob=0.5,
    )
    x_0 = np.random.default_rng(0).normal(size=(8, 4, 4, 4)).astype(np.float32)
    batch = {"x_0": place(x_0), "labels": place(np.arange(8) % 5)}
    return run(step)(training.init_state(params, optimizer), batch, jax.random.key(0))


def test_the_training_step_is_traced(split):
    for leaf in jax.tree.leaves(train(split, 2, run=lambda step: functools.partial(jax.eval_shape, step))):
        spec = getattr(leaf.sharding, "spec", ())
        assert not any(spec)  # the state and the metrics stay whole


@pytest.mark.slow
@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_the_training_step_equals_that_of_one_device(request, num_microbatches):
    expected = train(jnp.asarray, num_microbatches)
    found = train(request.getfixturevalue("split"), num_microbatches)
    assert_trees_close(found, expected, **ROUNDING)


def test_parallelism_takes_a_mesh_with_explicit_axes():
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"))
    assert sharding.JitParallelism(mesh).mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    with jax.set_mesh(mesh):
        state = sharding.JitParallelism(mesh, min_sharded_size=1).init(lambda: {"a": jnp.ones((4, 4))})
    assert state["a"].sharding.spec == PartitionSpec("data", "fsdp")
