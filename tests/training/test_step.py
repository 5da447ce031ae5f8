"""Training steps: losses, skipped steps, microbatches and the spectrum."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gmflow_jax import gm, training
from tests.helpers import assert_leaves_close, fast_compilation


@pytest.fixture(autouse=True)
def _fast_compile(request):
    """Compile with few optimisations, but keep XLA's usual rounding where rounding is what is tested."""
    with fast_compilation(request.function is test_microbatches_change_nothing_but_rounding):
        yield


def make_step(toy, **options):
    optimizer = training.make_optimizer(training.warm_up_schedule(1e-2, 2), clip_norm=5.0)
    step = training.make_train_step(
        options.pop("apply", toy.apply), optimizer, training.ramp_up_decay(1e4, 8),
        num_classes=toy.num_classes, **options,
    )
    return step, training.init_state(toy.init_params(), optimizer)


@pytest.fixture(scope="module")
def default(toy):
    """The step of most tests, compiled once, and its first state."""
    step, state = make_step(toy, learning_rate=training.warm_up_schedule(1e-2, 2))
    return jax.jit(step), state


def at_step(state, step):
    return dataclasses.replace(state, step=jnp.int32(step))


@pytest.mark.parametrize("loss", ["transition", "flow"])
def test_training_lowers_the_loss_on_one_batch(toy, loss):
    step, state = make_step(toy, loss=loss)
    step = jax.jit(step, donate_argnums=0)
    batch, key = toy.make_batch(), jax.random.key(0)
    state, first = step(state, batch, key)
    for _ in range(59):
        state, _ = step(state, batch, key)
    assert (int(state.step), int(state.num_skipped)) == (60, 0)
    _, last = step(at_step(state, 0), batch, key)  # the draws of the first step again
    assert float(last["loss"]) < float(first["loss"]) - 0.1


def test_a_step_depends_on_key_and_step_number_only(toy, default):
    (step, state), batch = default, toy.make_batch()
    first, metrics = step(state, batch, jax.random.key(0))
    again, _ = step(state, batch, jax.random.key(0))
    toy.assert_equal(first, again)
    _, other_key = step(state, batch, jax.random.key(1))
    assert float(other_key["loss"]) != float(metrics["loss"])
    _, other_step = step(at_step(state, 1), batch, jax.random.key(0))
    assert float(other_step["loss"]) != float(metrics["loss"])


def test_flow_loss_is_the_transition_loss_of_a_unit_gaussian_at_ratio_one(toy):
    def unit_gaussian(params, x_t, t, labels):
        velocity = gm.mean(toy.apply(params, x_t, t, labels))
        return gm.GaussianMixture(
            velocity[..., None, :], jnp.zeros((*velocity.shape[:-1], 1)), jnp.zeros(())
        )

    results = {}
    for loss, options in {
        "flow": {"apply": toy.apply},
        "transition": {"apply": unit_gaussian, "transition_ratio": 1.0},
    }.items():
        step, state = make_step(toy, loss=loss, **options)
        results[loss] = jax.jit(step)(state, toy.make_batch(), jax.random.key(0))
    flow, transition = results["flow"], results["transition"]
    # -log q(x_0 | x_t) and -log q(u | x_t) differ by C log t, which no parameter changes.
    np.testing.assert_allclose(flow[1]["grad_norm"], transition[1]["grad_norm"], rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        flow[0].params, transition[0].params,
    )


def test_loss_weight_scales_loss_and_gradient(toy, default):
    step, state = default
    _, metrics = step(state, toy.make_batch(), jax.random.key(0))
    step, state = make_step(toy, loss_weight=2.0)
    _, doubled = jax.jit(step)(state, toy.make_batch(), jax.random.key(0))
    for name in ("loss", "grad_norm", "time_bin_sum"):
        np.testing.assert_allclose(doubled[name], 2 * metrics[name], rtol=1e-5)


def test_metrics_are_consistent(toy, default):
    step, state = default
    state, metrics = step(state, toy.make_batch(), jax.random.key(0))
    np.testing.assert_allclose(metrics["time_bin_sum"].sum() / 8, metrics["loss"], rtol=1e-5)
    assert float(metrics["time_bin_count"].sum()) == 8
    assert float(metrics["learning_rate"]) == pytest.approx(1e-5, rel=1e-4)
    assert float(metrics["ema_decay"]) == pytest.approx(0.5**20)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_steps_change_nothing_but_the_counts(toy, default, bad):
    step, state = default
    state, _ = step(state, toy.make_batch(), jax.random.key(0))
    batch = toy.make_batch()
    batch["x_0"][0, 0, 0, 0] = bad
    skipped, metrics = step(state, batch, jax.random.key(0))
    for name in ("params", "ema_params", "opt_state"):
        toy.assert_equal(getattr(skipped, name), getattr(state, name))
    assert (int(skipped.step), int(skipped.num_skipped)) == (2, 1)
    assert int(metrics["skipped"]) == 1
    assert float(metrics["time_bin_count"].sum()) == 0
    resumed, metrics = step(skipped, toy.make_batch(), jax.random.key(0))
    assert (int(metrics["skipped"]), int(resumed.num_skipped)) == (0, 1)


@pytest.fixture(scope="module")
def spectral(toy):
    """make(**options) -> (jitted step, state) with a learned spectrum, the same for every image."""

    @functools.cache
    def make(**options):
        step, state = make_step(
            toy, apply=lambda params, *inputs: toy.apply(params["network"], *inputs),
            spectrum_apply=lambda params, gaussian: jnp.broadcast_to(
                params["log_power"], gaussian.mean.shape
            ),
            **options,
        )
        params = {"network": state.params, "log_power": jnp.full((1, 3, 3, 2), 0.2, jnp.float32)}
        optimizer = training.make_optimizer(training.warm_up_schedule(1e-2, 2), clip_norm=5.0)
        return jax.jit(step), training.init_state(params, optimizer)

    return make


def test_a_spectrum_trains_beside_the_network(toy, default, spectral):
    """The losses add up, and the spectral loss leaves the network's gradient unchanged without clipping."""
    (plain_step, plain), (step, state) = default, spectral(spectral_loss_weight=0.5, num_microbatches=1)
    batch, key = toy.make_batch(), jax.random.key(0)
    log = []
    for _ in range(4):
        plain, plain_metrics = plain_step(plain, batch, key)
        state, metrics = step(state, batch, key)
        np.testing.assert_allclose(metrics["loss_transition"], plain_metrics["loss"], rtol=1e-5)
        parts = metrics["loss_transition"] + metrics["loss_spectral"]
        np.testing.assert_allclose(metrics["loss"], parts, rtol=1e-5)
        np.testing.assert_allclose(metrics["time_bin_sum"].sum() / 8, parts, rtol=1e-5)
        assert plain_metrics["grad_norm"] < metrics["grad_norm"] < 5.0
        log.append(metrics)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        (state.params["network"], state.ema_params["network"]), (plain.params, plain.ema_params),
    )
    assert float(jnp.abs(state.params["log_power"] - 0.2).max()) > 1e-2
    summary = training.average_metrics(jax.device_get(log))
    assert summary["loss_spectral"] == pytest.approx(np.mean([m["loss_spectral"] for m in log]))


@pytest.mark.parametrize("number", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_microbatches_change_nothing_but_rounding(toy, spectral, number):
    batch, key = toy.make_batch(), jax.random.key(0)
    found = []
    for num_microbatches in (1, number):
        step, state = spectral(spectral_loss_weight=0.5, num_microbatches=num_microbatches)
        compiled = jax.jit(step)  # anew: another test may have compiled `step` with another rounding
        found.append(jax.device_get(compiled(state, batch, key)))
    (whole, metrics), (state, parts) = found
    np.testing.assert_array_equal(parts["time_bin_count"], metrics["time_bin_count"])
    assert parts.keys() == metrics.keys()
    for name in metrics:
        np.testing.assert_allclose(parts[name], metrics[name], rtol=1e-6, err_msg=name)
    # Adam's first moment is the gradient times a constant.
    assert_leaves_close(state, whole, 1e-6, smallest_scale=0.0)


def test_microbatches_that_do_not_divide_the_batch_are_refused(toy):
    step, state = make_step(toy, num_microbatches=3)
    with pytest.raises(ValueError, match="8 samples on a device cannot be cut into 3 microbatches"):
        jax.eval_shape(step, state, toy.make_batch(), jax.random.key(0))
    with pytest.raises(ValueError, match="num_microbatches is 0"):
        make_step(toy, num_microbatches=0)


def test_power_averages_follow_the_parameters_and_skip_what_is_not_finite(toy):
    step, state = make_step(toy, power_stds=(0.1, 0.05))
    state = dataclasses.replace(state, power_averages=(toy.init_params(1), toy.init_params(2)))
    step, batch, key = jax.jit(step), toy.make_batch(), jax.random.key(0)
    first, _ = step(state, batch, key)
    for average in first.power_averages:
        toy.assert_equal(average, first.params)  # whatever was there
    # As if nine steps had ended there: they have the profile's integral up to 0.9, with EDM2's exponents.
    second, _ = step(at_step(first, 9), batch, key)
    for average, gamma in zip(second.power_averages, (6.94, 16.97), strict=True):
        expected = training.update_ema(first.params, second.params, 0.9 ** (gamma + 1))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-6), average, expected)
    batch["x_0"][0, 0, 0, 0] = np.nan
    skipped, metrics = step(second, batch, key)
    assert int(metrics["skipped"]) == 1
    toy.assert_equal(skipped.power_averages, second.power_averages)


def test_a_spectrum_needs_a_mixture(spectral):
    with pytest.raises(ValueError, match="loss='transition'"):
        spectral(loss="flow")


def test_unlabelled_points_train(toy):
    step, state = make_step(toy)
    batch = {"x_0": np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)}
    _, metrics = jax.jit(step)(state, batch, jax.random.key(0))
    assert np.isfinite(metrics["loss"])


def test_an_unknown_loss_is_refused(toy):
    with pytest.raises(ValueError, match="loss is 'l2'"):
        training.make_train_step(
            toy.apply, optax.sgd(1.0), training.constant_decay(0.9), loss="l2"
        )
