"""The tilt and the operations built on it: golden data, ratios of densities, and exact limits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import gm
from tests.helpers import (
    all_finite,
    assert_computes_bfloat16_in_float32,
    assert_message_names,
    assert_trees_close,
    call_each,
    permute_components,
    relative_error,
)

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")

multiply, product, reweight, tilt = map(jax.jit, (gm.multiply, gm.product, gm.reweight, gm.tilt))


def gaussian_log_density(x, mean, var):
    """Return the log density of a Gaussian in numpy, up to a constant."""
    return -0.5 * np.sum((np.asarray(x) - np.asarray(mean)) ** 2, axis=-1) / np.asarray(var)


def ratio_is_constant(result, q, log_factor, x):
    """Return whether log result - log q - log factor is the same for all points x [n, *batch, D], to 1e-9."""
    log_prob = jax.jit(gm.log_prob)
    change = np.asarray(log_prob(result, x)) - np.asarray(log_prob(q, x)) - log_factor(x)
    np.testing.assert_allclose(np.exp(np.asarray(result.log_weights)).sum(-1), 1, rtol=1e-12)
    return np.max(np.ptp(change, axis=0)) < 1e-9


def points(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(32, *shape)))


def test_golden(golden, golden_mixture, precision):
    """The authors raise the mixture to p and the Gaussian to q, and return the p-th root of the product."""
    dtype, suffix, tolerance = precision
    p, q = (golden_mixture(golden, dtype, which) for which in ("", "2"))
    g = gm.Gaussian(
        golden["in_gauss_mean"].astype(dtype), golden["in_gauss_var"].astype(dtype)[:, None, None]
    )
    results = {"gm_mul_gm": product(p, q)}
    for name, ratio in (("p1_1", 1.0), ("p2_1", 0.5), ("p0p5_1p5", 3.0), ("p1_0p25", 0.25)):
        results[f"gm_mul_iso_{name}"] = multiply(p, g, ratio)
    for name, result in results.items():
        for field in ("means", "log_weights", "log_std"):
            expected = golden[f"out_{name}_{field}{suffix}"]
            ours = np.asarray(getattr(result, field)).reshape(expected.shape)
            assert relative_error(ours, expected) < tolerance, (name, field)


@pytest.mark.parametrize("pixels", ["", "pix_"])
def test_golden_gaussians(golden, precision, pixels):
    """For two Gaussians the authors return the product of their powers p and q."""
    dtype, suffix, tolerance = precision
    means = [golden[f"in_gauss{i}_mean"].astype(dtype) for i in ("", "2")]
    variances = [golden[f"in_gauss{i}_{pixels}var"].astype(dtype) for i in ("", "2")]
    shape = means[0].shape[:-1]

    def spread_out(var):
        return np.broadcast_to(var if pixels else var[:, None, None], shape)

    spread = [spread_out(v) for v in variances]
    for name, p, q in (("p1_1", 1.0, 1.0), ("p1_m1", 1.0, -1.0), ("p0p3_0p7", 0.3, 0.7)):
        ours = multiply(*map(gm.Gaussian, means, spread), q / p)
        mean = np.asarray(ours.means)[..., 0, :]
        var = np.exp(2 * np.asarray(ours.log_std)) / p
        expected = golden[f"out_iso_mul_iso_{pixels}{name}_mean{suffix}"]
        expected_var = spread_out(golden[f"out_iso_mul_iso_{pixels}{name}_var{suffix}"])
        # A quotient by a narrower Gaussian is not a Gaussian; there the authors clamp.
        exists = p * spread[1] + q * spread[0] > 1e-6
        if exists.any():
            assert relative_error(mean[exists], expected[exists]) < tolerance, name
            assert relative_error(var[exists], expected_var[exists]) < tolerance, name


@pytest.mark.parametrize("precision_value", [0.8, 0.0, -0.1])
@pytest.mark.parametrize("scale", [1.0, 0.3, 1e-3])
@pytest.mark.parametrize("center", [None, 0.7])
def test_tilt_multiplies_the_density_by_its_factor(x64, random_mixture, precision_value, scale, center):
    q = random_mixture(0, (5,), 3, 2, np.float64, log_std=np.linspace(-4, 0.5, 5))
    linear = 0.3 * points(1, 5, 2)[0]
    precision_value = precision_value * scale  # keeps the negative one normalisable
    c = None if center is None else jnp.full((5, 2), center)
    result = tilt(q, linear, precision_value, scale, c)

    def log_factor(x):
        d = np.asarray(x) - (0.0 if center is None else center)
        return (np.sum(np.asarray(linear) * d, axis=-1) - precision_value * np.sum(d**2, axis=-1) / 2) / scale

    assert ratio_is_constant(result, q, log_factor, points(2, 5, 2))


@pytest.mark.parametrize("power", [1.0, 2.5, 0.0, -0.4])
def test_multiply_and_reweight_by_the_ratio_of_densities(x64, random_mixture, power):
    q = random_mixture(3, (5,), 3, 2, np.float64)
    x, means = points(4, 5, 2), points(5, 5, 2)
    g = gm.Gaussian(means[0], jnp.linspace(0.8, 3.0, 5))
    h = gm.Gaussian(means[1], 1.7 * g.var)
    result = multiply(q, g, power)
    assert ratio_is_constant(result, q, lambda x: power * gaussian_log_density(x, g.mean, g.var), x)
    result = reweight(q, g, h)
    ratio = lambda x: gaussian_log_density(x, g.mean, g.var) - gaussian_log_density(x, h.mean, h.var)  # noqa: E731
    assert ratio_is_constant(result, q, ratio, x)


def test_multiplying_by_gaussians_of_any_variance(random_mixture):
    """An infinite variance changes nothing, 0 gives a point, and gradients stay finite."""
    q = random_mixture(3, (5,), 3, 2)
    mean, var = jnp.ones((5, 2)), jnp.asarray([0.0, 1e-30, 1.0, 1e30, jnp.inf])
    loss = lambda mean, var: jnp.sum(jnp.sin(gm.multiply(q, gm.Gaussian(mean, var)).means))  # noqa: E731
    assert all_finite(jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(mean, var))
    result = multiply(q, gm.Gaussian(mean, var))
    np.testing.assert_allclose(result.means[:2], 1.0, atol=1e-6)
    assert_trees_close(*(jax.tree.map(lambda a: a[3:], mixture) for mixture in (result, q)), 1e-5, 1e-6)


def test_product_multiplies_densities(x64, random_mixture):
    p, q = random_mixture(6, (5,), 3, 2, np.float64), random_mixture(7, (5,), 4, 2, np.float64)
    log_q = jax.jit(gm.log_prob)
    assert ratio_is_constant(product(p, q), p, lambda x: np.asarray(log_q(q, x)), points(8, 5, 2))
    one = random_mixture(9, (5,), 1, 2, np.float64)
    by_multiply = multiply(p, gm.Gaussian(one.means[:, 0], jnp.exp(2 * one.log_std)))
    for a, b in zip(jax.tree.leaves(product(p, one)), jax.tree.leaves(by_multiply), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gm.mean(product(p, q)), gm.mean(product(q, p)), rtol=1e-12)


def test_neutral_factors_change_nothing(random_mixture):
    q = random_mixture(10, (4,), 3, 2)
    g = gm.Gaussian(jnp.ones((4, 2)), jnp.linspace(0.5, 2.0, 4))
    zero = jnp.zeros((4, 2))
    for result in (multiply(q, g, 0.0), reweight(q, g, g), tilt(q, zero, 0.0, 0.7)):
        np.testing.assert_allclose(result.means, q.means, rtol=0, atol=1e-6)
        np.testing.assert_allclose(result.log_weights, q.log_weights, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(result.log_std, q.log_std)


def test_tilts_add_up(x64, random_mixture):
    q = random_mixture(11, (4,), 3, 2, np.float64)
    a, b = points(12, 4, 2)[:2]
    twice, once = tilt(tilt(q, a, 0.3), b, -0.2), tilt(q, a + b, 0.1)
    for p, r in zip(jax.tree.leaves(twice), jax.tree.leaves(once), strict=True):
        np.testing.assert_allclose(p, r, rtol=1e-12, atol=1e-12)


def test_point_mass_components_do_not_move(x64, random_mixture):
    q = random_mixture(13, (4,), 3, 2, np.float64, log_std=-np.inf)
    linear = points(14, 4, 2)[0]
    result = tilt(q, linear, 0.5, 2.0)
    np.testing.assert_array_equal(result.means, q.means)
    assert np.all(np.isneginf(result.log_std))
    at_means = (np.sum(linear[:, None] * q.means, axis=-1) - 0.25 * np.sum(q.means**2, axis=-1)) / 2
    change = np.asarray(result.log_weights - q.log_weights) - at_means
    assert np.max(np.ptp(change, axis=-1)) < 1e-12


def test_scale_zero_is_a_point_mass(random_mixture):
    q = random_mixture(15, (4,), 3, 2)
    g = gm.Gaussian(jnp.ones((4, 2)), jnp.zeros(4))
    other = gm.Gaussian(jnp.zeros((4, 2)), jnp.ones(4))
    results = (multiply(q, g), reweight(q, g, other), tilt(q, jnp.full((4, 2), 2.0), 2.0, 0.0))
    for result in results:
        np.testing.assert_allclose(result.means, np.ones((4, 3, 2)), rtol=0, atol=3e-7)
        assert np.all(np.isneginf(result.log_std))
        sample = gm.sample(jax.random.key(0), result)
        np.testing.assert_allclose(sample, np.ones((4, 2)), rtol=0, atol=3e-7)


OPERATIONS = {
    "tilt": lambda q, x: gm.tilt(q, x, 0.4, 0.5, 2 * x),
    "tilt at scale 0": lambda q, x: gm.tilt(q, x, 0.4, 0.0),
    "multiply": lambda q, x: gm.multiply(q, gm.Gaussian(x, jnp.asarray(0.3)), 0.7),
    "reweight": lambda q, x: gm.reweight(
        q, gm.Gaussian(x, jnp.asarray(0.3)), gm.Gaussian(2 * x, jnp.asarray(0.4))
    ),
    "product": lambda q, x: gm.product(q, gm.GaussianMixture(x[..., None, :], 0 * x[..., :1], q.log_std)),
}
all_operations = jax.jit(partial(call_each, OPERATIONS))
ROUNDING = dict(rtol=3e-6, atol=3e-6)


@pytest.fixture
def case(random_mixture):
    """A batch of mixtures and vectors."""
    return random_mixture(16, (3, 2), 4, 3), points(17, 2, 3)[:3].astype(jnp.float32)


def test_eager_jitted_looped_and_vmapped_agree(case):
    batched = all_operations(*case)
    for name in ("tilt", "product"):  # the others are tilts
        assert_trees_close(OPERATIONS[name](*case), batched[name], **ROUNDING)
    for i in range(3):
        alone, of_batch = (jax.tree.map(lambda v, i=i: v[i], v) for v in (case, batched))
        assert_trees_close(all_operations(*alone), of_batch, **ROUNDING)
    assert_trees_close(jax.jit(jax.vmap(jax.vmap(all_operations)))(*case), batched, **ROUNDING)


def test_component_order_does_not_matter(case):
    q, x = case
    order = np.array([3, 0, 1, 2])
    expected = all_operations(q, x)
    for name, found in all_operations(permute_components(q, order), x).items():
        permuted = permute_components(expected[name], order)
        assert_trees_close(found.means, permuted.means, **ROUNDING)
        assert_trees_close(found.log_weights, permuted.log_weights, **ROUNDING)


def test_bfloat16_is_computed_in_float32(case):
    assert_computes_bfloat16_in_float32(all_operations, case, **ROUNDING)


def test_extremes_are_finite(random_mixture):
    """Values and gradients, with a component of almost or exactly no weight, and of point masses."""
    log_std = np.repeat([-np.inf, -12.0, -6.0, 0.0, 4.0], 2)
    q = random_mixture(20, (10,), 2, 3, log_std=log_std)
    log_weights = np.tile([[0.0, np.log(1e-30)], [0.0, -np.inf]], (5, 1)).astype(np.float32)
    q = gm.GaussianMixture(q.means, jnp.asarray(log_weights), q.log_std)

    def totals(q, x):
        def total(result):
            matched, weights = gm.moment_match(result), jnp.exp(result.log_weights)
            return jnp.sum(matched.mean) + jnp.sum(matched.var) + jnp.sum(weights**2)

        return [total(result) for result in all_operations(q, x).values()]

    value, gradient = jax.jit(lambda *a: (totals(*a), jax.jacrev(totals, (0, 1))(*a)))(q, jnp.ones((10, 3)))
    assert all_finite((value, gradient))


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (dict(linear=(3, 2)), "(3, 2)"),
        (dict(linear=(2,)), "(2,)"),
        (dict(center=(4, 3)), "(4, 3)"),
        (dict(precision=(4, 1)), "(4, 1)"),
        (dict(scale=(4, 3, 2)), "(4, 3, 2)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(arguments, given, random_mixture):
    shapes = dict(linear=(4, 2), precision=(), scale=(), center=(4, 2)) | arguments
    with pytest.raises(ValueError) as error:
        gm.tilt(random_mixture(21, (4,), 3, 2), **{k: jnp.ones(v) for k, v in shapes.items()})
    assert_message_names(error, *arguments, given)


@pytest.mark.parametrize(("power", "given"), [(-1.0, "0"), (-2.0, "-1")])
def test_a_product_that_cannot_be_normalised_is_refused(power, given):
    """A quotient by a Gaussian of the same width is exp(linear), which has no integral either."""
    q = gm.GaussianMixture(jnp.zeros((2, 3, 2)), jnp.full((2, 3), -jnp.log(3.0)), jnp.zeros(2))
    with pytest.raises(ValueError) as error:
        gm.multiply(q, gm.Gaussian(jnp.ones((2, 2)), jnp.ones(2)), power)
    assert_message_names(error, "normalised", f"reaches {given},")


def test_a_product_over_different_spaces_is_refused(random_mixture):
    with pytest.raises(ValueError) as error:
        gm.product(random_mixture(22, (4,), 3, 2), random_mixture(23, (4,), 3, 5))
    assert_message_names(error, "(4, 3, 2)", "(4, 3, 5)")


def test_log_weights_of_means_far_from_the_center(x64, random_mixture):
    """1000 std from 0 in float32, against float64 on the same numbers; measured: 5e-7."""
    q = random_mixture(30, (8,), 4, 3, np.float32, log_std=0.0)
    q = gm.GaussianMixture(q.means + 1000, q.log_weights, q.log_std)
    target = q.means.mean(axis=-2) + 1
    one, near = jnp.float32(1), (jnp.zeros_like(target), jnp.float32(0.7), jnp.float32(1), target)
    for arguments in ((target, one), (0.7 * target, jnp.float32(0.7)), near):
        found = tilt(q, *arguments)
        expected = tilt(*jax.tree.map(lambda a: a.astype(jnp.float64), (q, *arguments)))
        assert found.log_weights.dtype == jnp.float32 and expected.log_weights.dtype == jnp.float64
        np.testing.assert_allclose(found.log_weights, expected.log_weights, rtol=0, atol=3e-6)
