"""Guidance: golden data, the ratio of densities, cases in which it changes nothing, and extremes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import gm, guidance
from tests.helpers import (
    all_finite,
    assert_computes_bfloat16_in_float32,
    assert_message_names,
    assert_trees_close,
    permute_components,
    precision_fixture,
    relative_error,
)

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")

GOLDEN = Path(__file__).parent / "golden" / "algebra"
guide = jax.jit(guidance.probabilistic_guidance, static_argnames="sample_axes")

# Measured: 5e-7 in float32, 3e-16 in float64.
precision = precision_fixture(float32=2e-6, float64=1e-13)
ROUNDING = dict(rtol=3e-6, atol=3e-6)


def mixture(seed, batch=(3, 2, 4), num_components=3, dim=2, log_std=-1.0, dtype=None):
    """Random means and weights; one log_std a sample."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(*batch, num_components))
    log_weights = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    log_std = np.broadcast_to(log_std, batch[:1]).reshape(batch[:1] + (1,) * (len(batch) - 1))
    means = rng.normal(size=(*batch, num_components, dim))
    return gm.GaussianMixture(*(jnp.asarray(v, dtype) for v in (means, log_weights, log_std)))


@pytest.mark.parametrize("file", ["guidance_a.npz", "guidance_b.npz"])
def test_golden(file, precision):
    """Every scale and every degree of orthogonality. w^2 v_c stays above the authors' clamp of 1e-6."""
    dtype, suffix, tolerance = precision
    arrays = np.load(GOLDEN / file)

    def read(which):
        values = [arrays[f"in_{which}_{k}"].astype(dtype) for k in ("means", "log_weights", "log_std")]
        return gm.GaussianMixture(*values[:2], values[2][:, None, None])

    cond, uncond = read("cond"), read("uncond")
    # Stored as float32, the weights are normalised to 1e-7 only. The authors normalise those of the
    # unconditional mean.
    total = np.log(np.sum(np.exp(uncond.log_weights), axis=-1, keepdims=True))
    uncond = gm.GaussianMixture(uncond.means, uncond.log_weights - total, uncond.log_std)
    for w in (0.04, 0.45, 0.75):
        for orthogonal in (0.0, 0.5, 1.0):
            name = f"out_w{w:g}_orth{orthogonal:g}_".replace(".", "p")
            ours = jax.tree.map(np.asarray, guide(cond, uncond, w, orthogonal))
            assert relative_error(ours.surrogate.mean, arrays[f"out_cond_mean{suffix}"]) < tolerance
            assert relative_error(ours.surrogate.var[:, 0, 0], arrays[f"out_cond_var{suffix}"]) < tolerance
            # In the last entry cond == uncond up to rounding. The direction is then rounding noise, which the
            # floor 1e-6 amplifies up to a thousandfold.
            log_std = ours.mixture.log_std[:, 0, 0]
            for value, key in (
                (ours.bias, "bias"),
                (ours.mixture.means, "gm_means"),
                (ours.mixture.log_weights, "gm_log_weights"),
                (log_std, "gm_log_std"),
            ):
                expected = arrays[f"{name}{key}{suffix}"]
                assert relative_error(value[:-1], expected[:-1]) < tolerance, (name, key)
                assert relative_error(value[-1], expected[-1]) < 2e-4, (name, key)


@pytest.mark.parametrize("w", [0.04, 0.5, 0.95])
@pytest.mark.parametrize("log_std", [-1.0, -5.0])
def test_the_mask_is_a_ratio_of_gaussians(x64, w, log_std):
    """Exactly, also where w^2 v_c < 1e-6 (w = 0.04, log_std = -5), below the authors' clamp."""
    cond, uncond = (mixture(i, log_std=log_std, dtype=np.float64) for i in (0, 1))
    if log_std == -5.0:  # a low-noise prediction: its components close together too
        cond, uncond = (gm.GaussianMixture(0.01 * q.means, q.log_weights, q.log_std) for q in (cond, uncond))
    result = guide(cond, uncond, w)
    m, v, b = (np.asarray(a) for a in (result.surrogate.mean, result.surrogate.var, result.bias))
    assert log_std == -1.0 or w > 0.04 or np.all(w**2 * v < 1e-6)
    x = np.asarray(result.mixture.means)[..., 1, :]
    x = x + np.sqrt(v)[..., None] * np.random.default_rng(2).normal(size=(32, *x.shape))
    log_prob = jax.jit(gm.log_prob)
    change = np.asarray(log_prob(result.mixture, jnp.asarray(x))) - np.asarray(log_prob(cond, jnp.asarray(x)))
    shifted = np.sum((x - m - b) ** 2, axis=-1) / (2 * (1 - w**2) * v)
    mask = np.sum((x - m) ** 2, axis=-1) / (2 * v) - shifted
    assert np.max(np.ptp(change - mask, axis=0)) < 1e-9
    # A mixture of one component moves by the shift, whose root mean square is w standard deviations.
    one = gm.GaussianMixture(jnp.asarray(m)[..., None, :], jnp.zeros((*m.shape[:-1], 1)), jnp.log(v) / 2)
    moved = guide(one, uncond, w, sample_axes=(1, 2))
    np.testing.assert_allclose(gm.mean(moved.mixture), m + moved.bias, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jnp.exp(2 * moved.mixture.log_std), (1 - w**2) * v, rtol=1e-9)
    square = np.mean(np.asarray(moved.bias) ** 2, axis=(1, 2, 3))
    difference = np.asarray(moved.surrogate.mean - gm.mean(uncond))
    faded = np.minimum(np.mean(difference**2, axis=(1, 2, 3)) / 1e-6, 1)
    assert np.all(square <= w**2 * v[:, 0, 0] * 1.0000001)
    assert np.all(square >= 0.9 * faded * w**2 * v[:, 0, 0] * (log_std == -1.0))


def test_orthogonal_guidance_has_no_part_along_the_prediction(x64):
    cond, uncond = mixture(3, dtype=np.float64), mixture(4, dtype=np.float64)
    m = gm.mean(cond)

    def along(orthogonal):
        return np.mean(np.asarray(guide(cond, uncond, 0.3, orthogonal).bias * m), axis=(1, 2, 3))

    np.testing.assert_allclose(along(1.0), 0, atol=1e-14)
    assert np.all(np.abs(along(0.0)) > 1e-3)
    shift = guidance.classifier_free_guidance(cond, uncond, 2.0, 1.0).means[..., 0, :] - cond.means[..., 0, :]
    np.testing.assert_allclose(np.mean(np.asarray(shift * m), axis=(1, 2, 3)), 0, atol=1e-14)


def test_guidance_is_off_at_scale_zero_and_where_predictions_agree():
    cond, uncond = mixture(5), mixture(6)
    for result in (guide(cond, uncond, 0.0), guide(cond, cond, 0.0)):
        assert_trees_close(result.mixture, cond, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(result.bias, np.zeros_like(result.bias))
    # Equal predictions shift nothing; the mask still narrows by 1 - w^2.
    same = guide(cond, cond, 0.6)
    np.testing.assert_array_equal(same.bias, np.zeros_like(same.bias))
    narrowed = gm.reweight(
        cond, gm.Gaussian(same.surrogate.mean, 0.64 * same.surrogate.var), same.surrogate
    )
    assert_trees_close(same.mixture, narrowed, **ROUNDING)
    # Nearly equal predictions give almost no guidance: the difference is below the floor 1e-3.
    nearly = gm.GaussianMixture(cond.means + 1e-5, cond.log_weights, cond.log_std)
    full = np.sqrt(0.6**2 * np.asarray(same.surrogate.var))[..., None]
    assert np.max(np.abs(guide(nearly, cond, 0.6, 0.0).bias) / full) < 0.02


def test_fields_of_a_guided_prediction():
    cond, uncond = mixture(7), mixture(8)
    result = guide(cond, uncond, jnp.asarray([0.1, 0.2, 0.3]))
    assert_trees_close(result.base, cond, **ROUNDING)
    assert_trees_close(result.surrogate.mean, gm.mean(cond), **ROUNDING)
    assert result.surrogate.var.shape == result.scale.shape == (3, 1, 1)
    pixel_var = gm.moment_match(cond).var
    np.testing.assert_allclose(result.surrogate.var[:, 0, 0], pixel_var.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(result.scale[:, 0, 0], [0.1, 0.2, 0.3])
    for i, w in enumerate((0.1, 0.2, 0.3)):
        assert_trees_close(guide(cond, uncond, w).mixture.means[i], result.mixture.means[i], **ROUNDING)


def test_classifier_free_guidance():
    cond, uncond = mixture(9), mixture(10)
    a, b = gm.mean(cond), gm.mean(uncond)
    cfg = jax.jit(guidance.classifier_free_guidance)
    np.testing.assert_allclose(cfg(a, b, 1.0), a, rtol=0, atol=1e-6)
    np.testing.assert_allclose(cfg(a, b, 0.0), b, rtol=0, atol=1e-6)
    np.testing.assert_allclose(cfg(a, b, 3.0), 3 * a - 2 * b, rtol=0, atol=1e-5)
    shifted = cfg(cond, uncond, 3.0)
    np.testing.assert_allclose(gm.mean(shifted), 3 * a - 2 * b, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(shifted.log_weights, cond.log_weights)
    each = cfg(a, b, jnp.asarray([1.0, 2.0, 3.0]))
    for i, w in enumerate((1.0, 2.0, 3.0)):
        np.testing.assert_allclose(each[i], cfg(a, b, w)[i], rtol=0, atol=1e-6)


FUNCTIONS = {
    "probabilistic": lambda c, u, axes=None: guidance.probabilistic_guidance(c, u, 0.4, 1.0, axes).mixture,
    "cfg": lambda c, u, axes=None: guidance.classifier_free_guidance(c, u, 2.0, 1.0, axes),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_batched_looped_vmapped_and_jitted_agree(name):
    """Under vmap an image has no batch axis, so that its axes must be named."""
    f = FUNCTIONS[name]
    cond, uncond = mixture(11), mixture(12)
    batched, one = f(cond, uncond), jax.jit(f)
    for i in range(3):
        alone = one(*jax.tree.map(lambda v, i=i: v[i : i + 1], (cond, uncond)))
        assert_trees_close(alone, jax.tree.map(lambda v, i=i: v[i : i + 1], batched), **ROUNDING)
    assert_trees_close(one(cond, uncond), batched, **ROUNDING)
    assert_trees_close(jax.jit(jax.vmap(lambda c, u: f(c, u, (0, 1))))(cond, uncond), batched, **ROUNDING)
    assert_trees_close(jax.jit(lambda c, u: f(c, u, (-1, -2)))(cond, uncond), batched, **ROUNDING)
    points = mixture(13, batch=(5,)), mixture(14, batch=(5,))
    assert_trees_close(jax.jit(jax.vmap(f))(*points), one(*points), **ROUNDING)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_component_order_does_not_matter_and_bfloat16_is_computed_in_float32(name):
    f, cond, uncond = FUNCTIONS[name], mixture(15), mixture(16)
    order = np.array([2, 0, 1])
    expected = permute_components(f(cond, uncond), order)
    found = f(permute_components(cond, order), uncond)
    assert_trees_close(found.means, expected.means, **ROUNDING)
    assert_trees_close(found.log_weights, expected.log_weights, **ROUNDING)
    assert_computes_bfloat16_in_float32(f, (cond, uncond))


def finite_with_gradient(name, cond, uncond):
    def total(cond, uncond):
        result = FUNCTIONS[name](cond, uncond)
        leaves = gm.mean(result), jnp.exp(2 * result.log_std), jnp.exp(result.log_weights) ** 2
        return sum(jnp.sum(leaf) for leaf in leaves)

    value, gradient = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(cond, uncond)
    return all_finite((value, gradient))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_extremes_are_finite(name):
    """Also with a mean of exactly 0 (nothing to be orthogonal to) and with equal predictions."""
    log_std = np.tile([-12.0, -6.0, 0.0, 4.0], 6)
    weights = [[0.0, np.log(1e-30), np.log(1e-30)], [0.0, -np.inf, np.log(1e-30)]]
    cond, uncond = mixture(17, (24, 2, 2), log_std=log_std), mixture(18, (24, 2, 2), log_std=log_std)
    log_weights = np.broadcast_to(np.tile(weights, (12, 1))[:, None, None], (24, 2, 2, 3)).astype(np.float32)
    means = np.array(cond.means)
    means[8:16] = 0.0
    cond = gm.GaussianMixture(jnp.asarray(means), jnp.asarray(log_weights), cond.log_std)
    equal = jax.tree.map(lambda a, b: jnp.concatenate([a[:16], b[16:]]), uncond, cond)
    assert finite_with_gradient(name, cond, equal)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("num_components", [1, 3])
def test_point_masses_are_finite(name, num_components):
    """As an exact network predicts at s = 0; with one component the variance, and so the guidance, is 0."""
    shape = dict(batch=(2, 2, 2), num_components=num_components, log_std=-np.inf)
    cond, uncond = mixture(23, **shape), mixture(24, **shape)
    assert finite_with_gradient(name, cond, uncond)
    if num_components == 1 and name == "probabilistic":
        np.testing.assert_array_equal(jax.jit(FUNCTIONS[name])(cond, uncond).means, cond.means)


@pytest.mark.parametrize("method", guidance.METHODS)
def test_guided_denoiser_acts_inside_its_interval(method):
    cond, uncond = mixture(19), mixture(20)
    scale = 0.3 if method == "probabilistic" else 2.0
    calls = (lambda x, t: cond), (lambda x, t: uncond)

    @jax.jit
    def run(scale, t):
        denoise = guidance.guided_denoiser(*calls, scale, method, interval=(0.2, 0.6))
        return denoise(jnp.zeros((3, 2, 4, 2)), t)

    each = run(scale, jnp.asarray([0.19, 0.2, 0.61]))
    mixed = each.mixture if method == "probabilistic" else each
    for i, active in enumerate((False, True, False)):
        expected = cond.means
        if active and method == "probabilistic":
            expected = guide(cond, uncond, scale).mixture.means
        elif active:
            expected = guidance.classifier_free_guidance(cond, uncond, scale).means
        np.testing.assert_allclose(mixed.means[i], expected[i], rtol=0, atol=1e-6)
    if method == "probabilistic":
        np.testing.assert_allclose(each.scale[:, 0, 0], [0, 0.3, 0])
        assert jax.tree.structure(run(scale, 0.4)) == jax.tree.structure(run(scale, 0.9))


COND, SMALL = mixture(21, dtype=np.float32), mixture(22, batch=(3, 2, 5), dtype=np.float32)
GUIDED = lambda *a, **k: guidance.guided_denoiser(lambda x, t: COND, lambda x, t: COND, *a, **k)  # noqa: E731
REFUSED = {
    "scale 1": (lambda: guidance.probabilistic_guidance(COND, COND, 1.0), "1.0"),
    "scale < 0": (lambda: guidance.probabilistic_guidance(COND, COND, -0.1), "-0.1"),
    "one scale": (lambda: guidance.probabilistic_guidance(COND, COND, np.array([0.1, 7.5, 0.2])), "7.5"),
    "scale of the denoiser": (lambda: GUIDED(4.0), "4.0"),
    "method": (lambda: GUIDED(0.3, "cgf"), "'cgf'"),
    "interval reversed": (lambda: GUIDED(0.3, interval=(0.7, 0.2)), "(0.7, 0.2)"),
    "interval in steps": (lambda: GUIDED(0.3, interval=(0, 1000)), "(0, 1000)"),
    "sample_axes": (lambda: guidance.probabilistic_guidance(COND, COND, 0.3, sample_axes=(1, 3)), "axis 3"),
    "shapes": (lambda: guidance.probabilistic_guidance(COND, SMALL, 0.3), "(3, 2, 5, 2)"),
    "cfg shapes": (lambda: guidance.classifier_free_guidance(COND, SMALL, 3.0), "(3, 2, 5, 2)"),
    "scale's length": (lambda: guidance.probabilistic_guidance(COND, COND, np.full(2, 0.3)), "(2,)"),
    "scale's shape": (
        lambda: guidance.probabilistic_guidance(COND, COND, np.full((2, 1, 1), 0.3)),
        "(2, 1, 1)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_refused(name):
    call, given = REFUSED[name]
    with pytest.raises(ValueError) as error:
        call()
    assert_message_names(error, given)
