"""Observed predictions: exact products, known and unknown pixels, guidance, extrapolation, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gmflow_jax import flow, gm, guidance, solvers
from gmflow_jax.guidance import observe, observe_approximately
from tests.helpers import all_finite, assert_message_names, assert_trees_close, permute_components

MEANS = np.array([[1.5, 0.2], [-0.8, 1.1], [-0.6, -1.4], [0.4, 0.3]])
WEIGHTS, LOG_STD = np.array([0.4, 0.3, 0.2, 0.1]), np.log(0.25)
SOLVERS = {name: solvers.by_name(name) for name in ("gm_sde", "gm_ode", "gm_pc", "unipc")}
# [B, H, W] of pictures, with a variance of every kind in each.
BATCH = (4, 2, 3)
VAR = np.broadcast_to(np.float32([[0, np.inf, 1e-3], [1e3, 1e-6, 0.5]]), BATCH)


def data_law(x, log_std=LOG_STD):
    """The mixture MEANS for each pixel of x [*batch, D]."""
    zeros = 0 * x[..., None, :]
    lead = (1,) * (x.ndim - 1)
    means = jnp.asarray(MEANS, x.dtype).reshape(*lead, *MEANS.shape) + zeros
    log_weights = jnp.asarray(np.log(WEIGHTS), x.dtype).reshape(*lead, -1) + zeros[..., 0]
    return gm.GaussianMixture(means, log_weights, jnp.asarray(log_std, x.dtype))


def denoise_law(law, x_t, t):
    """The exact prediction at (x_t, t): at t = 1 it is the law of the data, whatever the noise."""
    return flow.posterior(law, jnp.zeros_like(x_t), 1.0, x_t, t)


def exact(x_t, t):
    return denoise_law(data_law(x_t), x_t, t)


def rippled(x_t, t):
    """A network that is not exact."""
    q = exact(x_t, t)
    return gm.GaussianMixture(q.means + 0.2 * jnp.sin(2 * q.means + 5 * t), q.log_weights, q.log_std)


# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")

GUIDED = guidance.guided_denoiser(rippled, exact, 0.4)


def pictures(dtype=np.float32, seed=0):
    """x_t and y, [B, H, W, D]."""
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=(*BATCH, 2)), dtype) for _ in range(2))


@pytest.mark.parametrize("t", [1e-3, 0.3, 1.0])
def test_the_prediction_is_that_of_observed_data(x64, t):
    """Observing q(x_0 | x_t) gives what a network that is exact for p(x_0 | y) predicts."""
    x_t, y = pictures(np.float64)
    x_t = x_t if t > 0.1 else data_law(x_t).means[..., 1, :] + 0.25 * x_t

    @jax.jit
    def predictions(x_t, t):
        known, var = y.astype(x_t.dtype), VAR.astype(x_t.dtype)
        given = gm.multiply(data_law(x_t), gm.Gaussian(known, jnp.asarray(var)))
        return denoise_law(given, x_t, t), observe(exact, known, var)(x_t, t).mixture

    expected, found = predictions(x_t, t)
    assert_trees_close(found, expected, rtol=1e-9, atol=1e-11)
    _, single = predictions(x_t.astype(jnp.float32), jnp.float32(t))
    np.testing.assert_allclose(gm.mean(single), gm.mean(expected), atol=3e-5 if t < 0.1 else 3e-6)
    np.testing.assert_allclose(jnp.exp(single.log_std), jnp.exp(expected.log_std), rtol=3e-6)


@pytest.mark.parametrize("denoise", [rippled, GUIDED], ids=["plain", "guided"])
def test_an_infinite_variance_changes_nothing_bit_for_bit(denoise):
    x, y = pictures()
    plain = denoise(x, 0.5)
    mixture = getattr(plain, "mixture", plain)
    assert observe(denoise, y, np.inf) is denoise
    assert observe(denoise, jnp.full_like(y, jnp.nan), jnp.full(BATCH, jnp.inf)) is denoise
    unknown = np.isinf(VAR)
    found = observe(denoise, y, VAR)(x, 0.5)
    traced = jax.jit(lambda var: observe(lambda *_: plain, y, var)(x, 0.5).mixture)(jnp.full(BATCH, jnp.inf))
    for name in ("means", "log_weights"):
        np.testing.assert_array_equal(getattr(found, name)[unknown], getattr(mixture, name)[unknown])
        np.testing.assert_array_equal(getattr(traced, name), getattr(mixture, name))
    log_std = np.broadcast_to(mixture.log_std, BATCH)
    np.testing.assert_array_equal(found.log_std[unknown], log_std[unknown])
    np.testing.assert_array_equal(traced.log_std, log_std)
    # The extrapolation of order 2, too.
    memory = (mixture, x + 0.1, jnp.full(4, 0.7), jnp.full(4, 0.2))
    new, old = (solvers.second_order(p, memory, x, 0.5, 0.3) for p in (found, plain))
    old = getattr(old, "mixture", old)
    np.testing.assert_array_equal(new.means[unknown], old.means[unknown])
    assert not np.array_equal(old.means, mixture.means)


@pytest.mark.parametrize("denoise", [rippled, GUIDED], ids=["plain", "guided"])
def test_order_2_multiplies_the_extrapolated_prediction(x64, denoise):
    """By the density of the observation, up to a constant; the guided one is tilted once."""
    x, y = pictures(np.float64)
    var = jnp.asarray(np.where(np.isinf(VAR), 2.0, np.maximum(VAR, 1e-4)), jnp.float64)
    plain, observed = denoise(x, 0.5), observe(denoise, y, var)(x, 0.5)
    previous = denoise(x + 0.1, 0.7)
    memory = (getattr(previous, "mixture", previous), x + 0.1, jnp.full(4, 0.7), jnp.full(4, 0.2))
    extrapolated = solvers.second_order(plain, memory, x, 0.5, 0.3)
    found = solvers.second_order(observed, memory, x, 0.5, 0.3)
    expected = gm.multiply(getattr(extrapolated, "mixture", extrapolated), gm.Gaussian(y, var))
    assert_trees_close(found.mixture, expected, rtol=1e-9, atol=1e-9)
    first = (*memory[:3], jnp.full(4, jnp.inf))
    assert_trees_close(solvers.second_order(observed, first, x, 0.5, 0.3), observed, rtol=0, atol=0)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_gradients_are_finite(t):
    x, y = pictures()

    def loss(x, y, var, log_std):
        law, total = data_law(x, log_std), 0.0
        for denoise in (lambda x, t: law, guidance.guided_denoiser(lambda x, t: law, rippled, 0.3)):
            q = observe(denoise, y, var)(x, t)
            total += jnp.sum(jnp.sin(q.means)) + jnp.sum(gm.mean(q) ** 2) + jnp.sum(jnp.exp(q.log_std))
        return total + jnp.sum(jnp.exp(q.log_weights) ** 2)

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
    for var in (VAR, np.zeros(BATCH), np.full(BATCH, np.inf), np.ones(BATCH)):
        for log_std in (-np.inf, -30.0, -1.0, 3.0):
            found = gradient(x, y, jnp.asarray(var, jnp.float32), jnp.float32(log_std))
            assert all_finite(found), (var, log_std)
            assert np.all(np.asarray(found[1][1])[np.isinf(var)] == 0)


def test_collapsed_predictions_are_observed_too():
    """Components that are point masses keep their places, unless x_0 is known."""
    x, y = pictures()
    found = observe(lambda x, t: data_law(x, -jnp.inf), y, VAR)(x, 0.5)
    expected = jnp.broadcast_to(y[..., None, :], found.means.shape)
    np.testing.assert_array_equal(found.means[VAR == 0], expected[VAR == 0])
    assert_trees_close(found.means[VAR > 0], data_law(x).means[VAR > 0], rtol=1e-6, atol=1e-6)
    assert np.all(found.log_std == -np.inf)
    guided = guidance.guided_denoiser(lambda x, t: data_law(x, -jnp.inf), exact, 0.3)
    np.testing.assert_allclose(gm.mean(observe(guided, y, 0.0)(x, 0.5)), y, atol=1e-6)


def test_batches_components_and_compilation_do_not_matter():
    x, y = pictures()

    def predicted(x, y, var, order=slice(None)):
        denoise = lambda x, t: permute_components(rippled(x, t), order)  # noqa: E731
        denoise = guidance.guided_denoiser(denoise, exact, 0.4, sample_axes=() if x.ndim == 1 else None)
        return observe(denoise, y, var)(x, 0.5).mixture

    compiled, close = jax.jit(predicted), functools.partial(assert_trees_close, rtol=2e-6, atol=2e-6)
    whole = compiled(x, y, VAR)
    close(predicted(x, y, VAR), whole)
    order = np.array([2, 0, 3, 1])
    close(compiled(x, y, VAR, order), permute_components(whole, order))
    close(compiled(x, y, VAR[:1]), whole)  # one mask for all pictures
    each = [compiled(x[i : i + 1], y[i : i + 1], VAR[i : i + 1]) for i in range(4)]
    close(jax.tree.map(lambda *parts: np.concatenate(parts), *each), whole)
    pixels = x[:, 0, 0], y[:, 0, 0], VAR[:, 0, 0]
    close(jax.jit(jax.vmap(predicted))(*pixels), compiled(*pixels))


def test_two_observations_are_one_of_their_product(x64):
    x, y = pictures(np.float64)
    other = jnp.flip(y)
    var, second = (jnp.asarray(v, jnp.float64) for v in (VAR, np.full(BATCH, 0.3)))
    expected = gm.multiply(observe(GUIDED, y, var)(x, 0.5), gm.Gaussian(other, second))
    for pair in (((y, var), (other, second)), ((other, second), (y, var))):
        found = observe(observe(GUIDED, *pair[0]), *pair[1])(x, 0.5)
        assert isinstance(found.prediction, guidance.Guided)
        np.testing.assert_allclose(gm.mean(found), gm.mean(expected), atol=1e-9)
        assert_trees_close(found.mixture, expected, rtol=1e-9, atol=1e-9)
    last = observe(observe(GUIDED, y, 0.0), other, 0.0)(x, 0.5)
    np.testing.assert_allclose(gm.mean(last), other, atol=1e-12)


def test_observed_predictions_can_be_guided():
    """Their parts do not survive: order 2 sees the guided mixture, not the prediction before."""
    x, y = pictures()
    cond, uncond = observe(rippled, y, VAR), observe(exact, y, VAR)
    for method, scale in (("cfg", 2.0), ("probabilistic", 0.3)):
        q = guidance.guided_denoiser(cond, uncond, scale, method)(x, 0.5)
        assert type(getattr(q, "mixture", q)) is gm.GaussianMixture
        assert type(getattr(q, "base", q)) is gm.GaussianMixture
        np.testing.assert_allclose(gm.mean(getattr(q, "mixture", q))[VAR == 0], y[VAR == 0], atol=1e-6)


def test_an_aux_stays_beside_the_prediction():
    x, y = pictures()
    denoise = observe_approximately(lambda x, t: (exact(x, t), {"t": t}), jnp.sum, 0.0)
    found, aux = observe(denoise, y, VAR)(x, 0.5)
    plain = observe(observe_approximately(exact, jnp.sum, 0.0), y, VAR)
    assert_trees_close(found, plain(x, 0.5), rtol=0, atol=0)
    assert aux == {"t": 0.5}


def test_splitting_over_devices_changes_nothing():
    x, y = pictures()
    mesh = jax.make_mesh((4,), ("data",))  # Explicit axes
    keys, times = jax.random.split(jax.random.key(0), 4), flow.time_grid(2)
    slope = lambda x_0: -jnp.sum(jnp.square(x_0[..., 0]), axis=(1, 2))  # noqa: E731

    def sampled(solver, x, y, var):
        denoise = observe_approximately(observe(GUIDED, y, var), slope, 2.0)
        return solvers.sample(keys, denoise, x, solver, times)

    expected = observe(GUIDED, y, VAR)(x, 0.5).mixture
    split = jax.device_put((x, y, jnp.asarray(VAR)), NamedSharding(mesh, PartitionSpec("data")))
    with jax.set_mesh(mesh):
        found = jax.jit(lambda x, y, var: observe(GUIDED, y, var)(x, 0.5).mixture)(*split)
        assert_trees_close(found, expected, rtol=2e-6, atol=2e-6)
        for name, others in zip(SOLVERS, [split[1:], (y, VAR), (y, VAR[:1]), (split[1], 0.3)], strict=True):
            run = functools.partial(sampled, SOLVERS[name])
            result = jax.eval_shape(run, split[0], *others)
            assert result.sharding == jax.typeof(split[0]).sharding, name


def test_a_gaussian_likelihood_with_its_curvature_is_exact(x64):
    x, y = pictures(np.float64)
    likelihood = lambda x_0: -jnp.sum(jnp.square(x_0 - y), axis=(1, 2, 3)) / (2 * 0.3)  # noqa: E731
    for denoise in (rippled, GUIDED):
        expected = observe(denoise, y, 0.3)(x, 0.5)
        found = observe_approximately(denoise, likelihood, precision=1 / 0.3)(x, 0.5)
        assert_trees_close(found.mixture, expected.mixture, rtol=1e-8, atol=1e-8)
        linear = observe_approximately(denoise, lambda x_0: jnp.sum(likelihood(x_0)), 0.0)(x, 0.5)
        mixture = getattr(denoise(x, 0.5), "mixture", denoise(x, 0.5))
        slope = -(gm.mean(mixture) - y) / 0.3
        assert_trees_close(linear.mixture, gm.tilt(mixture, slope, 0.0), rtol=1e-8, atol=1e-8)


X, Y = pictures()
BAD = {
    "negative": (Y, -1.0, "negative"),
    "NaN": (Y, np.full(BATCH, np.nan), "NaN"),
    "a shape of var": (Y, np.ones((4, 3)), r"\(4, 3\).*\(4, 2, 3\)"),
    "channels of var": (Y, np.ones((*BATCH, 2)), "var has shape"),
    "another size of var": (Y, np.ones((2, 2, 3)), r"\(2, 2, 3\)"),
    "a mask": (Y, np.ones(BATCH, bool), r"bool.*jnp.where\(mask"),
    "an integer mask": (Y, np.ones(BATCH, np.uint8), r"uint8.*jnp.where\(mask"),
    "integers": (np.zeros((*BATCH, 2), np.uint8), 1.0, "uint8.*127.5"),
    "complex": (np.zeros((*BATCH, 2), np.complex64), 1.0, "complex64"),
    "a scalar": (0.5, 1.0, "scalar"),
    "nothing": (None, 1.0, "y is of NoneType.*127.5"),
    "lists of two lengths": ([[1.0], [1.0, 2.0]], 1.0, "y is of list"),
    "text": (Y, "a", "var is of .*jnp.where"),
    "NaN where it is known": (Y.at[0, 0, 0].set(jnp.nan), 1.0, "2 values that are not finite"),
}


@pytest.mark.parametrize(("y", "var", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_observed_is_refused(y, var, message):
    with pytest.raises(ValueError, match=message) as error:
        observe(exact, y, var)
    assert_message_names(error)


def test_lists_are_observed_as_arrays():
    lists = np.asarray(Y).tolist(), VAR.tolist()
    assert_trees_close(observe(exact, *lists)(X, 0.5), observe(exact, Y, VAR)(X, 0.5), rtol=0, atol=0)


def test_shapes_and_predictions_that_do_not_fit_are_refused():
    for y in (Y[:1], Y[..., :1], Y[0]):
        with pytest.raises(ValueError, match=r"y has shape .*\(4, 2, 3, 2\).*broadcast_to"):
            solvers.sample(None, observe(exact, y, 1.0), X, solvers.euler(), flow.time_grid(2))
    for denoise in (lambda x, t: x, guidance.in_one_batch(lambda x, t, c: exact(x, t), jnp.arange(4), 0)):
        with pytest.raises(ValueError, match=r"denoise returned an? .*guided_denoiser"):
            observe(denoise, Y, 1.0)(X, 0.5)
    for means in (X[:1, ..., None, :], X[..., None, :1]):
        q = gm.GaussianMixture(means, jnp.zeros(means.shape[:-1]), jnp.zeros(()))
        with pytest.raises(ValueError, match=r"The prediction is over .*but x_t has shape \(4, 2, 3, 2\)"):
            observe(lambda x, t: q, Y, 1.0)(X, 0.5)  # noqa: B023
    for call in (lambda: observe(3, Y, 1.0), lambda: observe_approximately(None, jnp.sum, 1.0)):
        with pytest.raises(ValueError, match=r"denoise is of type .*flow\.denoiser"):
            call()
    with pytest.raises(ValueError, match="log_likelihood is of type NoneType"):
        observe_approximately(exact, None, 1.0)
    for value in (lambda x_0: x_0, lambda x_0: jnp.sum(x_0, axis=-1), lambda x_0: jnp.int32(1)):
        with pytest.raises(ValueError, match="log_likelihood returned"):
            observe_approximately(exact, value, 1.0)(X, 0.5)
    with pytest.raises(ValueError, match=r"precision is -1"):
        observe_approximately(exact, jnp.sum, -1.0)
    with pytest.raises(ValueError, match=r"precision has shape \(3,\)"):
        observe_approximately(exact, jnp.sum, np.ones(3, np.float32))(X, 0.5)
