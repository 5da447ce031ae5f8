"""float32 products that a TPU would round to bfloat16 carry their precision, also in gradients.

At JAX's default precision, TPUs round the factors of float32 products to bfloat16, and NVIDIA GPUs to 19
bits. Only products in the type that a user has chosen for a network's blocks follow this default.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.scoring.likelihood import conditional_nll
from gmflow_jax import flow, gm, guidance, losses, models, solvers

PRODUCTS = ("dot_general", "conv_general_dilated", "product")
SHAPE = (2, 4, 4, 3)


def equations(jaxpr):
    """List the equations of a jaxpr, also of those inside."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def products(function, *args):
    """List (types of the factors, precision) of each product of a function."""
    found = [e for e in equations(jax.make_jaxpr(function)(*args).jaxpr) if e.primitive.name in PRODUCTS]
    return [({str(v.aval.dtype) for v in e.invars}, e.params["precision"]) for e in found]


def count_precise(function, *args):
    """Check the float32 products of a function and of its gradient, and count those of both."""

    def total(*args):
        leaves = jax.tree.leaves(function(*args))
        return sum((jnp.sum(v) for v in leaves if jnp.issubdtype(v.dtype, jnp.floating)), jnp.zeros(()))

    return count_precise_forward(jax.value_and_grad(total, argnums=tuple(range(len(args)))), *args)


def count_precise_forward(function, *args):
    precisions = [precision for types, precision in products(function, *args) if types == {"float32"}]
    highest = jax.lax.Precision.HIGHEST
    assert all(precision in ("highest", (highest, highest)) for precision in precisions), precisions
    return len(precisions)


Q = gm.GaussianMixture(jnp.zeros((2, 4, 4, 2, 3)), jnp.full((2, 4, 4, 2), np.log(0.5)), jnp.zeros((2, 1, 1)))
X, HALF, KEY = jnp.zeros((2, 4, 4, 3)), jnp.full(2, 0.5), jax.random.key(0)
WIDE = gm.Gaussian(X, jnp.full((2, 1, 1), 2.0))

FUNCTIONS = {
    gm: {
        "covariance": lambda q, x: gm.covariance(q),
        "drop_components": lambda q, x: gm.drop_components(KEY, q, 0.5),
        "entropy": lambda q, x: gm.entropy(KEY, q, 2),
        "from_standard_normal": gm.from_standard_normal,
        "kl_divergence": lambda q, x: gm.kl_divergence(KEY, q, q, 2),
        "log_prob": gm.log_prob,
        "mean": lambda q, x: gm.mean(q),
        "moment_match": lambda q, x: gm.moment_match(q),
        "multiply": lambda q, x: gm.multiply(q, gm.Gaussian(x, WIDE.var)),
        "product": lambda q, x: gm.product(q, q),
        "reweight": lambda q, x: gm.reweight(q, gm.moment_match(q), WIDE),
        "sample": lambda q, x: gm.sample(KEY, q),
        "temper": lambda q, x: gm.temper(q, 0.5),
        "tilt": lambda q, x: gm.tilt(q, x, 0.5, 1.0, x),
        "to_standard_normal": gm.to_standard_normal,
    },
    flow: {
        "denoiser": lambda q, x: flow.denoiser(lambda x, t: q)(x, 0.5),
        "follow_policy": lambda q, x: flow.follow_policy(q, x, 0.9, x, 0.9, 0.5, 2),
        "forward_transition": lambda q, x: flow.forward_transition(x, x, 0.3, 0.5),
        "interpolate": lambda q, x: flow.interpolate(x, x, 0.5),
        "policy_velocity": lambda q, x: flow.policy_velocity(q, x, 0.9, x, 0.5),
        "posterior": lambda q, x: flow.posterior(q, x, 0.9, x, 0.5),
        "posterior_mean": lambda q, x: flow.posterior_mean(q, x, 0.9, x, 0.5),
        "reverse_transition": lambda q, x: flow.reverse_transition(q, x, 0.9, 0.5),
        "sample_time": lambda q, x: flow.sample_time(KEY, (2,)),
        "spectral_coefficients": lambda q, x: flow.spectral_coefficients(x),
        "spectral_field": lambda q, x: flow.spectral_field(x, x),
        "time_grid": lambda q, x: flow.time_grid(4),
        "to_data": lambda q, x: flow.to_data(q, x, 0.5),
        "to_velocity": lambda q, x: flow.to_velocity(q, x, 0.5),
    },
    losses: {
        "flow_matching_loss": lambda q, x: losses.flow_matching_loss(x, x, x),
        "mixture_nll": losses.mixture_nll,
        "policy_loss": lambda q, x: losses.policy_loss(q, x, 0.9, x, 0.5, x),
        "spectral_loss": lambda q, x: losses.spectral_loss(x, q, x),
        "transition_loss": lambda q, x: losses.transition_loss(q, x, x, 0.9, 0.5),
    },
    guidance: {
        "classifier_free_guidance": lambda q, x: guidance.classifier_free_guidance(q, q, 2.0),
        "guided_denoiser": lambda q, x: guided(q)(x, 0.5),
        "observe": lambda q, x: guidance.observe(guided(q), x, 0.5)(x, 0.5),
        "observe_approximately": lambda q, x: guidance.observe_approximately(guided(q), jnp.sum, 0.0)(x, 0.5),
        "probabilistic_guidance": lambda q, x: guidance.probabilistic_guidance(q, q, 0.5),
    },
}
NO_ARITHMETIC = {"Gaussian", "GaussianMixture", "Guided", "METHODS", "Observed", "USUAL_ORTHOGONAL"}
NO_ARITHMETIC |= {"check_guidance_scale", "in_one_batch"}


def guided(q):
    def denoise(x, t):
        return q

    return guidance.guided_denoiser(denoise, denoise, 0.5, orthogonal=1.0, sample_axes=(1, 2))


@pytest.mark.parametrize("module", FUNCTIONS, ids=lambda module: module.__name__)
def test_functions_of_mixtures(module):
    assert set(FUNCTIONS[module]) == set(module.__all__) - NO_ARITHMETIC
    counts = {name: count_precise(function, Q, X) for name, function in FUNCTIONS[module].items()}
    found = {name for name, count in counts.items() if count}
    assert found == {"to_standard_normal", "from_standard_normal", "spectral_loss"} & set(counts)


@pytest.mark.parametrize("is_guided", [False, True])
@pytest.mark.parametrize("name", solvers.NAMES)
def test_solvers(name, is_guided):
    denoise = guided(Q) if is_guided else lambda x, t: Q
    for order in (1, 2) if name in ("gm_ode", "gm_sde") else (2,):
        for spectrum in (None, lambda gaussian: gaussian.mean) if name == "gm_sde" else (None,):
            solver = solvers.by_name(name, order, 2, spectrum=spectrum)
            count = count_precise_forward(
                lambda x, solver=solver: solvers.sample(KEY, denoise, x, solver, flow.time_grid(3)), X
            )
            assert bool(count) == (spectrum is not None)


def network(kind, *args):
    graphdef, params = nnx.split(nnx.eval_shape(lambda: kind(*args, nnx.Rngs(0))))
    return lambda params: nnx.merge(graphdef, params), params


def test_networks_outside_of_their_blocks():
    """The blocks compute in bfloat16 here."""
    config = models.GMDiTConfig(4, 3, hidden_size=8, depth=1, num_heads=2, num_classes=2, dtype="bfloat16")
    make, params = network(models.GMDiT, config)
    assert count_precise(lambda params, x: make(params)(x, HALF), params, X) >= 3 * 7
    with jax.default_matmul_precision("highest"):  # for all products
        make, params = network(models.GMDiT, dataclasses.replace(config, dtype="float32"))
        assert count_precise_forward(lambda params, x: make(params)(x, HALF), params, X) >= 7 + 9
    make, params = network(models.GMMLP, models.GMMLPConfig(depth=2, width=8, dtype="bfloat16"))
    assert count_precise(lambda params, x: make(params)(x, HALF), params, X[:, 0, 0, :2]) >= 2 * 3
    make, params = network(models.SpectrumMLP, models.SpectrumMLPConfig(4, 3))
    assert count_precise(lambda params, x: make(params)(gm.Gaussian(x, WIDE.var)), params, X) >= 2 * 3


@pytest.mark.parametrize("method", ["encode", "decode"])
def test_the_autoencoder(method):
    config = models.AutoencoderKLConfig(3, 3, 3, block_channels=(8, 16), layers_per_block=1, num_groups=4)
    make, params = network(models.AutoencoderKL, config)
    count = count_precise(lambda params, x: getattr(make(params), method)(x, batch_size=1), params, X)
    assert count >= 2 * 14
    fast = dataclasses.replace(config, precision="default")
    make, params = network(models.AutoencoderKL, fast)
    found = products(lambda params, x: getattr(make(params), method)(x), params, X)
    assert {precision for _, precision in found} <= {"default", (jax.lax.Precision.DEFAULT,) * 2}


def test_the_likelihood():
    def nll(x):
        return conditional_nll(lambda x, t: Q, x, HALF, x, lambda gaussian: gaussian.mean)

    assert count_precise_forward(nll, X)
