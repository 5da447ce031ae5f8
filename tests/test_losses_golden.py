"""Losses against the authors' values and gradients, and exact values where the authors clamp."""

import math
from functools import partial
from pathlib import Path
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, losses
from tests.helpers import precision_fixture, relative_error

GOLDEN = Path(__file__).parent / "golden" / "algebra"
LOG_2PI = math.log(2 * math.pi)
# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")
RATIOS = {"r0p5": 0.5, "r0p9": 0.9, "r1": 1.0}

# Measured: 6e-6 in float32, as the authors' own; 9e-15 in float64.
precision = precision_fixture(float32=2e-5, float64=1e-13)


@pytest.fixture(params="abcd")
def golden(request):
    return np.load(GOLDEN / f"loss_{request.param}.npz")


def network_output(means, logits, log_std):
    """Return the mixture that a network predicts: normalised logits, one log_std per sample."""
    log_weights = jax.nn.log_softmax(logits, axis=-1)
    return gm.GaussianMixture(means, log_weights, log_std.reshape(-1, *[1] * (means.ndim - 3)))


@jax.jit
def clamped_nll(leaves, target):
    """((mean, per pixel), gradient) of the authors' likelihood.

    They clamp exp(-log_std) at 1e4, but not in the normaliser: the first sample (-10.5) has the quadratic
    form of a std of 1e-4. Elsewhere log_std enters as it is.
    """
    dim = target.shape[-1]

    def nll(means, logits, log_std):
        clamped = jnp.maximum(log_std, -math.log(1e4))
        pixels = losses.mixture_nll(network_output(means, logits, clamped), target) - dim / 2 * LOG_2PI
        pixels = pixels + dim * (log_std - clamped).reshape(-1, 1, 1)
        return jnp.mean(pixels), pixels

    return jax.value_and_grad(nll, argnums=(0, 1, 2), has_aux=True)(*leaves)


def test_golden_nll(golden, precision):
    """The authors leave out the 2 pi and average over pixels and samples before the gradient."""
    dtype, suffix, tolerance = precision
    leaves = [golden[f"in_{k}"].astype(dtype) for k in ("means", "logits", "nll_log_std")]
    assert leaves[2][0] == -10.5 and np.all(leaves[2][1:] > -math.log(1e4))
    (_, pixels), gradient = clamped_nll(leaves, golden["in_nll_target"].astype(dtype))
    expected = golden[f"out_nll_per_pixel{suffix}"]
    assert np.max(np.abs(pixels - expected) / np.maximum(1, np.abs(expected))) < tolerance
    assert relative_error(np.mean(pixels, axis=(1, 2)), golden[f"out_nll_per_sample{suffix}"]) < tolerance
    for ours, name in zip(gradient, ("means", "logits", "log_std"), strict=True):
        assert relative_error(ours, golden[f"out_nll_grad_{name}{suffix}"]) < tolerance, name


@pytest.mark.parametrize("log_std", [-10.5, -2.0, 3.0])
def test_nll_is_a_normalised_density(x64, log_std):
    """Also at -10.5, where the authors' clamp makes it integrate to more than 3."""
    std = math.exp(log_std)
    q = gm.GaussianMixture(
        std * jnp.asarray([[-1.0], [2.0]]), jnp.log(jnp.asarray([0.3, 0.7])), jnp.asarray(log_std)
    )
    x = std * np.linspace(-14, 14, 4001)
    density = np.exp(-jax.jit(jax.vmap(losses.mixture_nll, (None, 0)))(q, jnp.asarray(x[:, None])))
    assert abs(np.trapezoid(density, x) - 1) < 1e-12


@jax.jit
def floored_transition_loss(leaves, x_t, x_s, t, s, excess, weight):
    """((weighted mean, per sample), gradient), `excess` added to the predicted variance."""

    def loss(means, logits, log_std):
        log_std = 0.5 * jnp.log(jnp.exp(2 * log_std) + excess)
        q = network_output(means, logits, log_std)
        pixels = losses.transition_loss(q, x_t, x_s, t, s) - x_t.shape[-1] / 2 * LOG_2PI
        return weight * jnp.mean(pixels), jnp.mean(pixels, axis=(1, 2))

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*leaves)


@jax.jit
def states_of(x_0, noise_0, noise_1, t, s):
    x_s = flow.interpolate(x_0, noise_0, s)
    return flow.forward_transition(x_s, noise_1, s, t), x_s


@pytest.mark.parametrize("name", RATIOS)
def test_golden_transition_loss(golden, precision, name):
    """With the authors' states; ours from the same draws must equal them."""
    dtype, suffix, tolerance = precision
    t = np.clip(golden["in_t_high"], dtype(1e-4), dtype(1000)).astype(dtype)
    s = np.maximum(np.minimum(t * dtype(1 - RATIOS[name]), t - dtype(1e-4)), dtype(0))
    t, s = t / dtype(1000), s / dtype(1000)
    x_s, x_t = (golden[f"out_{name}_x_t_{k}{suffix}"] for k in ("low", "high"))
    leaves = [golden[f"in_{k}"].astype(dtype) for k in ("means", "logits", "log_std")]
    # They floor the variance c3 of p(x_s | x_t, x_0) at 1e-6, which bites wherever s is small, at ratio
    # 1 (s = 0) always. That is the same as a wider predicted velocity: with the excess put into
    # log_std, value and gradients must agree; where there is no excess, they agree as they are.
    high, low = np.float64(t), np.float64(s)
    beta = 1 - (low / high * (1 - high) / (1 - low)) ** 2
    excess = np.maximum(1e-6 - beta * low**2, 0) / (beta * (1 - low) * high) ** 2
    (_, samples), gradient = floored_transition_loss(
        leaves, x_t, x_s, t, s, excess.astype(dtype), golden["in_weight_scale"].astype(dtype)
    )
    expected = golden[f"out_{name}_transition_per_sample_unscaled{suffix}"]
    assert relative_error(samples, expected) < tolerance
    for ours, leaf in zip(gradient, ("means", "logits", "log_std"), strict=True):
        assert relative_error(ours, golden[f"out_{name}_grad_{leaf}{suffix}"]) < tolerance, leaf
    draws = [golden[f"in_{k}"].astype(dtype) for k in ("x_0", "noise_0", "noise_1")]
    for ours, theirs in zip(states_of(*draws, t, s), (x_t, x_s), strict=True):
        assert relative_error(ours, theirs) < tolerance


def spectrum_of(golden):
    """The spectrum network of a file, its parameters, and a function that gives them the authors' names."""
    pytest.importorskip("flax")
    from gmflow_jax import interop, models

    prefix = "in_spectrum_net."
    state = {k.removeprefix(prefix): golden[k] for k in golden.files if k.startswith(prefix)}
    widths = tuple(len(state[f"mlp.{2 * i}.bias"]) for i in range(len(state) // 2 - 1))
    num_channels, *base_size = (int(n) for n in golden["in_spectrum_base_size"])
    config = models.SpectrumMLPConfig(tuple(base_size), num_channels, widths)
    apply, _ = models.abstract(models.SpectrumMLP, config)
    params = interop.spectrum_mlp_from_torch(state, config)
    return apply, params, lambda gradient: interop.spectrum_mlp_to_torch(gradient, config)


@pytest.mark.parametrize("name", [pytest.param("a", marks=pytest.mark.slow), *"cd"])
def test_golden_spectral_loss(x64, name):
    """Of the authors' velocity mixture: the axes of x_0 have the opposite sign, which squares out.

    They clip the CDF at 1 - 5e-7, so |z| at 4.89, which a and c reach, but d does not. We move the data to
    where its z is the clipped one. Measured: 7e-7, the rounding of the spectrum network, which is float32.
    """
    golden, clip = np.load(GOLDEN / f"loss_{name}.npz"), None if name == "d" else -NormalDist().inv_cdf(5e-7)
    network = spectrum_of(golden)
    for ratio in RATIOS:
        check_spectral_loss(golden, ratio, network, np.float64, clip, tolerance=2e-6)


def test_golden_spectral_loss_in_float32():
    """Where nothing is clipped; measured 1.2e-5, as the authors' own."""
    golden = np.load(GOLDEN / "loss_d.npz")
    check_spectral_loss(golden, "r0p5", spectrum_of(golden), np.float32, clip=None, tolerance=2.5e-5)


def check_spectral_loss(golden, ratio, network, dtype, clip, tolerance):
    apply, params, named = network
    t = np.clip(golden["in_t_high"], 1e-4, 1000) / 1000
    state = (t, golden[f"out_{ratio}_x_t_high_f64"], golden["in_x_0"])
    leaves = [golden[f"in_{k}"].astype(dtype) for k in ("means", "logits", "log_std")]
    weight = float(golden["in_spectral_loss_weight"])
    value, (gradient, of_mixture) = spectral_value_and_gradients(
        params, leaves, [v.astype(dtype) for v in state], apply, clip
    )
    assert relative_error(weight * value, golden[f"out_{ratio}_loss_spectral_f64"]) < tolerance
    for key, ours in named(gradient).items():
        expected = golden[f"out_{ratio}_grad_spectrum_net.{key}_f64"]
        assert relative_error(weight * ours, expected) < tolerance, key
    assert all(not np.any(leaf) for leaf in of_mixture)


@partial(jax.jit, static_argnums=(3, 4))
def spectral_value_and_gradients(params, leaves, state, apply, clip):
    t, x_t, x_0 = state

    def loss(params, leaves):
        q = flow.to_data(network_output(*leaves), x_t, t)
        fixed, x = jax.lax.stop_gradient(q), x_0
        if clip is not None:
            z = jnp.clip(gm.to_standard_normal(fixed, x), -clip, clip)
            x = gm.from_standard_normal(fixed, z)
        return jnp.mean(losses.spectral_loss(apply(params, gm.moment_match(fixed)), q, x))

    return jax.value_and_grad(loss, argnums=(0, 1))(params, leaves)


@pytest.mark.parametrize(("t", "s"), [(1e-4, 5e-5), (1e-4, 0.0), (0.004, 0.0), (0.9, 0.09)])
def test_transition_loss_is_a_normalised_density(x64, t, s):
    """The density of x_s, also at small times, where the authors' floor widens it up to a hundredfold."""
    q = gm.GaussianMixture(
        jnp.asarray([[-0.9], [0.1], [1.2]]), jnp.log(jnp.asarray([0.2, 0.5, 0.3])), jnp.asarray(-1.0)
    )
    x_t = jnp.asarray([0.4])
    law = jax.jit(flow.reverse_transition)(flow.to_data(q, x_t, t), x_t, t, s)
    low, high = float(jnp.min(law.means)), float(jnp.max(law.means))
    reach = 9 * math.exp(float(law.log_std))
    x = np.linspace(low - reach, high + reach, 6001)
    loss = jax.vmap(losses.transition_loss, (None, None, 0, None, None))
    density = np.exp(-jax.jit(loss)(q, x_t, jnp.asarray(x[:, None]), t, s))
    assert abs(np.trapezoid(density, x) - 1) < 1e-9
    mean = np.trapezoid(density * (x - 0.4), x)
    assert abs(mean - (gm.mean(law)[0] - 0.4)) < 1e-9 * t
