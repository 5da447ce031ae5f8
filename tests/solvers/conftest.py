"""Networks with known answers for the tests of the solvers, and the golden trajectories."""

import contextlib
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, guidance
from gmflow_jax.gm import GaussianMixture
from gmflow_jax.solvers import _gm
from tests.helpers import fast_compilation

FOLDER = Path(__file__).parents[1] / "golden" / "solvers"


def _loop(body, carry, inputs):
    """Run `lax.scan` as a Python loop; numpy slices the inputs, as jax would compile each slice."""
    inputs, outputs = jax.tree.map(np.asarray, inputs), []
    for i in range(len(jax.tree.leaves(inputs)[0])):
        carry, output = body(carry, jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), inputs))
        outputs.append(output)
    return carry, jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *outputs)


# What a step calls most, each as one program, as thousands of calls op by op take long.
PROGRAMS = {
    "mean_velocity": jax.jit(_gm.mean_velocity),
    "extrapolate": jax.jit(_gm.extrapolate, static_argnums=5),
}


@contextlib.contextmanager
def python_loops():
    with pytest.MonkeyPatch.context() as patch, fast_compilation():
        patch.setattr(jax.lax, "scan", _loop)
        for name, program in PROGRAMS.items():
            patch.setattr(_gm, name, program)
        yield


@pytest.fixture
def uncompiled():
    """Run every scan as a Python loop, which is much faster than compiling if each program runs once."""
    with python_loops():
        yield


@pytest.fixture
def loops():
    """A context manager that does the same as `uncompiled`, for a part of a test."""
    return python_loops


@jax.jit
def golden_velocity(net, x, t, labels) -> GaussianMixture:
    """The network of the README in tests/golden/solvers at one time t; x [B, H, W, C]."""
    net = jax.tree.map(lambda leaf: leaf.astype(x.dtype), net)
    var, alpha = jnp.exp(2 * net["log_s"]), 1 - t
    spread = t**2 + alpha**2 * var
    m = net["mu"][None] + net["class_shift"][labels][:, None, None, None, :]
    k = jnp.arange(m.shape[-2], dtype=x.dtype).reshape(1, 1, 1, -1)
    x_k = x[..., None, :]
    ripple = jnp.sin(2 * jnp.roll(x_k, -1, axis=-1) + k[..., None] + 5 * t)
    means = (x_k * (t - alpha * var) - t * m) / spread + net["amps"][0] * ripple
    logits = net["log_pi"].reshape(1, 1, 1, -1) + net["class_logit"][labels][:, None, None, :]
    logits = logits - jnp.sum((x_k - alpha * m) ** 2, axis=-1) / (2 * spread)
    logits = logits + net["amps"][1] * jnp.cos(0.7 * (k + 1) * x[..., :1] + 2 * t)
    log_std = 0.5 * jnp.log(var / spread) + net["amps"][2] * jnp.sin(4 * t)
    return GaussianMixture(means, jax.nn.log_softmax(logits), log_std)


@functools.partial(jax.jit, static_argnames="guided")
def golden_prediction(net, x, t, labels, null, scale, orthogonal, guided):
    """Over x_0, with probabilistic guidance or without."""
    cond, uncond = (flow.denoiser(functools.partial(_at, net, labels)) for labels in (labels, null))
    if guided:
        cond = guidance.guided_denoiser(cond, uncond, scale, orthogonal=orthogonal)
    return cond(x, t)


def _at(net, labels, x, t):
    return golden_velocity(net, x, t, labels)


class Golden:
    """The arrays of the authors' runs, and their closed-form network."""

    @staticmethod
    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(FOLDER / f"{name}.npz") as arrays:
            return dict(arrays)

    @staticmethod
    def cases(name: str) -> dict[str, dict]:
        return json.loads((FOLDER / f"{name}_cases.json").read_text())

    @staticmethod
    def network(common):
        """The parameters of the network, the labels, and the null label for each."""
        net = {k[4:]: v for k, v in common.items() if k.startswith("net_")}
        labels = common["in_labels"]
        return net, labels, np.full_like(labels, len(common["net_class_shift"]) - 1)

    @classmethod
    def velocities(cls, common):
        """velocity_fn(x, t) with the labels, and with the null label."""
        net, *conditions = cls.network(common)
        return tuple(functools.partial(_at, net, labels) for labels in conditions)

    @classmethod
    def denoiser(cls, common, case):
        net, labels, null = cls.network(common)
        scale, orthogonal = case["guidance"], case.get("orth", 1.0)
        return lambda x, t: golden_prediction(
            net, x, t, labels, null, scale, orthogonal, guided=scale > 0
        )


@pytest.fixture(scope="session")
def golden():
    return Golden()


class Exact:
    """Data that is itself a mixture of isotropic Gaussians, whose velocity has an exact mixture.

    `bump` adds ripples to the velocity's means and logits, so that the network is not exact.
    """

    def __init__(self, means, weights, std, bump=0.0):
        self.means, self.weights = np.asarray(means, np.float64), np.asarray(weights, np.float64)
        self.std, self.bump = std, bump

    @property
    def params(self):
        log_std = np.log(self.std) if self.std else -np.inf
        values = {"means": self.means, "log_weights": np.log(self.weights), "log_std": log_std}
        values["bump"] = np.float64(self.bump)
        dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
        return {name: jnp.asarray(value, dtype) for name, value in values.items()}

    def velocity(self, x, t, params=None) -> GaussianMixture:
        """x [*batch, D] with any batch axes, t a scalar."""
        params = self.params if params is None else params
        batch = (1,) * (x.ndim - 1)
        m = params["means"].reshape(batch + params["means"].shape)
        var, alpha = jnp.exp(2 * params["log_std"]), 1 - t
        spread = t**2 + alpha**2 * var
        x_k = x[..., None, :]
        k = jnp.arange(m.shape[-2], dtype=x.dtype)
        ripple = jnp.sin(2 * x_k + 5 * t + k.reshape((*batch, -1, 1)))
        means = (x_k * (t - alpha * var) - t * m) / spread + params["bump"] * ripple
        logits = params["log_weights"].reshape((*batch, -1))
        logits = logits - jnp.sum((x_k - alpha * m) ** 2, axis=-1) / (2 * spread)
        logits = logits + params["bump"] * jnp.sum(ripple, axis=-1)
        return GaussianMixture(means, jax.nn.log_softmax(logits), 0.5 * jnp.log(var / spread))

    def denoiser(self, params=None):
        return flow.denoiser(lambda x, t: self.velocity(x, t, params))

    def endpoint(self, solver, x, times):
        """The state at times[-1]; one program for all networks and grids."""
        padded = np.pad(np.asarray(times, x.dtype), (0, LONGEST - len(times)))
        return _endpoint(solver, self.params, x, padded, len(times) - 1)

    def flow(self, x, s=0.0, num_steps=400):
        """The flow of the mean velocity from 1 to s, by the classical Runge-Kutta method."""
        return _flow(self.params, x, np.linspace(1.0, s, num_steps + 1))


LONGEST = 40


@functools.partial(jax.jit, static_argnums=0)
def _endpoint(solver, params, x, times, num_steps):
    denoise = PLANE.denoiser(params)

    def step(i, carry):
        x, state = carry
        return solver.step(None, denoise, x, times[i], times[i + 1], state)

    return jax.lax.fori_loop(0, num_steps, step, (x, solver.init(denoise, x)))[0]


@jax.jit
def _flow(params, x, times):
    def velocity(x, t):
        return gm.mean(PLANE.velocity(x, t, params))

    def step(x, ends):
        a, h = ends[0], ends[1] - ends[0]
        k1 = velocity(x, a)
        k2 = velocity(x + h / 2 * k1, a + h / 2)
        k3 = velocity(x + h / 2 * k2, a + h / 2)
        k4 = velocity(x + h * k3, a + h)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    return jax.lax.scan(step, x, (times[:-1], times[1:]))[0]


PLANE = Exact([[1.5, 0.2], [-0.8, 1.1], [-0.6, -1.4], [0.4, 0.3]], [0.4, 0.3, 0.2, 0.1], 0.25)
SPACE = Exact([[1.0, 0.5, -0.7], [-1.2, 0.1, 0.4], [0.3, -0.9, 1.1]], [0.5, 0.3, 0.2], 0.4)
RIPPLED = Exact(PLANE.means, PLANE.weights, PLANE.std, bump=0.2)
SHIFTED = Exact(PLANE.means * 0.6 - 0.2, PLANE.weights[::-1], 0.6, bump=0.1)


@pytest.fixture(scope="session")
def plane():
    """An exact network for four Gaussians in 2-D."""
    return PLANE


@pytest.fixture(scope="session")
def space():
    """An exact network for three Gaussians in 3-D."""
    return SPACE


@pytest.fixture(scope="session")
def rippled():
    """A network that is not exact, in 2-D."""
    return RIPPLED


@pytest.fixture(scope="session")
def shifted():
    """Another network that is not exact, of wider components."""
    return SHIFTED


@pytest.fixture(scope="session")
def guided():
    """guided(scale, params=None): probabilistic guidance of `rippled` away from another network."""

    def build(scale, params=None):
        return guidance.guided_denoiser(RIPPLED.denoiser(params), SHIFTED.denoiser(), scale)

    return build
