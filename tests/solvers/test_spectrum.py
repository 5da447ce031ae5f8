"""GM-SDE with pixels that are drawn jointly by a power spectrum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, solvers
from tests.helpers import relative_error

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")


def golden_spectrum(arrays):
    """The authors' spectrum network of these runs, surrogate -> log power, without flax."""
    layers = [[arrays[f"spectrum_net.mlp.{i}.{name}"] for name in ("weight", "bias")] for i in (0, 2, 4)]
    num_channels, *base_size = (int(n) for n in arrays["spectrum_base_size"])

    def network(surrogate):
        size = surrogate.mean.shape[1:3]
        between = jnp.mean(jnp.var(surrogate.mean, axis=(1, 2), ddof=1), axis=-1)
        x = jnp.stack([jnp.mean(surrogate.var, axis=(1, 2)), between], axis=-1)
        for i, (weight, bias) in enumerate(layers):
            x = (jax.nn.silu(x) if i else x) @ weight.T + bias[None]
        low = [np.r_[0 : (n + 1) // 2, base - n // 2 : base] for n, base in zip(size, base_size, strict=True)]
        logits = x.reshape(-1, num_channels, *base_size)[:, :, low[0]][..., low[1]]
        log_share = jax.nn.log_softmax(logits, axis=(2, 3))
        return jnp.moveaxis(log_share + np.float32(np.log(np.prod(size))), 1, -1)

    return network


def golden_draws(arrays, name):
    """Return the authors' draws along our axes, whose largest entry is positive; theirs have any sign."""
    axes = arrays[f"{name}__kr_eigvecs"]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(-2, keepdims=True), -2)
    normal = arrays[f"{name}__mixture_normal"] * np.sign(largest)[:, :, None]
    return solvers.Draws(None, jnp.asarray(normal), jnp.asarray(arrays[f"{name}__step_noise"]))


# Measured relative to float64. Theirs deviates by up to 1.4e-3: near-equal eigenvalues amplify rounding.
TOLERANCE = {
    "o1_s8x1_w0_shift1_sample_spectrum": 1e-5,
    "o1_s8x1_w0p3_shift1_sample_spectrum": 6e-4,
    "o2_s8x1_w0_shift1_sample_spectrum": 2e-4,
    "o2_s8x1_w0p3_shift1_sample_spectrum": 2e-5,
    "o2_s4x1_w0p3_shift3_corr2_sample_spectrum": 6e-5,
}


@pytest.mark.parametrize("name", TOLERANCE)
def test_trajectories_of_the_authors(golden, name, fast_compile):
    common, arrays = golden.load("solver_img_common"), golden.load("solver_img_spectrum")
    case, powers = golden.cases("solver_img_spectrum")[name], []
    network = golden_spectrum(arrays)

    def spectrum(surrogate):
        log_power = network(surrogate)
        jax.debug.callback(powers.append, log_power, ordered=True)
        return log_power

    solver = solvers.gm_sde(case["order"], spectrum, correction_steps=case.get("corr", 0))
    times = flow.time_grid(case["num_steps"], case["shift"])
    run = jax.jit(
        lambda draws, x: solvers.sample(draws, golden.denoiser(common, case), x, solver, times, True)
    )
    found = run(golden_draws(arrays, name), common["in_noise"])
    assert relative_error(found, arrays[f"{name}__x_f64"]) < TOLERANCE[name]
    # The surrogate is what guidance and extrapolation aim at, not the moments of what they reach.
    jax.effects_barrier()
    error = np.abs(np.stack(powers) - arrays[f"{name}__log_power_spectrum"]).max()
    assert error < 3 * TOLERANCE[name]


def white(surrogate):
    return jnp.zeros_like(surrogate.mean)


def velocity(x, t):
    """A mixture of two components whose means depend on x."""
    means = jnp.stack([jnp.sin(2 * x) + 1, x - 1], axis=-2)
    log_weights = jax.nn.log_softmax(jnp.stack([x[..., 0], -x[..., 1]], axis=-1))
    return gm.GaussianMixture(means, log_weights, jnp.log(0.5 + 0.1 * t))


def test_one_step_samples_a_correlated_gaussian_exactly():
    """The mixture gives the variance of a pixel, and the spectrum the correlation of the pixels."""
    n, shape = 20_000, (2, 3, 2)
    power = np.exp(np.random.default_rng(0).normal(size=shape))
    var = power.mean()

    def denoise(x, t):
        return gm.GaussianMixture(
            jnp.zeros((*x.shape[:-1], 1, 2)), jnp.zeros((*x.shape[:-1], 1)), jnp.full((), 0.5 * np.log(var))
        )

    def spectrum(surrogate):
        assert surrogate.mean.shape == (n, *shape)
        return jnp.broadcast_to(jnp.log(power / var).astype(jnp.float32)[None], (n, *shape))

    solver, noise = solvers.gm_sde(1, spectrum), jnp.zeros((n, *shape))

    @jax.jit
    def coefficients_of_samples(key):
        x_0 = solvers.sample(key, denoise, noise, solver, jnp.asarray([1.0, 0.0]))
        return flow.spectral_coefficients(x_0).reshape(n, -1)

    coefficients = coefficients_of_samples(jax.random.key(1))
    covariance = np.cov(coefficients.T) / np.sqrt(np.outer(power, power))
    np.testing.assert_allclose(covariance, np.eye(12), atol=5 * np.sqrt(2 / n))


def test_a_sample_does_not_depend_on_the_batch_around_it(fast_compile):
    """Up to the last digits: the transport's iterations end when the whole batch has converged."""
    noise = jax.random.normal(jax.random.key(2), (3, 2, 3, 2))
    solver, denoise = solvers.gm_sde(1, white), flow.denoiser(velocity)
    run = jax.jit(lambda x: solvers.sample(jax.random.key(3), denoise, x, solver, flow.time_grid(1)))
    np.testing.assert_allclose(run(noise[:1]), run(noise)[:1], atol=1e-5)


def test_a_spectrum_needs_images():
    def run(draws, x):
        solver = solvers.gm_sde(1, white)
        jax.eval_shape(lambda: solver.step(draws, flow.denoiser(velocity), x, 0.9, 0.5, ()))

    points, image = jnp.ones((3, 2)), jnp.ones((3, 2, 3, 2))
    run(solvers.Draws(None, image, image), image)
    with pytest.raises(ValueError, match=r"shape \(3, 2\).*\[B, H, W, D\]"):
        run(solvers.Draws(None, points, points), points)
    with pytest.raises(ValueError, match=r"mixture_normal is missing"):
        run(solvers.Draws(None, None, image), image)
