"""The Knothe-Rosenblatt transport: the authors' values where their iteration converges, and properties."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from scipy import special, stats

from gmflow_jax import gm
from gmflow_jax.gm import _quantile
from tests.helpers import all_finite, assert_message_names, permute_components

GOLDEN = Path(__file__).parents[1] / "golden" / "algebra"
to_normal, from_normal = jax.jit(gm.to_standard_normal), jax.jit(gm.from_standard_normal)
gradient_of_sum = jax.jit(jax.grad(lambda q, z: gm.from_standard_normal(q, z).sum(), (0, 1)))

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")


@pytest.fixture(params="abcd")
def golden(request):
    """(arrays of the mixture, arrays of the transport) of each algebra file."""
    files = (f"gm_algebra_{request.param}.npz", f"transport_{request.param}.npz")
    return tuple(np.load(GOLDEN / name) for name in files)


@jax.jit
def transported(q, z, points, axes):
    """from_standard_normal of each z and to_standard_normal of each point, both [B, n, H, W, D]."""
    inverse = jax.vmap(lambda z: gm.from_standard_normal(q, z, axes), 1, 1)(z)
    return inverse, jax.vmap(lambda x: gm.to_standard_normal(q, x, axes), 1, 1)(points)


def in_axes(z, axes, mode):
    """Return the authors' coordinates along our axes; in the mode 'rotated' theirs belong to the channels."""
    return np.einsum("bnhwj,bhwji->bnhwi", z, np.broadcast_to(
        axes, (*z.shape[:1], *z.shape[2:], z.shape[-1]))) if mode == "rotated" else z


@pytest.mark.parametrize("mode", ["aligned", "rotated"])
def test_golden_transport(golden, golden_mixture, mode):
    arrays, transport = golden
    q = golden_mixture(arrays, np.float32)
    axes = transport[f"kr_{mode}_axes"]
    z = in_axes(transport["in_kr_z"], axes, mode)
    x, found_z = map(np.asarray, transported(q, z, transport["in_points"], axes))
    std = np.exp(arrays["in_log_std"]).reshape(-1, 1, 1, 1, 1)

    # Their 16 clamped Newton steps don't always arrive; their own round trip in float64 says where they do.
    arrived = np.abs(transport[f"kr_{mode}_roundtrip_f64"] - transport["in_kr_z"]).max(-1) < 1e-9
    assert arrived.mean() > 0.65
    error = np.abs(x - transport[f"kr_{mode}_z_to_x_f64"]) / np.maximum(std, 1)
    assert error[arrived].max() < 3e-5

    expected = in_axes(transport[f"kr_{mode}_x_to_z_f64"], axes.astype(np.float64), mode)
    clipped = np.abs(expected).max(-1) > 4.7  # theirs stops at 4.89
    error = np.abs(found_z - expected) * np.minimum(std, 1)
    # 1.2e-5 in float64 too: their axes are orthonormal to 4e-7 only.
    assert error[~clipped].max() < 3e-5
    assert np.isfinite(found_z).all() and np.abs(found_z)[clipped].max(-1).min(initial=9) > 4.7


@pytest.mark.parametrize("log_std", [-8.0, -4.0, -1.0, 2.0])
@pytest.mark.parametrize("concentration", [5.0, 0.02], ids=["even", "collapsed"])
def test_round_trip(log_std, concentration):
    rng = np.random.default_rng(0)
    batch, num_components, dim = 2000, 8, 4
    means = rng.normal(size=(batch, num_components, dim))
    weights = rng.dirichlet(np.full(num_components, concentration), batch) + 1e-30
    log_weights = jax.nn.log_softmax(jnp.asarray(np.log(weights), jnp.float32))
    q = gm.GaussianMixture(jnp.asarray(means, jnp.float32), log_weights, jnp.full((batch,), log_std))
    z = jnp.asarray(rng.uniform(-4, 4, size=(batch, dim)), jnp.float32)
    x = np.asarray(from_normal(q, z))
    # Half a unit in the last place of x, in each of 4 channels, is a part of a narrow component.
    rounding = np.linalg.norm(np.spacing(np.abs(x)) / 2, axis=-1) / np.exp(log_std)
    assert rounding.max() < 1e-4 or log_std < -6
    error = np.abs(to_normal(q, x) - z).max(-1)
    assert (error - rounding).max() < 1e-5


@pytest.mark.parametrize("half_gap", [10.0, 40.0])
def test_distant_components_and_far_tails(half_gap):
    centers = jnp.asarray([[[-half_gap, 0.0], [half_gap, 0.0]]] * 9)
    q = gm.GaussianMixture(centers, jnp.full((9, 2), np.log(0.5)), jnp.zeros(9))
    z = np.stack([[-30, -6, -2, -1e-3, 0, 1e-3, 2, 6, 30], np.linspace(-30, 30, 9)], -1).astype(np.float32)
    x = from_normal(q, z)
    assert np.isfinite(x).all()
    np.testing.assert_allclose(to_normal(q, x), z, rtol=2e-6, atol=2e-6)
    # In the far tail of the outer component, whose weight is a half: log Phi(z) = log(1/2) + log Phi(u).
    tail = stats.norm.logcdf(-np.asarray(x)[[0, 8], 0] * [1, -1] * -1 - half_gap * -1) - np.log(2)
    np.testing.assert_allclose(tail, stats.norm.logcdf(-30), rtol=1e-6)
    for x_far in (3e3, -3e3):
        assert np.isfinite(to_normal(q, jnp.full((9, 2), x_far))).all()
    gradients = gradient_of_sum(q, jnp.asarray(z))
    assert all_finite(gradients)


def test_point_masses_stay_finite():
    # Nine pairs, the shape of the test above.
    means = jnp.asarray([[[1.0, 2.0], [-1.0, 0.5]], *[[[3.0, 3.0], [3.0, 3.0]]] * 8])
    q = gm.GaussianMixture(means, jnp.full((9, 2), np.log(0.5)), jnp.full(9, -jnp.inf, jnp.float32))
    z = jnp.asarray([[0.7, 0.3], *[[-1.0, 2.0]] * 8])
    x = np.asarray(from_normal(q, z))
    assert min(np.abs(x[0] - m).max() for m in np.asarray(q.means[0])) < 1e-5
    np.testing.assert_allclose(x[1:], np.full((8, 2), 3.0), atol=1e-6)
    gradients = gradient_of_sum(q, z)
    assert all_finite((gradients, to_normal(q, jnp.asarray(x))))


def test_normal_draws_become_samples(random_mixture):
    n = 20_000
    one = random_mixture(3, (), 5, 3)
    q = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), one)
    z = jax.random.normal(jax.random.key(0), (n, 3))
    x = np.asarray(from_normal(q, z), np.float64)
    means, weights = np.asarray(one.means), np.exp(one.log_weights)
    for axis in range(3):  # Kolmogorov-Smirnov against the marginal of each channel
        u = sum(w * stats.norm.cdf(x[:, axis], m[axis], np.exp(one.log_std))
                for w, m in zip(weights, means, strict=True))
        assert stats.kstest(u, "uniform").pvalue > 1e-3
    np.testing.assert_allclose(np.cov(x.T), gm.covariance(one), atol=0.06)
    # And back: samples become standard normal.
    back = np.asarray(to_normal(q, gm.sample(jax.random.key(1), q)))
    assert min(stats.kstest(back[:, i], "norm").pvalue for i in range(3)) > 1e-3
    np.testing.assert_allclose(np.corrcoef(back.T), np.eye(3), atol=0.03)


def test_a_gaussian_is_an_affine_map():
    g = gm.Gaussian(jnp.asarray([[1.0, -2.0]]), jnp.asarray([0.25]))
    turn = jnp.asarray([[0.6, -0.8], [0.8, 0.6]])
    z = jnp.asarray([[3.0, -5.0]])
    np.testing.assert_allclose(from_normal(g, z, turn), [[3.9, -2.3]], rtol=1e-6)
    np.testing.assert_allclose(to_normal(g, g.mean + 1.0, turn), [[2.8, -0.4]], rtol=1e-6)


def test_axes_are_eigenvectors_of_the_averaged_covariance(random_mixture):
    q = random_mixture(0, (3, 2, 2), 4, 3)
    cov = np.asarray(gm.covariance(q)).mean((1, 2))
    for b in range(3):
        values, axes = np.linalg.eigh(cov[b])
        axes = axes[:, np.argsort(-values)]
        axes = axes * np.sign(axes[np.abs(axes).argmax(0), range(3)])
        z = jax.random.normal(jax.random.key(b), (3, 2, 2, 3))
        np.testing.assert_allclose(
            from_normal(q, z)[b], from_normal(q, z, jnp.asarray(axes, jnp.float32))[b], atol=2e-5
        )


@partial(jax.jit, static_argnums=0)
def derivatives(function, arguments, direction, cotangent):
    """Return (value, derivative along the direction, gradient) of a transport with normalised weights."""

    def normalised(q, point):
        return function(gm.GaussianMixture(q.means, jax.nn.log_softmax(q.log_weights), q.log_std), point)

    value, pull_back = jax.vjp(normalised, *arguments)
    return value, jax.jvp(normalised, arguments, direction)[1], pull_back(cotangent)


@pytest.mark.parametrize("function", [gm.from_standard_normal, gm.to_standard_normal])
def test_gradients_equal_differences(x64, random_mixture, function):
    step, tolerance, rng = 1e-5, dict(rtol=1e-6, atol=1e-6), np.random.default_rng(2)
    arguments = random_mixture(1, (2, 2), 4, 3, np.float64), jnp.asarray(rng.normal(size=(2, 2, 3)))
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), arguments)
    cotangent = jnp.asarray(rng.normal(size=(2, 2, 3)))

    def at(distance):
        moved = jax.tree.map(lambda a, d: a + distance * d, arguments, direction)
        return derivatives(function, moved, direction, cotangent)

    _, forward, gradient = at(0.0)
    np.testing.assert_allclose(forward, (at(step)[0] - at(-step)[0]) / (2 * step), **tolerance)
    products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), jnp.sum(cotangent * forward), **tolerance)


def test_gradients_where_eigenvalues_are_equal():
    q = gm.Gaussian(jnp.zeros((2, 3)), jnp.ones(2))
    gradient, _ = gradient_of_sum(q, jnp.ones((2, 3)))
    np.testing.assert_allclose(gradient.mean, jnp.ones((2, 3)))
    np.testing.assert_allclose(gradient.var, [1.5, 1.5], rtol=1e-6)


@pytest.mark.parametrize("function", [to_normal, from_normal])
def test_component_order_batching_and_vmap_do_not_matter(random_mixture, function):
    q = random_mixture(2, (3, 2, 2), 4, 3)
    p = jax.random.normal(jax.random.key(0), (3, 2, 2, 3))
    whole = function(q, p)
    permuted = permute_components(q, np.asarray([2, 0, 3, 1]))
    np.testing.assert_allclose(function(permuted, p), whole, atol=2e-5)

    def filled(*index):
        """The transport of one index in all entries: of the shape of the whole, to share its program."""
        q_i, p_i = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[index], leaf.shape), (q, p))
        return function(q_i, p_i)

    for i in range(3):
        np.testing.assert_allclose(filled(slice(i, i + 1))[0], whole[i], atol=1e-5)
    # Under vmap a pixel has no batch axes, and its own axes.
    pixel = jax.tree.map(lambda leaf: leaf[0, 0, 0], (q, p))
    np.testing.assert_allclose(function(*pixel), filled(0, 0, 0)[0, 0, 0], atol=1e-5)


@pytest.mark.parametrize("which", ["mixture", "z", "axes"])
def test_any_argument_may_vary_over_a_mesh(which):
    """One argument is split over four devices, and the others have one sample that all devices share."""
    rng = np.random.default_rng(0)
    means = jnp.asarray(rng.normal(size=(4, 3, 2)), jnp.float32)
    mixture = gm.GaussianMixture(means, jnp.log(jnp.full((4, 3), 1 / 3)), jnp.zeros((4,)))
    z, axes = jnp.linspace(-2, 2, 8).reshape(4, 2), jnp.broadcast_to(jnp.eye(2), (4, 2, 2))

    def cut(name, tree):
        return tree if name == which else jax.tree.map(lambda x: x[:1], tree)

    given = cut("mixture", mixture), cut("z", z), cut("axes", axes)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    specs = jax.tree.map(lambda x: P("data") if x.shape[0] == 4 else P(), given)
    found = jax.jit(jax.shard_map(gm.from_standard_normal, mesh=mesh, in_specs=specs, out_specs=P("data")))

    def sample(i):
        return from_normal(*jax.tree.map(lambda x: x[i % x.shape[0]][None], given))

    alone = [sample(i) for i in range(4)]
    np.testing.assert_allclose(found(*given), np.concatenate(alone), rtol=1e-5, atol=1e-6)


def test_bad_input_is_refused(random_mixture):
    q = random_mixture(0, (2, 3), 4, 3)
    with pytest.raises(ValueError) as error:
        gm.from_standard_normal(q, jnp.zeros((5, 2, 3, 3)))
    assert_message_names(error, "z", "(5, 2, 3, 3)", "vmap")
    with pytest.raises(ValueError) as error:
        gm.to_standard_normal(q, jnp.zeros((2, 3, 3)), jnp.eye(2))
    assert_message_names(error, "rotation", "(2, 2)")
    with pytest.raises(ValueError) as error:
        gm.to_standard_normal(q, jnp.zeros((2, 3, 3)), jnp.zeros((5, 1, 3, 3)))
    assert_message_names(error, "rotation", "(5, 1, 3, 3)")


def test_nan_and_empty_batches_leave_others_unchanged(random_mixture):
    q, z = random_mixture(51, (3, 2, 2), 4, 3), np.random.default_rng(52).normal(size=(3, 2, 2, 3))
    z = jnp.asarray(z, jnp.float32)
    rotation = jnp.eye(3)
    expected, found = (np.asarray(from_normal(q, v, rotation)) for v in (z, z.at[1, 0, 1, 0].set(jnp.nan)))
    others = np.ones((3, 2, 2), bool)
    others[1, 0, 1] = False
    np.testing.assert_allclose(found[others], expected[others], rtol=0, atol=1e-6)
    assert np.isnan(found[1, 0, 1]).any()
    nobody = jax.tree.map(lambda leaf: leaf[:0], q)
    for transport in (from_normal, to_normal):
        assert transport(nobody, z[:0]).shape == (0, 2, 2, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mills_ratio_equals_scipy(x64, dtype):
    u = np.concatenate([np.linspace(0, 40, 4001), np.geomspace(40, 1e6, 50)]).astype(dtype)
    exact = np.sqrt(np.pi / 2) * special.erfcx(u.astype(np.float64) / np.sqrt(2))
    error = np.asarray(_quantile._mills_ratio(jnp.asarray(u)), np.float64) / exact - 1
    assert np.abs(error).max() < {np.float32: 5e-7, np.float64: 1e-14}[dtype]
    assert _quantile._mills_ratio(jnp.asarray(np.inf, dtype)) == 0
