"""Moving averages: the authors' decays and trajectories."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import training

GOLDEN = np.load(Path(__file__).parents[1] / "golden/train/schedules.npz")


@pytest.mark.parametrize(
    ("name", "decay"),
    [
        ("ema_karras_gamma7_f64", training.karras_decay(7.0)),
        ("ema_karras_gamma6p94_f64", training.karras_decay(6.94)),
        ("ema_rampup_kimg30000_r0p05_bs4096_f64", training.ramp_up_decay(30e6, 4096)),
        ("ema_rampup_kimg10_r0p05_bs4_f64", training.ramp_up_decay(10e3, 4)),
        ("ema_rampup_kimg500_rNone_bs64_f64", training.ramp_up_decay(500e3, 64, ramp_up=None)),
    ],
)
def test_decays_equal_the_authors(name, decay):
    iterations = jnp.asarray(GOLDEN["ema_iter"])
    np.testing.assert_allclose(jax.jit(jax.vmap(decay))(iterations), GOLDEN[name], atol=1.3e-7)


@pytest.mark.parametrize(
    ("name", "decay"),
    [
        ("ema_traj_karras7", training.karras_decay(7.0)),
        ("ema_traj_rampup_default_imagenet", training.ramp_up_decay(30e6, 4096)),
        ("ema_traj_fixed0p9", training.constant_decay(0.9)),
    ],
)
def test_average_follows_the_authors_trajectory(name, decay):
    ema = {"w": jnp.asarray(GOLDEN["ema_traj_initial_ema"])}
    for iteration, weights in enumerate(GOLDEN["ema_traj_weights_after_each_iter"]):
        ema = training.update_ema(ema, {"w": jnp.asarray(weights)}, decay(iteration))
        np.testing.assert_allclose(ema["w"], GOLDEN[name][iteration], rtol=1e-6, atol=1e-6)


def test_warm_up_decay_starts_at_a_tenth_and_saturates():
    decay = training.warm_up_decay(0.999)
    assert decay(0) == pytest.approx(0.1, rel=1e-6)
    assert decay(8) == pytest.approx(0.5, rel=1e-6)
    assert decay(10**6) == pytest.approx(0.999, rel=1e-6)


def test_ramp_up_halves_the_weight_of_old_parameters_in_one_half_life():
    decay = training.ramp_up_decay(half_life_images=1000, global_batch_size=10, ramp_up=None)
    ema = {"w": jnp.ones(())}
    for iteration in range(100):
        ema = training.update_ema(ema, {"w": jnp.zeros(())}, decay(iteration))
    assert float(ema["w"]) == pytest.approx(0.5, rel=1e-5)


def test_bad_arguments_are_refused():
    for bad in (np.nan, np.inf):
        for call in (
            lambda bad: training.constant_decay(bad),
            lambda bad: training.ramp_up_decay(bad, 64),
            lambda bad: training.ramp_up_decay(1e6, 64, ramp_up=bad),
            training.karras_decay,
        ):
            with pytest.raises(ValueError, match=f"is {bad}"):
                call(bad)
    with pytest.raises(ValueError, match="between 0 and 1"):
        training.constant_decay(1.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        training.warm_up_decay(-0.1)
    with pytest.raises(ValueError, match="positive half life"):
        training.ramp_up_decay(0, 64)
    with pytest.raises(ValueError, match="ramp_up"):
        training.ramp_up_decay(1e6, 64, ramp_up=0.0)
    with pytest.raises(ValueError, match="gamma"):
        training.karras_decay(-1.0)
