"""Meshes, and how arrays are split over their axes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from gmflow_jax import models, sharding, training


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [((), (4, 1)), ((2, 2), (2, 2)), ((1, -1), (1, 4)), ((-1, 2), (2, 2)), ((4, 1), (4, 1))],
)
def test_a_mesh_has_the_sizes_asked_for(sizes, shape):
    mesh = sharding.make_mesh(*sizes)
    assert dict(mesh.shape) == dict(zip(("data", "fsdp"), shape, strict=True))
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert set(mesh.devices.flat) == set(jax.devices())


def test_a_mesh_of_given_devices_keeps_their_order():
    devices = jax.devices()[2::-1]
    mesh = sharding.make_mesh(fsdp=3, devices=devices)
    assert mesh.devices.tolist() == [devices]
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)


def test_neighbours_share_the_axis_fsdp():
    first, second, third, fourth = jax.devices()
    assert sharding.make_mesh(2, 2).devices.tolist() == [[first, second], [third, fourth]]


@pytest.mark.parametrize("sizes", [(3, 1), (8, 1), (-1, -1), (-1, 3), (0, -1), (-2, -2), (-1, 0)])
def test_sizes_that_do_not_fit_the_devices_are_refused(sizes):
    sentence = f"data = {sizes[0]} and fsdp = {sizes[1]} was asked for, but there are 4 devices"
    with pytest.raises(ValueError, match=sentence):
        sharding.make_mesh(*sizes)


@pytest.mark.parametrize(
    ("shape", "sizes", "spec"),
    [
        ((64, 128, 32), {"fsdp": 4}, P(None, "fsdp", None)),  # the largest
        ((64, 63), {"fsdp": 4}, P("fsdp", None)),  # the largest that divides
        ((64, 64), {"fsdp": 4}, P(None, "fsdp")),  # of equals the last
        ((63, 65), {"fsdp": 4}, P(None, None)),
        ((64, 32), {"fsdp": 1}, P(None, None)),
        ((64, 64), {"fsdp": 2, "data": 4}, P("data", "fsdp")),
        ((64, 256), {"fsdp": 2, "data": 4}, P(None, ("fsdp", "data"))),
        ((256, 3), {"data": 4, "fsdp": 2}, P(("data", "fsdp"), None)),  # the first mesh axis first
        ((6, 20), {"fsdp": 4, "data": 2}, P("data", "fsdp")),  # 5 are left of 20
        ((6, 9), {"fsdp": 4, "data": 2}, P("data", None)),
        ((64,), {"fsdp": 4, "data": 2}, P(("fsdp", "data"))),
        ((), {"fsdp": 4}, P()),
    ],
)
def test_each_mesh_axis_splits_the_largest_axis_that_it_divides(shape, sizes, spec):
    assert sharding.partition_spec(shape, sizes, min_size=1) == spec


@pytest.mark.parametrize(
    ("shape", "spec"),
    [((64, 8, 8), P(None, None, "fsdp")), ((64, 8, 7), P(None, "fsdp", None)), ((64, 7), P(None, None))],
)
def test_the_axis_along_which_layers_are_stacked_stays_whole(shape, spec):
    assert sharding.partition_spec(shape, {"fsdp": 4}, stacked=True, min_size=1) == spec


def test_small_arrays_stay_whole():
    assert sharding.partition_spec((8, 8), {"fsdp": 4}, min_size=65) == P(None, None)
    assert sharding.partition_spec((8, 8), {"fsdp": 4}, min_size=64) == P(None, "fsdp")
    assert sharding.partition_spec((256, 255), {"fsdp": 4}) == P(None, None)
    assert sharding.partition_spec((256, 256), {"fsdp": 4}) == P(None, "fsdp")


@pytest.mark.parametrize(
    ("sizes", "max_shards", "shape"),
    [
        ((4, 1), 2, {"replica": 2, "data": 2, "fsdp": 1}),
        ((2, 2), 1, {"replica": 2, "data": 1, "fsdp": 2}),
        ((4, 1), 4, {"data": 4, "fsdp": 1}),
        ((4, 1), 3, {"replica": 2, "data": 2, "fsdp": 1}),
        ((1, 4), 2, {"data": 1, "fsdp": 4}),
    ],
)
def test_large_meshes_are_split_into_groups_of_neighbours(sizes, max_shards, shape):
    mesh = sharding.make_mesh(*sizes)
    parallelism = sharding.JitParallelism(mesh, max_shards=max_shards)
    assert dict(parallelism.mesh.shape) == shape
    assert parallelism.mesh.devices.ravel().tolist() == mesh.devices.ravel().tolist()
    again = sharding.JitParallelism(parallelism.mesh, max_shards=max_shards)  # as evaluation makes one
    assert again.mesh == parallelism.mesh


def test_other_meshes_are_not_split():
    swapped = jax.make_mesh((1, 4), ("fsdp", "data"), axis_types=(AxisType.Auto,) * 2)
    assert sharding.JitParallelism(swapped, max_shards=2).mesh == swapped
    three = sharding.make_mesh(3, 1, jax.devices()[:3])
    assert sharding.JitParallelism(three, max_shards=2).mesh == three  # groups of one would hold all


def abstract_state(**sizes):
    """Shapes and dtypes of the training state of a network."""
    config = models.GMDiTConfig(**sizes)
    optimizer = training.make_optimizer(1e-3, clip_norm=1.0)

    def init():
        params = models.init_params(models.GMDiT, config, jax.random.key(0))
        return training.init_state(params, optimizer, num_power_averages=2)

    return jax.eval_shape(init)


@pytest.fixture(scope="module")
def small():
    # So deep that the axis of the layers is the largest, and divisible.
    return abstract_state(depth=512, hidden_size=64, num_heads=4, num_classes=10, log_std_dim=32)


def leaves(tree):
    """Return the leaves by their names, such as 'blocks.query.bias'."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


MESHES = pytest.mark.parametrize("sizes", [(2, 2), (4, 1), (1, 4)])


@MESHES
def test_every_tree_of_a_state_is_sharded_like_its_parameters(small, sizes):
    mesh = sharding.make_mesh(*sizes)
    found = sharding.state_shardings(small, mesh, min_size=512)
    moments = [optax.tree.get(found.opt_state, name) for name in ("mu", "nu")]
    for tree in (found.ema_params, *found.power_averages, *moments):
        assert tree == found.params
    assert sharding.state_shardings(small.params, mesh, min_size=512) == found.params
    counts = [leaves(found)[name] for name, leaf in leaves(small).items() if leaf.shape == ()]
    assert len(counts) >= 4
    assert all(count.is_fully_replicated for count in counts)


@MESHES
def test_blocks_are_split_but_not_between_layers(small, sizes):
    found = leaves(sharding.state_shardings(small.params, sharding.make_mesh(*sizes), min_size=512))
    blocks = [spec for name, spec in found.items() if name.startswith("blocks.")]
    assert len(blocks) == 14
    assert all(block.spec[0] is None for block in blocks)
    shapes = {name: found[name].shard_shape(leaf.shape) for name, leaf in leaves(small.params).items()}
    assert math.prod(shapes["blocks.mlp_in.kernel"]) == 512 * 64 * 256 // 4
    assert math.prod(shapes["time_mlp.layer_0.kernel"]) == 256 * 64 // 4
    assert shapes["time_mlp.layer_0.bias"] == (64,)  # fewer than 512


def bytes_per_device(state, shardings):
    sizes = jax.tree.map(lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, state, shardings)
    return sum(jax.tree.leaves(sizes))


@MESHES
@pytest.mark.parametrize(
    ("network", "min_size", "overhead"),
    [
        (dict(depth=4, hidden_size=64, num_heads=4, num_classes=10, log_std_dim=32), 512, 1.03),
        (dict(), 2**16, 1.001),  # the full-size network
    ],
)
def test_a_device_stores_little_more_than_its_share(sizes, network, min_size, overhead):
    state = abstract_state(**network)
    shardings = sharding.state_shardings(state, sharding.make_mesh(*sizes), min_size)
    share = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) / 4
    assert share < bytes_per_device(state, shardings) < overhead * share


@pytest.fixture(scope="module")
def params():
    """Parameters of a network of four blocks, and one array too small to be split."""
    rng = np.random.default_rng(0)
    shapes = {"in": {"kernel": (8, 16)}, "blocks": {"query": {"kernel": (4, 16, 16), "bias": (4, 2)}}}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


@MESHES
def test_the_working_copy_is_whole_but_for_the_blocks(params, sizes):
    mesh = sharding.make_mesh(*sizes)
    stored = jax.device_put(params, sharding.state_shardings(params, mesh, min_size=16))
    assert not any(x.sharding.is_fully_replicated for x in jax.tree.leaves(stored) if x.size >= 16)
    if sizes == (2, 2):  # the blocks' part along 'fsdp' is where the working copy will want it
        assert stored["blocks"]["query"]["kernel"].sharding.spec == P(None, "data", "fsdp")
    copy = jax.jit(lambda tree: sharding.working_copy(tree, mesh, min_size=16))(stored)
    jax.tree.map(np.testing.assert_array_equal, copy, params)
    assert copy["in"]["kernel"].sharding.is_fully_replicated
    query = copy["blocks"]["query"]
    assert query["bias"].sharding.is_fully_replicated
    expected = NamedSharding(mesh, P(None, None, "fsdp"))
    assert query["kernel"].sharding.is_equivalent_to(expected, 3)
