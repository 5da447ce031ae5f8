"""Wrong arguments: a ValueError whose message says what was given."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, guidance, solvers

X = jnp.zeros((3, 2))
TIMES = (1.0, 0.5, 0.0)
DRAWS = solvers.Draws(jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 3, 2)), jnp.zeros((2, 3, 2)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: solvers.gm_ode(3), "order must be 1 or 2, but 3"),
        (lambda: solvers.gm_sde(0), "order must be 1 or 2, but 0"),
        (lambda: solvers.gm_ode(2, 0), "num_substeps must be at least 1, but 0"),
        (lambda: solvers.gm_ode(2, 4, shift=0.0), "shift must be positive, but 0.0"),
        (lambda: solvers.gm_ode(2, 4, shift=-1.0), "shift must be positive, but -1.0"),
        (lambda: solvers.ddpm("medium"), "variance must be 'small' or 'large', but 'medium'"),
        (lambda: flow.time_grid(0), "num_steps must be at least 1, but 0"),
    ],
)
def test_bad_solver_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "times",
    [(0.0, 0.5, 0.4), (1.0, 0.5, 0.5), (1.0, 1.0), (1.2, 0.5, 0.0), (1.0, 0.5, -0.1), (1.0, np.nan, 0.0)],
)
def test_times_must_be_monotone_from_1_to_0(plane, times):
    with pytest.raises(ValueError, match="times must decrease"):
        solvers.sample(None, plane.denoiser(), X, solvers.euler(), jnp.asarray(times))


@pytest.mark.parametrize("times", [jnp.ones(1), jnp.ones(()), jnp.ones((2, 2))])
def test_times_must_be_a_list_of_two_or_more(plane, times):
    with pytest.raises(ValueError, match="at least 2 decreasing times"):
        solvers.sample(None, plane.denoiser(), X, solvers.euler(), times)


def pair_of(x, t, condition):
    """A network with a condition, for in_one_batch."""
    return flow.denoiser(lambda x, t: x * condition[:, None])(x, t)


ONLY_TO_DATA = [name for name in solvers.NAMES if name not in ("euler", "heun", "ab2", "dpmpp_2m")]


@pytest.mark.parametrize("name", ONLY_TO_DATA)
def test_increasing_times_are_refused(name):
    solver, denoise = solvers.by_name(name), flow.denoiser(lambda x, t: x)
    with pytest.raises(ValueError, match=r"times increase.* only from noise to data.*Use euler, heun"):
        solvers.sample(jax.random.key(0), denoise, X, solver, jnp.asarray(TIMES[::-1]))
    with pytest.raises(ValueError, match=r"times increase.* only from noise to data.*Use euler, heun"):
        solver.step(jax.random.key(0), denoise, X, 0.2, 0.5, solver.init(denoise, X))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": X}, "of type dict.*ravel_pytree"),
        ([X, X[:1]], "of type list.*ravel_pytree"),
        (gm.Gaussian(X, X), "of type Gaussian.*ravel_pytree"),
        ("noise", "of type str.*jax.random.normal"),
        (None, "of type NoneType.*jax.random.normal"),
        (jnp.zeros((3, 2), int), "an array of int32 with shape \\(3, 2\\).*astype"),
        (jnp.zeros(()), "an array of float32 with shape \\(\\).*axis of channels"),
    ],
)
def test_states_must_be_one_array_of_floats(state, message):
    solver, denoise = solvers.euler(), flow.denoiser(lambda x, t: x)
    for call in (
        lambda: solvers.sample(None, denoise, state, solver, jnp.asarray(TIMES)),
        lambda: solver.init(denoise, state),
        lambda: solver.step(None, denoise, state, 0.5, 0.2, ()),
    ):
        with pytest.raises(ValueError, match=f"x_(init|t) is {message}"):
            call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": 0}, "key is of type int.*jax.random.key"),
        ({"key": jnp.ones(2)}, "key is an array of float32.*jax.random.key"),
        ({"denoise": None}, "denoise is of type NoneType"),
        ({"denoise": lambda x, t: (flow.denoiser(lambda x, t: x)(x, t), t)}, "set has_aux=True"),
        ({"has_aux": True}, "must return a pair"),
        ({"denoise": flow.denoiser(lambda x, t: (x, "text")), "has_aux": True}, "type str"),
        ({"denoise": guidance.in_one_batch(pair_of, jnp.ones(3), 0.0)}, "two predictions.*guided_denoiser"),
        ({"denoise": guidance.in_one_batch(pair_of, jnp.ones(3), 0.0), "has_aux": True}, "two predictions"),
        ({"times": None}, "times is of type NoneType"),
        ({"times": jnp.stack([jnp.asarray(TIMES)] * 3, axis=1).at[:, 1].set(TIMES[::-1])}, "for all samples"),
    ],
)
def test_other_arguments_that_cannot_work(change, message):
    arguments = {"key": jax.random.key(0), "denoise": flow.denoiser(lambda x, t: x), "x_init": X}
    arguments |= {"solver": solvers.ddpm(), "times": jnp.asarray(TIMES)} | change
    with pytest.raises(ValueError, match=message):
        solvers.sample(**arguments)


def wrong(change):
    """A denoiser whose mixture is changed."""

    def denoise(x, t):
        means = jnp.zeros((*x.shape[:-1], 4, x.shape[-1]))
        q = gm.GaussianMixture(means, jnp.full(means.shape[:-1], -np.log(4)), jnp.zeros(()))
        return dataclasses.replace(q, **change(q))

    return denoise


@pytest.mark.parametrize(
    ("denoise", "message"),
    [
        (lambda x, t: x, "must return a GaussianMixture over x_0"),
        (lambda x, t: gm.Gaussian(x, jnp.ones(())), "Wrap a velocity function in flow.denoiser"),
        (wrong(lambda q: {"means": q.means[..., :1]}), "means of shape \\(3, 4, 1\\)"),
        (wrong(lambda q: {"means": q.means[:1], "log_weights": q.log_weights[:1]}), "state of shape"),
        (wrong(lambda q: {"means": jnp.swapaxes(q.means, 1, 2)}), "log_weights \\[\\*batch, K\\]"),
        (wrong(lambda q: {"log_std": jnp.zeros((3, 4))}), "log_std has shape \\(3, 4\\)"),
    ],
)
def test_predictions_must_fit_the_state(denoise, message):
    for solver in (solvers.gm_ode(2, 2), solvers.gm_sde(1), solvers.euler()):
        with pytest.raises(ValueError, match=message):
            solvers.sample(jax.random.key(0), denoise, X, solver, jnp.asarray(TIMES))


@pytest.mark.parametrize("field", ["component", "mixture_normal", "step_noise"])
def test_draws_must_be_complete(plane, field):
    draws = dataclasses.replace(DRAWS, **{field: None})
    with pytest.raises(ValueError, match=f"Draws.{field} is missing"):
        solvers.sample(draws, plane.denoiser(), X, solvers.gm_sde(1), jnp.asarray(TIMES))


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        (jax.tree.map(lambda leaf: leaf[:1], DRAWS), "leading axis of size num_steps = 2"),
        (jax.tree.map(lambda leaf: leaf[:, :2], DRAWS), "needs it with shape \\(3, 2\\)"),
        (solvers.Draws(step_noise=jnp.zeros((2, 3, 1))), "missing"),
    ],
)
def test_draws_must_fit(plane, draws, message):
    with pytest.raises(ValueError, match=message):
        solvers.sample(draws, plane.denoiser(), X, solvers.gm_sde(1), jnp.asarray(TIMES))


def test_a_function_is_no_solver(plane):
    with pytest.raises(ValueError, match=r"solver is a function, not a Solver\. Call .* solvers\.gm_ode\(\)"):
        solvers.sample(None, plane.denoiser(), X, solvers.gm_ode, jnp.asarray(TIMES))


@pytest.mark.parametrize("solver", [solvers.gm_sde(1), solvers.gm_sde(2), solvers.ddpm()])
def test_stochastic_solvers_need_a_key(plane, solver):
    with pytest.raises(ValueError, match="pass a PRNG key or Draws, not None"):
        solvers.sample(None, plane.denoiser(), X, solver, jnp.asarray(TIMES))


def test_the_number_of_keys_must_equal_that_of_samples(plane):
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match="Keys of shape \\(2,\\) do not fit samples of shape \\(3, 2\\)"):
        solvers.sample(keys, plane.denoiser(), X, solvers.gm_sde(1), jnp.asarray(TIMES))


@pytest.mark.parametrize("scale", [1.0, -0.1, 1.5])
def test_guidance_scales_outside_0_to_1_are_refused(plane, scale):
    with pytest.raises(ValueError, match=f"guidance_scale must be in \\[0, 1\\).*but {scale}"):
        guidance.guided_denoiser(plane.denoiser(), plane.denoiser(), scale)


def test_sample_axes_must_exist(plane):
    solver = solvers.gm_ode(2, 2, sample_axes=(1,))
    with pytest.raises(ValueError, match="sample_axes names axis 1"):
        solvers.sample(None, plane.denoiser(), X, solver, jnp.asarray(TIMES))
