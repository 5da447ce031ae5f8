"""16-bit products: `jax.lax.dot_general` under every transformation, with a lowering for each platform."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from gmflow_jax.models._rounded import rounded_product

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
        for function in (lambda x, y, dimensions: rounded_product(x, y, dimensions), rounded_by_hand)
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


@pytest.mark.parametrize(("platform", "sum_type"), [("cpu", "f32"), ("cuda", "bf16"), ("tpu", "bf16")])
def test_the_platform_of_the_program_decides_the_form(platform, sum_type):
    lowered = gradients(rounded_product).trace(*draw((3, 4), (4, 4))).lower(lowering_platforms=(platform,))
    text = lowered.as_text()
    assert re.findall(r"dot_general .*-> tensor<\dx\dx(\w+)>", text) == [sum_type] * 6
    assert "case" not in text
    assert re.findall(r"dot_general .*: \((.*)\) ->", text) == re.findall(
        r"dot_general .*: \((.*)\) ->",
        gradients(jax.lax.dot_general).trace(*draw((3, 4), (4, 4))).lower().as_text(),
    )


@pytest.mark.parametrize(
    ("policy", "calls"),
    [("dots_with_no_batch_dims_saveable", 6), ("dots_saveable", 6), ("nothing_saveable", 8)],
)
def test_policies_of_checkpoints_see_a_product(policy, calls):
    """Without a policy that keeps them, both products are computed again."""
    policy = getattr(jax.checkpoint_policies, policy)
    x, y = draw((3, 4), (4, 4))
    text = str(jax.make_jaxpr(gradients(rounded_product, policy))(x, y))
    assert text.count("rounded_dot_general") == calls
    assert str(jax.make_jaxpr(gradients(jax.lax.dot_general, policy))(x, y)).count("= dot_general") == calls


def test_an_export_for_all_platforms_computes_the_same():
    x, y = draw((3, 4), (4, 4))
    exported = jax.export.export(gradients(rounded_product), platforms=("cpu", "cuda", "tpu"))(x, y)
    found = jax.export.deserialize(bytearray(exported.serialize())).call(x, y)
    for a, b in zip(found, gradients(rounded_product)(x, y), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@pytest.mark.parametrize("check_vma", [True, False])
def test_factors_may_vary_over_different_axes_of_shard_map(check_vma):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    split, whole = PartitionSpec("data"), PartitionSpec()
    x, y = draw((4, 4), (4, 4))
    specs = {"in_specs": (split, whole), "out_specs": split, "check_vma": check_vma}
    run = jax.shard_map(lambda x, y: rounded_product(x, y, MATRICES), mesh=mesh, **specs)
    found = np.asarray(jax.jit(run)(x, y), np.float32)
    np.testing.assert_array_equal(found, np.asarray(rounded_by_hand(x, y, MATRICES), np.float32))
