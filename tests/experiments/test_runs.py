"""A run's networks from its configuration, with and without a power spectrum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import solver_choices
from experiments.configs import digits, digits_spectrum
from experiments.runs import networks, trained
from experiments.training import steps
from gmflow_jax import flow, gm, sharding
from tests.experiments.conftest import tiny


def test_a_spectrum_adds_parameters_and_leaves_the_network_alone():
    plain = tiny(digits.get_config())
    both = tiny(digits_spectrum.get_config())
    params, alone = jax.jit(lambda: (networks.init_params(both), networks.init_params(plain)))()
    jax.tree.map(np.testing.assert_array_equal, params["network"], alone)
    apply, shapes = networks.abstract_network(both)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    inputs = (jnp.zeros((2, 4, 4, 4)), jnp.full((2,), 0.5), jnp.zeros((2,), jnp.int32))
    assert jax.eval_shape(apply, params, *inputs).means.shape == (2, 4, 4, 2, 4)
    assert networks.spectrum_function(plain) is None
    gaussian = gm.Gaussian(inputs[0], jnp.ones(()))
    assert jax.eval_shape(networks.spectrum_function(both), params, gaussian).shape == (2, 4, 4, 4)


def test_a_step_trains_network_and_spectrum():
    config = tiny(digits_spectrum.get_config())
    optimizer = steps.make_optimizer(config)
    step = steps.make_train_step(config, optimizer, sharding.make_parallelism())
    state = jax.eval_shape(steps.make_init(config, optimizer))
    batch = {"x_0": jnp.zeros((8, 4, 4, 4)), "labels": jnp.zeros((8,), jnp.int32)}
    new_state, metrics = jax.eval_shape(step, state, batch, jax.random.key(0))
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    assert {"loss", "loss_transition", "loss_spectral"} <= set(metrics)


def test_gm_sde_draws_with_the_spectrum_of_a_loaded_run(untrained):
    run = trained.load_run(untrained)
    samples = {}
    for wanted in (None, True, False):
        solver = solver_choices.make_solver("gm_sde", 1, order=1, spectrum=run.spectrum("gm_sde", wanted))
        sampler = run.sampler(solver, flow.time_grid(1), num_samples=2)
        samples[wanted] = sampler(jax.random.key(0), np.arange(2))
    np.testing.assert_array_equal(samples[None], samples[True])
    assert np.abs(samples[True] - samples[False]).max() > 0.1


def test_a_spectrum_that_cannot_be_used_is_refused(untrained):
    run = trained.load_run(untrained)
    assert run.spectrum("gm_ode") is None
    with pytest.raises(ValueError, match="Only gm_sde draws with a spectrum"):
        solver_choices.make_solver("gm_ode", 1, spectrum=run.spectrum("gm_ode", wanted=True))
    plain = trained.TrainedRun(digits.get_config(), run.task, run.apply, run.params, run.step)
    assert plain.spectrum("gm_sde") is None
    with pytest.raises(ValueError, match="has learned no spectrum"):
        plain.spectrum("gm_sde", wanted=True)


def test_options_that_do_not_fit_are_refused():
    config = digits_spectrum.get_config()
    config.spectrum.depth = 3
    with pytest.raises(ValueError, match=r"do not fit SpectrumMLPConfig: .*depth"):
        networks.abstract_network(config)
