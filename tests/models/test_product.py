"""Products with parameters: `jax.lax.dot_general` when transformed, with a lowering for each platform."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from gmflow_jax.models._product import product

pytestmark = pytest.mark.usefixtures("fast_compile")

MATRICES = (((1,), (0,)), ((), ()))


def rounded_by_hand(x, y, dimensions):
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32).astype(x.dtype)


def draw(*shapes, dtype="bfloat16"):
    """Draw small whole numbers, whose products are exact."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.integers(-3, 4, size=shape), dtype) for shape in shapes]


def stack(function, x, y, dimensions):
    """Compute products, derivatives and products over new axes."""
    product = functools.partial(function, dimensions=dimensions)
    z, derivative = jax.jvp(product, (x, y), (x + 1, y + 1))
    vjp = jax.vjp(product, x, y)[1](z)
    xs, ys = jnp.stack([x, -x, x + 1], axis=1), jnp.stack([y, y + 1, -y], axis=-1)
    both, pullback = jax.vjp(jax.vmap(product, (1, -1)), xs, ys)
    left, right = jax.vmap(product, (1, None))(xs, y), jax.vmap(product, (None, -1), 1)(x, ys)
    return z, derivative, vjp, both, pullback(both), left, right


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("shapes", "dimensions"),
    [(((3, 4), (4, 5)), MATRICES), (((2, 3, 4, 6), (6, 2, 5, 4)), (((2, 3), (3, 0)), ((0,), (1,))))],
)
def test_it_transforms_as_dot_general(dtype, shapes, dimensions):
    x, y = draw(*shapes, dtype=dtype)
    found, expected = (
        jax.jit(functools.partial(stack, function, dimensions=dimensions))(x, y)
        for function in (lambda x, y, dimensions: product(x, y, dimensions), rounded_by_hand)
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


def gradients(function, policy=None):
    def loss(x, y):
        def two(x):
            return jnp.tanh(function(jnp.tanh(function(x, y, MATRICES)), y, MATRICES))

        run = two if policy is None else jax.checkpoint(two, policy=policy)
        return jnp.sum(run(x).astype(jnp.float32))

    return jax.jit(jax.grad(loss, argnums=(0, 1)))


@pytest.mark.parametrize(("platform", "count"), [("cpu", 6), ("cuda", 2), ("tpu", 2)])
def test_the_platform_of_the_program_decides_the_form(platform, count):
    """Two products of the gradient of y are float32 everywhere; on a CPU the other four are float32, too."""
    lowered = gradients(product).trace(*draw((3, 4), (4, 4))).lower(lowering_platforms=(platform,))
    text = lowered.as_text()
    types = re.findall(r"dot_general .*-> tensor<\dx\dx(\w+)>", text)
    assert len(types) == 6 and types.count("f32") == count
    assert "case" not in text


@pytest.mark.parametrize(
    ("policy", "calls"),
    [("dots_with_no_batch_dims_saveable", 6), ("dots_saveable", 6), ("nothing_saveable", 8)],
)
def test_policies_of_checkpoints_see_a_product(policy, calls):
    """Without a policy that keeps them, both products are computed again."""
    policy = getattr(jax.checkpoint_policies, policy)
    x, y = draw((3, 4), (4, 4))
    text = str(jax.make_jaxpr(gradients(product, policy))(x, y))
    assert text.count("= product[") + text.count("= dot_general[") == calls
    assert str(jax.make_jaxpr(gradients(jax.lax.dot_general, policy))(x, y)).count("= dot_general[") == calls


def test_an_export_for_all_platforms_computes_the_same():
    x, y = draw((3, 4), (4, 4))
    exported = jax.export.export(gradients(product), platforms=("cpu", "cuda", "tpu"))(x, y)
    found = jax.export.deserialize(bytearray(exported.serialize())).call(x, y)
    for a, b in zip(found, gradients(product)(x, y), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@pytest.mark.parametrize("check_vma", [True, False])
def test_factors_may_vary_over_different_axes_of_shard_map(check_vma):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    split, whole = PartitionSpec("data"), PartitionSpec()
    x, y = draw((4, 4), (4, 4))
    specs = {"in_specs": (split, whole), "out_specs": split, "check_vma": check_vma}
    run = jax.shard_map(lambda x, y: product(x, y, MATRICES), mesh=mesh, **specs)
    found = np.asarray(jax.jit(run)(x, y), np.float32)
    np.testing.assert_array_equal(found, np.asarray(rounded_by_hand(x, y, MATRICES), np.float32))


def test_float32_parameters_have_a_gradient_that_is_not_rounded():
    """Each partial sum is exact in float32, but not in bfloat16."""
    (x,) = draw((512, 2))
    y = jnp.ones((2, 3))
    g = jnp.full((512, 3), 1 + 2.0**-7, "bfloat16")
    found = jax.vjp(lambda y: product(x, y, MATRICES), y)[1](g)[0]
    assert found.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(found), np.asarray(x, np.float64).T @ np.asarray(g, np.float64))


def test_the_precision_reaches_the_derivatives():
    x, y = draw((3, 4), (4, 4), dtype="float32")
    highest = jax.lax.Precision.HIGHEST
    text = str(jax.make_jaxpr(jax.grad(lambda x, y: jnp.sum(product(x, y, MATRICES, highest)), (0, 1)))(x, y))
    assert text.count("HIGHEST") >= 3
