"""GM-SDE whose pixels are drawn together, by a power spectrum."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, guidance, interop, models, solvers


def golden_spectrum(arrays):
    """The authors' spectrum network of these runs: surrogate -> log power."""
    state = {k.removeprefix("spectrum_net."): v for k, v in arrays.items() if k.startswith("spectrum_net.")}
    num_channels, *base_size = (int(n) for n in arrays["spectrum_base_size"])
    config = models.SpectrumMLPConfig(tuple(base_size), num_channels, widths=(6, 5))
    apply, _ = models.abstract(models.SpectrumMLP, config)
    return functools.partial(apply, interop.spectrum_mlp_from_torch(state, config))


def golden_draws(arrays, name):
    """Their normals belong to axes of arbitrary sign; where the largest entry is negative, ours are opposite."""
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
def test_trajectories_of_the_authors(golden, name, unoptimised):
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
    assert golden.relative_error(found, arrays[f"{name}__x_f64"]) < TOLERANCE[name]
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


TIMES = (1.0, 0.6, 0.0)


def test_one_step_samples_a_correlated_gaussian_exactly():
    """Data of a known spectrum: a mixture knows the variance of a pixel, the spectrum the rest."""
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
    x = jax.jit(lambda key: solvers.sample(key, denoise, noise, solver, jnp.asarray([1.0, 0.0])))
    coefficients = flow.spectral_coefficients(x(jax.random.key(1))).reshape(n, -1)
    covariance = np.cov(coefficients.T) / np.sqrt(np.outer(power, power))
    np.testing.assert_allclose(covariance, np.eye(12), atol=5 * np.sqrt(2 / n))


@pytest.mark.parametrize("order", [1, 2])
def test_a_sample_does_not_depend_on_the_batch_around_it(order, unoptimised):
    noise = jax.random.normal(jax.random.key(2), (3, 2, 3, 2))
    solver, denoise = solvers.gm_sde(order, white), flow.denoiser(velocity)
    run = jax.jit(lambda x: solvers.sample(jax.random.key(3), denoise, x, solver, jnp.asarray(TIMES)))
    np.testing.assert_allclose(run(noise[:1]), run(noise)[:1], atol=1e-5)
    assert np.isfinite(run(noise)).all()


def test_surrogate_of_each_kind_of_prediction():
    """Without guidance the matched moments; with it, those of the guided Gaussian; one variance each."""
    seen = []

    def spectrum(surrogate):
        seen.append(surrogate)
        return white(surrogate)

    cond, uncond = flow.denoiser(velocity), flow.denoiser(lambda x, t: -x)
    x = jax.random.normal(jax.random.key(4), (3, 2, 3, 2))
    for order in (1, 2):
        for denoise in (cond, guidance.guided_denoiser(cond, uncond, 0.6)):
            solver = solvers.gm_sde(order, spectrum)
            state = solver.init(denoise, x)
            key = solvers.Draws(None, x, x)
            jax.eval_shape(lambda: solver.step(key, denoise, x, 0.9, 0.5, state))  # noqa: B023
    plain, guided, plain_2, guided_2 = seen
    assert all(s.mean.shape == x.shape and s.var.shape == (3, 1, 1) for s in seen)


def test_a_spectrum_needs_images():
    solver = solvers.gm_sde(1, white)
    with pytest.raises(ValueError, match=r"shape \(3, 2\).*\[B, H, W, D\]"):
        solvers.sample(jax.random.key(0), flow.denoiser(velocity), jnp.ones((3, 2)), solver, jnp.asarray(TIMES))
    draws = solvers.Draws(None, None, jnp.ones((2, 3, 2, 3, 2)))
    with pytest.raises(ValueError, match="mixture_normal is missing"):
        solvers.sample(draws, flow.denoiser(velocity), jnp.ones((3, 2, 3, 2)), solver, jnp.asarray(TIMES))
