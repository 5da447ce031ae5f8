"""The core on the meshes of `jax.make_mesh` (Explicit axes), on Auto axes, and in shard_map (Manual axes)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gmflow_jax import flow, gm, guidance, losses, solvers
from tests.helpers import assert_trees_close

pytestmark = pytest.mark.usefixtures("fast_compile")

# Shapes, axis names and types of the meshes of four devices.
MESHES = {
    "explicit": ((4,), ("data",), AxisType.Explicit),
    "two explicit axes": ((2, 2), ("replica", "data"), AxisType.Explicit),
    "auto": ((4,), ("data",), AxisType.Auto),
}
BATCH, SIDE, COMPONENTS, CHANNELS = 4, 2, 3, 2
GRID = flow.time_grid(2)
# Two different programs in float64 differ by their rounding only. In float32 one bit of x moves the guided
# samples of gm_sde with a spectrum by 4e-5.
ROUNDING = dict(rtol=1e-11, atol=1e-11)


def make_mesh(name):
    shape, axes, kind = MESHES[name]
    return jax.make_mesh(shape, axes, axis_types=(kind,) * len(axes))


def split(tree, mesh):
    """Split the first axis of every array over all devices."""
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return jax.tree.map(lambda a: jax.device_put(a, rows), tree)


def arguments(dtype=np.float32):
    rng = np.random.default_rng(0)
    batch = (BATCH, SIDE, SIDE)
    shapes = ((*batch, COMPONENTS, CHANNELS), (*batch, CHANNELS), (*batch, CHANNELS))
    means, x, y = (rng.normal(size=shape).astype(dtype) for shape in shapes)
    log_weights = np.log(rng.dirichlet(np.ones(COMPONENTS), size=batch)).astype(dtype)
    q = gm.GaussianMixture(means, log_weights, np.full((BATCH, 1, 1), -0.5, dtype))
    t = np.linspace(0.5, 0.9, BATCH, dtype=dtype)
    return q, x, y, t, jax.random.split(jax.random.key(0), BATCH)


def normal_at(mean):
    return gm.Gaussian(mean, jnp.ones(()))


def network(x_t, t):
    del t
    means = jnp.stack([jnp.tanh(x_t + i) for i in range(COMPONENTS)], axis=-2)
    log_std = jnp.mean(x_t, axis=(1, 2, 3))[:, None, None] - 1
    return gm.GaussianMixture(means, jax.nn.log_softmax(jnp.sum(means, axis=-1)), log_std)


COND, UNCOND = flow.denoiser(network), flow.denoiser(lambda x, t: network(x + 0.3, t))


def both(labels):
    """Guidance by one network call on conditions that are split as the samples are."""
    one = guidance.in_one_batch(lambda x, t, c: COND(x + c[:, None, None, None], t), labels, 0.0)
    return guidance.guided_denoiser(one, None, 0.3)


def keys_like(t):
    """One key for each sample, split as the samples are."""
    return jax.vmap(lambda value: jax.random.key((1000 * value).astype(jnp.uint32)))(t)


DENOISERS = {
    "conditional": COND,
    "one component": flow.denoiser(lambda x, t: 0.5 * x),
    "probabilistic": guidance.guided_denoiser(COND, UNCOND, 0.3),
    "cfg": guidance.guided_denoiser(COND, UNCOND, 2.0, "cfg"),
    "interval": guidance.guided_denoiser(COND, UNCOND, 0.3, interval=(0.0, 0.8)),
}
SOLVERS = {name: solvers.by_name(name) for name in solvers.NAMES} | {
    "gm_ode 1": solvers.gm_ode(1, 2),
    "gm_ode": solvers.gm_ode(2, 2, integrator="rk4", correction_steps=1),
    "gm_ode, few steps": solvers.gm_ode(1, 2, temperature=0.5, renoise=0.5),
    "gm_sde 1": solvers.gm_sde(1),
    "gm_sde, spectrum": solvers.gm_sde(spectrum=lambda surrogate: 0.1 * surrogate.mean),
}


def sampled(name, denoise, x, keys):
    return solvers.sample(keys, DENOISERS[denoise], x, SOLVERS[name], GRID)


FUNCTIONS = {
    "gm.log_prob": lambda q, x, y, t: gm.log_prob(q, jnp.stack([x, y])).swapaxes(0, 1),
    "gm.covariance": lambda q, x, y, t: gm.covariance(q),
    "gm.sample": lambda q, x, y, t: gm.sample(jax.random.key(0), q),
    "gm.tilt": lambda q, x, y, t: gm.tilt(q, x, 0.5),
    "gm.reweight": lambda q, x, y, t: gm.reweight(q, normal_at(x), normal_at(y)),
    "gm.product": lambda q, x, y, t: gm.product(q, q),
    "gm.kl_divergence": lambda q, x, y, t: gm.kl_divergence(jax.random.key(0), q, q),
    "gm.to_standard_normal": lambda q, x, y, t: gm.to_standard_normal(q, x),
    "gm.from_standard_normal": lambda q, x, y, t: gm.from_standard_normal(q, x),
    "gm.temper": lambda q, x, y, t: gm.temper(q, t),
    "gm.drop_components": lambda q, x, y, t: gm.drop_components(jax.random.key(0), q, 0.5),
    "gm.drop_components, keys": lambda q, x, y, t: gm.drop_components(keys_like(t), q, 0.5),
    "flow.policy_velocity": lambda q, x, y, t: flow.policy_velocity(q, x, 0.9, y, t),
    "flow.follow_policy": lambda q, x, y, t: flow.follow_policy(q, x, 0.9, y, 0.9, 0.5 * t, 2, 1.3, "rk4"),
    "flow.interpolate": lambda q, x, y, t: flow.interpolate(x, y, t),
    "flow.to_velocity": lambda q, x, y, t: flow.to_velocity(q, x, t),
    "flow.posterior": lambda q, x, y, t: flow.posterior(q, x, t, y, 0.5 * t),
    "flow.reverse_transition": lambda q, x, y, t: flow.reverse_transition(q, x, t, 0.5 * t),
    "flow.spectral_field": lambda q, x, y, t: flow.spectral_field(x, y),
    "losses.transition_loss": lambda q, x, y, t: losses.transition_loss(q, x, y, t, 0.5 * t),
    "losses.flow_matching_loss": lambda q, x, y, t: losses.flow_matching_loss(x, y, x),
    "losses.spectral_loss": lambda q, x, y, t: losses.spectral_loss(x, q, y),
    "losses.policy_loss": lambda q, x, y, t: losses.policy_loss(q, x, t, y, 0.5 * t, x),
    "gradient": lambda q, x, y, t: jax.grad(
        lambda q: jnp.mean(losses.transition_loss(q, x, y, t, 0.5 * t))
    )(q),
    "guidance.cfg": lambda q, x, y, t: guidance.classifier_free_guidance(x, y, t, orthogonal=1.0),
    "guidance.in_one_batch": lambda q, x, y, t: both(t)(x, t),
    "solvers.second_order": lambda q, x, y, t: solvers.second_order(q, (q, y, t, 0.1 * t), x, t, 0.5 * t),
    "solvers.sample, one batch": lambda q, x, y, t: solvers.sample(
        None, both(t), x, solvers.gm_ode(2, 2), GRID
    ),
    "solvers.sample, one key": lambda q, x, y, t: solvers.sample(
        jax.random.key(0), COND, x, solvers.gm_sde(), GRID
    ),
}
# In shard_map, each device draws for its part of the batch what one device draws for the first samples
# ("gradient" averages over that part), so their results differ from those of one device.
OF_THE_WHOLE_BATCH = {
    "gm.sample", "gm.drop_components", "gm.kl_divergence", "solvers.sample, one key", "gradient",
}  # fmt: skip
PAIRS = [(name, denoise) for name in SOLVERS for denoise in DENOISERS]
# Every solver once, and every denoiser.
SOME = [(name, list(DENOISERS)[i % len(DENOISERS)]) for i, name in enumerate(SOLVERS)]


@pytest.mark.parametrize("mesh_name", ["explicit", "two explicit axes"])
def test_every_function_keeps_the_sharding(mesh_name):
    """Tracing shows it: on Explicit axes the sharding is a part of the type."""
    mesh = make_mesh(mesh_name)
    q, x, y, t, keys = split(arguments(), mesh)
    rows = x.sharding.spec[0]
    with jax.set_mesh(mesh):
        for name, function in FUNCTIONS.items():
            for leaf in jax.tree.leaves(jax.eval_shape(function, q, x, y, t)):
                assert leaf.sharding.spec[0] == rows, name
        for pair in SOME:
            found = jax.eval_shape(lambda x, keys, p=pair: sampled(*p, x, keys), x, keys)
            assert found.sharding == jax.typeof(x).sharding, pair


@pytest.mark.parametrize("mesh_name", ["explicit", "two explicit axes"])
def test_points_decide_how_results_are_split(mesh_name):
    """Also where the prediction is split otherwise: a constant, or on samples that are whole."""
    mesh = make_mesh(mesh_name)
    q, x, _, _, keys = arguments()
    parts, whole = split((q, x), mesh), jax.device_put((q, x), NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):
        for name, solver in SOLVERS.items():
            for prediction, points in ((whole[0], parts[1]), (parts[0], whole[1])):
                run = lambda x, q, s=solver: solvers.sample(keys, lambda x_t, t: q, x, s, GRID)  # noqa: E731
                found = jax.eval_shape(run, points, prediction)
                spec = getattr(found.sharding, "spec", PartitionSpec(*[None] * 4))
                assert spec == jax.typeof(points).sharding.spec, name


def results(names, pairs, q, x, y, t, keys):
    values = {name: FUNCTIONS[name](q, x, y, t) for name in names}
    return values, {f"{name}, {denoise}": sampled(name, denoise, x, keys) for name, denoise in pairs}


@jax.enable_x64(True)
def compare(kind, names, pairs):
    function = functools.partial(results, names, pairs)
    whole = arguments(np.float64)
    expected = jax.jit(function)(*whole)
    mesh = make_mesh("explicit" if kind == "manual" else kind)
    args = split(whole, mesh)
    if kind == "manual":
        rows = PartitionSpec("data")
        function = jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=rows)
    with jax.set_mesh(mesh):
        found = jax.jit(function)(*args)
    assert_trees_close(found, expected, **ROUNDING)
    for leaf in jax.tree.leaves(found):
        assert leaf.sharding.is_equivalent_to(args[1].sharding, leaf.ndim)


def test_numbers_on_an_explicit_mesh_equal_those_of_one_device():
    compare("explicit", ["guidance.in_one_batch"], [("gm_sde", "conditional")])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*MESHES, "manual"])
def test_all_numbers_equal_those_of_one_device(kind):
    names = [name for name in FUNCTIONS if kind != "manual" or name not in OF_THE_WHOLE_BATCH]
    compare(kind, names, PAIRS)
