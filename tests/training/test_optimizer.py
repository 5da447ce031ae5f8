"""Learning rate schedules, weight decay and clipping."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gmflow_jax import training

GOLDEN = np.load(Path(__file__).parents[1] / "golden/train/schedules.npz")


def test_warm_up_equals_the_authors_schedule():
    schedule = training.warm_up_schedule(2e-4, 1000)
    expected = GOLDEN["lr_base0p0002_warm1000_ratio0p001_f64"]
    rates = [schedule(jnp.asarray(step)) for step in GOLDEN["lr_iter"]]
    np.testing.assert_allclose(rates, expected, rtol=0, atol=2e-11)  # 1e-7 peak


def test_cosine_schedule_passes_its_corner_points():
    schedule = training.warm_up_cosine_schedule(1.0, 10, 110, start_ratio=0.1, end_ratio=0.2)
    rates = jax.jit(jax.vmap(schedule))(jnp.asarray([0, 5, 10, 60, 110, 500]))
    np.testing.assert_allclose(rates, [0.1, 0.55, 1.0, 0.6, 0.2, 0.2], rtol=1e-6)


@pytest.mark.parametrize("make", [
    lambda: training.warm_up_schedule(3.0, 0),
    lambda: training.warm_up_cosine_schedule(3.0, 0, 10),
])
def test_no_warm_up_starts_at_the_peak(make):
    assert float(make()(0)) == pytest.approx(3.0)


def test_only_biases_do_not_decay():
    params = {
        "layer": {"kernel": jnp.ones((2,)), "bias": jnp.ones((2,))},
        "bias": {"scale": jnp.ones((2,))},
        "blocks": [{"bias": jnp.ones((2,))}, {"table": jnp.ones((2,))}],
    }
    optimizer = training.make_optimizer(0.1, weight_decay=0.5)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    changed = jax.tree.map(lambda u: float(u[0]), updates)
    decayed = pytest.approx(-0.05)
    assert changed == {
        "layer": {"kernel": decayed, "bias": 0.0},
        "bias": {"scale": decayed},
        "blocks": [{"bias": 0.0}, {"table": decayed}],
    }


def test_clip_acts_from_its_step_on_and_leaves_small_gradients():
    # With b1 = 0 and eps large, Adam's first-order part is the clipped gradient over eps.
    optimizer = training.make_optimizer(
        1.0, b1=0.0, b2=0.0, weight_decay=0.0, clip_norm=1.0, clip_begin_step=1, eps=1e6
    )
    params = {"a": jnp.zeros((2,)), "b": jnp.zeros((1,))}
    large = {"a": jnp.asarray([2.0, -4.0]), "b": jnp.asarray([4.0])}
    small = jax.tree.map(lambda x: x / 100, large)
    state = optimizer.init(params)
    norms = []
    for grads in (large, large, small):
        updates, state = jax.jit(optimizer.update)(grads, state, params)
        norms.append(1e6 * float(optax.tree.norm(updates)))
    np.testing.assert_allclose(norms, [6.0, 1.0, 0.06], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("learning_rate", (math.nan, math.inf, -1e-3)),
        ("b1", (1.0, -0.1, math.nan)), ("b2", (1.5, math.nan)),
        ("weight_decay", (-0.1, math.inf)), ("eps", (-1e-8, math.nan)), ("clip_begin_step", (-1,)),
        ("clip_norm", (math.nan, math.inf, -1.0)),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(name, bad):
    for value in bad:
        with pytest.raises(ValueError, match=f"{name} is {value}, .*; give a"):
            training.make_optimizer(**{"learning_rate": 1e-3, name: value})


def test_schedules_refuse_rates_that_are_no_rates():
    for rate in (math.nan, math.inf, -1e-3):
        with pytest.raises(ValueError, match=f"learning_rate is {rate}"):
            training.warm_up_schedule(rate, 10)
    with pytest.raises(ValueError, match="end_ratio is -1"):
        training.warm_up_cosine_schedule(1e-3, 1, 10, end_ratio=-1.0)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="clip_norm is 0"):
        training.make_optimizer(1e-3, clip_norm=0)
    with pytest.raises(ValueError, match="cannot be negative"):
        training.warm_up_schedule(1e-3, -1)
    with pytest.raises(ValueError, match="no room"):
        training.warm_up_cosine_schedule(1e-3, 10, 10)
