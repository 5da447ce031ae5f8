"""Problems with exact answers: the data is a Gaussian mixture, so the velocity is one, too."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study.sweep import Network
from gmflow_jax import flow, gm
from gmflow_jax.gm import GaussianMixture

Params = dict[str, np.ndarray]
EXACT, RIPPLED = "exact", "with error"


def plane(offset: float = 0.0) -> Network:
    """Return eight Gaussians of unequal weights on an uneven ring in 2-D, with mean (offset, offset)."""
    angle = 2 * np.pi * np.arange(8) / 8
    radius = 1 + 0.25 * np.cos(3 * angle + 1)
    means = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    weights = 1 + 0.5 * np.sin(2 * angle + 0.5)
    return _network(means, weights, std=0.15, ripple=0.135, offset=offset)


def space() -> Network:
    """Return sixteen Gaussians of equal weights at random places in 16-D."""
    means = np.random.default_rng(0).normal(size=(16, 16))
    return _network(means, np.ones(16), std=0.3, ripple=0.18)


def _network(
    means: np.ndarray, weights: np.ndarray, std: float, ripple: float, offset: float = 0.0
) -> Network:
    """Return the exact network and the one with error, for data of mean `offset` and mean variance 1."""
    weights = weights / weights.sum()
    means = means - weights @ means
    scale = np.sqrt((weights @ means**2).mean() + std**2)
    params = {
        "means": means / scale + offset,
        "log_weights": np.log(weights),
        "log_std": np.log(std / scale),
        "ripple": np.float64(0),
    }
    rippled = params | {"ripple": np.float64(ripple)}
    return Network(velocity, means.shape[1], {EXACT: _to_float32(params), RIPPLED: _to_float32(rippled)})


def _to_float32(params: Params) -> Params:
    """Round to float32, so that the float64 reference has exactly the same parameters."""
    return {name: np.asarray(value, np.float32) for name, value in params.items()}


def velocity(params: Params, x: jax.Array, t: jax.Array) -> GaussianMixture:
    """Return the mixture of the velocity given x_t, plus a smooth error of size `ripple`.

    A wave for each component and channel, which depends on x and t, is added to the means; the average of the
    waves over the channels is added to the logits.

    Args:
      params: parameters of the data, and "ripple".
      x: x_t, [N, D].
      t: time, a scalar.

    Returns:
      The mixture, with a component for each component of the data.
    """
    means, log_std = params["means"][None], params["log_std"]
    var, alpha = jnp.exp(2 * log_std), 1 - t
    var_t = t**2 + alpha**2 * var  # of x_t in each component
    x = x[:, None]
    phase = jnp.arange(means.shape[1], dtype=x.dtype)[None, :, None]
    wave = params["ripple"] * jnp.sin(2 * x + 5 * t + phase)
    logits = params["log_weights"][None] - jnp.sum((x - alpha * means) ** 2, -1) / (2 * var_t)
    return GaussianMixture(
        (x * (t - alpha * var) - t * means) / var_t + wave,
        jax.nn.log_softmax(logits + jnp.mean(wave, -1)),
        0.5 * jnp.log(var / var_t),
    )


def sample_data(network: Network, num_samples: int, seed: int) -> np.ndarray:
    """Draw samples of the data.

    Args:
      network: a network of `plane` or `space`.
      num_samples: number of samples N.
      seed: seed of the samples.

    Returns:
      [N, D].
    """
    p = network.variants[EXACT]
    data = GaussianMixture(*(jnp.asarray(p[name]) for name in ("means", "log_weights", "log_std")))
    return np.asarray(gm.sample(jax.random.key(seed), data, num_samples))


def relative_error(network: Network, num_samples: int = 2000, num_times: int = 32) -> float:
    """Compute the RMS error of the mean velocity with ripple, relative to the RMS of the exact one.

    Args:
      network: a network of `plane` or `space`.
      num_samples: number of data points, to which noise is added.
      num_times: number of evenly spaced times.

    Returns:
      The relative error over all points and times.
    """
    x_0 = jnp.asarray(sample_data(network, num_samples, seed=10))
    noise = jax.random.normal(jax.random.key(11), x_0.shape)

    @jax.jit
    def mean_squares(t):
        x_t = flow.interpolate(x_0, noise, t)
        exact, rippled = (gm.mean(velocity(network.variants[v], x_t, t)) for v in (EXACT, RIPPLED))
        return jnp.mean((rippled - exact) ** 2), jnp.mean(exact**2)

    times = (np.arange(num_times, dtype=np.float32) + 0.5) / num_times
    error, power = np.mean([mean_squares(t) for t in times], axis=0)
    return float(np.sqrt(error / power))


def flow_endpoint(params: Params, x_1: np.ndarray, num_steps: int) -> np.ndarray:
    """Solve the flow of the mean velocity from t = 1 to 0 by classical Runge-Kutta in float64.

    Args:
      params: parameters of `velocity`.
      x_1: points at t = 1, [N, D].
      num_steps: number of steps of equal length.

    Returns:
      The points at t = 0, [N, D] in float64.
    """

    @jax.jit
    def solve(params, x_1):
        h = 1.0 / num_steps

        def slope(x, t):
            return gm.mean(velocity(params, x, t))

        def step(i, x):
            t = 1 - h * i.astype(x.dtype)
            k_1 = slope(x, t)
            k_2 = slope(x - 0.5 * h * k_1, t - 0.5 * h)
            k_3 = slope(x - 0.5 * h * k_2, t - 0.5 * h)
            k_4 = slope(x - h * k_3, t - h)
            return x - h / 6 * (k_1 + 2 * (k_2 + k_3) + k_4)

        return jax.lax.fori_loop(0, num_steps, step, x_1)

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        return np.asarray(solve(wide, np.asarray(x_1, np.float64)))
