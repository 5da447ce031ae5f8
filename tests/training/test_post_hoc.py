"""Post-hoc moving averages against direct averages of the same width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import training

NUM_STEPS, EVERY = 3000, 125
STDS = (0.05, 0.1)


def exact_average(walk, num_steps, std):
    """Sum the parameters after each step in float64, weighted by the profile's integral over the step."""
    edges = (np.arange(num_steps + 1) / num_steps) ** (training.power_gamma(std) + 1)
    return np.diff(edges) @ walk[:num_steps]


@pytest.fixture(scope="module")
def walk():
    """Parameters after each step of a random walk, [steps, 2, 50]."""
    rng = np.random.default_rng(0)
    moves = 0.05 * rng.normal(size=(NUM_STEPS, 100))
    return rng.normal(size=100) + np.cumsum(moves, axis=0)


@pytest.fixture(scope="module")
def stored(walk):
    """(number of steps, std) of each snapshot, and its average as training makes it, in float32."""

    def body(averages, inputs):
        step, params = inputs
        averages = training.update_power_averages(averages, {"w": params}, step, STDS)
        return averages, averages

    inputs = (jnp.arange(NUM_STEPS), jnp.asarray(walk, jnp.float32))
    _, averages = jax.lax.scan(body, ({"w": jnp.full(100, 9.0)},) * len(STDS), inputs)
    steps = range(EVERY, NUM_STEPS + 1, EVERY)
    names = [(step, std) for step in steps for std in STDS]
    return names, [{"w": averages[STDS.index(std)]["w"][step - 1]} for step, std in names]


def error(walk, average, num_steps, std):
    """Return the RMS error relative to the distance between the average and the last parameters."""
    exact = exact_average(walk, num_steps, std)
    distance = np.sqrt(np.mean(np.square(exact - walk[num_steps - 1])))
    return np.sqrt(np.mean(np.square(average["w"] - exact))) / distance


@pytest.mark.parametrize("gamma", [0.0, 1.0, 6.94, 16.97, 1e4])
def test_width_is_the_standard_deviation_of_the_profile(gamma):
    # By brute force: the density of u = tau / t, where u ** (gamma + 1) is uniform.
    u = ((np.arange(1_000_000) + 0.5) / 1_000_000) ** (1 / (gamma + 1))
    assert training.power_std(gamma) == pytest.approx(u.std(), rel=1e-4)
    assert training.power_gamma(training.power_std(gamma)) == pytest.approx(gamma, rel=1e-9, abs=1e-9)


def test_widths_of_edm2():
    assert training.power_std(6.94) == pytest.approx(0.1, abs=5e-5)
    assert training.power_std(16.97) == pytest.approx(0.05, abs=5e-5)


def test_running_averages_have_the_exact_weights(walk, stored):
    for (step, std), average in zip(*stored, strict=True):
        assert error(walk, average, step, std) < 2e-6


def test_a_stored_average_is_returned_as_it_is(stored):
    names, averages = stored
    for index in (0, len(names) // 2, len(names) - 1):
        weights = training.post_hoc_weights(names, *names[index])
        np.testing.assert_allclose(weights, np.eye(len(names))[index], rtol=0, atol=1e-11)
        assert training.post_hoc_residual(names, weights, *names[index]) < 1e-7
        rebuilt = training.combine(averages, weights)
        np.testing.assert_allclose(rebuilt["w"], averages[index]["w"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("num_steps", "std", "tolerance"),
    [
        (NUM_STEPS, 0.03, 6e-3), (NUM_STEPS, 0.06, 2e-4), (NUM_STEPS, 0.08, 1.5e-4),
        (NUM_STEPS, 0.15, 2e-4), (NUM_STEPS, 0.2, 1.5e-3), (NUM_STEPS // 2, 0.08, 1e-3),
    ],
)  # fmt: skip
def test_other_widths_follow_the_direct_average(walk, stored, num_steps, std, tolerance):
    """Within 1.4 times the measured errors, which fall as more snapshots are stored."""
    names, averages = stored
    weights = training.post_hoc_weights(names, num_steps, std)
    assert weights.dtype == np.float64
    assert error(walk, training.combine(averages, weights), num_steps, std) < tolerance


@pytest.mark.parametrize(
    ("num_steps", "std"), [(NUM_STEPS, 0.2), (NUM_STEPS, 0.01), (NUM_STEPS - 60, 0.08)]
)
def test_residual_is_the_distance_of_the_exact_profiles(stored, num_steps, std):
    names, _ = stored
    one_hot = np.eye(NUM_STEPS)  # its averages are the profiles themselves
    profiles = np.stack([exact_average(one_hot, *name) for name in names])
    wanted = exact_average(one_hot, num_steps, std)
    weights = training.post_hoc_weights(names, num_steps, std)
    distance = np.linalg.norm(weights @ profiles - wanted) / np.linalg.norm(wanted)
    residual = training.post_hoc_residual(names, weights, num_steps, std)
    assert residual == pytest.approx(distance, rel=1e-3)


def test_parameters_that_do_not_change_are_kept():
    names = [(step, 0.1) for step in (500, 1000)]  # far too few for this width
    weights = training.post_hoc_weights(names, 1000, 0.02)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert training.post_hoc_residual(names, weights, 1000, 0.02) > 0.4


def test_snapshots_are_read_one_after_the_other():
    tree = {"a": [jnp.ones(3)], "b": np.full((2, 2), 10.0, jnp.bfloat16)}
    total = training.combine((tree for _ in range(3)), np.array([1.0, 0.5, 0.25]))
    np.testing.assert_array_equal(total["a"][0], 1.75)
    np.testing.assert_array_equal(total["b"], 17.5)
    assert total["a"][0].dtype == total["b"].dtype == np.float32


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: training.power_gamma(0.0), "lie above 0"),
        (lambda: training.power_gamma(0.3), "up to 0.2887"),
        (lambda: training.power_std(-0.1), "exponents from 0 on"),
        (lambda: training.power_std(float("inf")), "exponents from 0 on"),
        (lambda: training.update_power_averages((0.0,), 1.0, 0, STDS), "1 averages for 2"),
        (lambda: training.post_hoc_weights([(100, 0.1)], 101, 0.1), "reach step 100"),
        (lambda: training.post_hoc_weights([(100, 0.1)], 0, 0.1), "average at step 0"),
        (lambda: training.post_hoc_weights([(0, 0.1), (9, 0.1)], 5, 0.1), "before step 1"),
        (lambda: training.post_hoc_weights([], 10, 0.1), "0 snapshots"),
        (lambda: training.post_hoc_weights([(100, 0.5)], 100, 0.1), "up to 0.2887"),
        (lambda: training.combine([np.ones(2)], [1.0, 2.0]), "fewer snapshots"),
        (lambda: training.combine([np.ones(2)] * 2, [1.0]), "more snapshots"),
    ],
)
def test_bad_arguments_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
