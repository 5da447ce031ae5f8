"""Distillation: the policy loss and its step, with an exact teacher and with toy networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gmflow_jax import gm, training
from tests.helpers import assert_leaves_close

pytestmark = pytest.mark.usefixtures("fast_compile")
slow = pytest.mark.slow


def exact_apply(params, x_t, t):
    """The mixture over velocity of a network that is exact for data of the mixture `params`."""
    t = t.reshape(-1, *(1,) * (x_t.ndim - 1))
    var, alpha = jnp.exp(2 * params["log_std"]), 1 - t
    spread = t**2 + alpha**2 * var
    means = params["means"].reshape((1,) * (x_t.ndim - 1) + params["means"].shape)
    x_k = x_t[..., None, :]
    logits = params["log_weights"].reshape((1,) * (x_t.ndim - 1) + (-1,))
    logits = logits - jnp.sum((x_k - alpha[..., None] * means) ** 2, axis=-1) / (2 * spread)
    velocity = (x_k * (t - alpha * var)[..., None] - t[..., None] * means) / spread[..., None]
    return gm.GaussianMixture(velocity, jax.nn.log_softmax(logits), 0.5 * jnp.log(var / spread)[..., 0])


EXACT = {
    "means": jnp.asarray([[1.5, 0.2], [-0.8, 1.1], [-0.6, -1.4]]),
    "log_std": jnp.log(0.3),
    "log_weights": jnp.log(jnp.asarray([0.5, 0.3, 0.2])),
}


def exact_teacher(params, x_t, t):
    return gm.mean(exact_apply(params, x_t, t))


def exact_data(num_samples=512):
    q = gm.GaussianMixture(EXACT["means"], EXACT["log_weights"], EXACT["log_std"])
    return gm.sample(jax.random.key(9), q, num_samples)


@pytest.mark.parametrize(
    ("num_calls", "data_free"),
    [(1, False), (2, True)]
    + [pytest.param(*case, marks=slow) for case in ((1, True), (2, False), (4, False), (4, True))],
)
def test_the_exact_student_has_no_loss(num_calls, data_free):
    """Data that are a mixture: the exact network is a perfect policy, with any components dropped or not."""
    loss = jax.jit(training.make_policy_loss(
        exact_apply, exact_teacher, num_calls=num_calls, num_substeps=8, dropout=0.3, data_free=data_free
    ))
    example = training.draw_policy_example(jax.random.key(0), exact_data(), num_calls=num_calls)
    value, (_, bins) = loss(EXACT, example, EXACT)
    assert value < 1e-8  # measured: 1e-10
    assert int(bins["time_bin_count"].sum()) == 2 * 512
    other = EXACT | {"log_std": jnp.log(0.5)}
    assert loss(other, example, EXACT)[0] > 1e-3


def test_a_student_recovers_the_exact_mixture():
    """From a wrong standard deviation, and from wrong means."""
    loss = training.make_policy_loss(exact_apply, exact_teacher, num_calls=1, num_substeps=4)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 400))

    def step(carry, key):
        params, state = carry
        example = training.draw_policy_example(key, exact_data(128), num_calls=1)
        grads = jax.grad(lambda p: loss(p, example, EXACT)[0])(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(0), 400)
    train = jax.jit(lambda start: jax.lax.scan(step, (start, optimizer.init(start)), keys)[0][0])
    for change in ({"log_std": jnp.log(0.5)}, {"means": EXACT["means"] * 0.7 + 0.3}):
        params = train(EXACT | change)
        for name in EXACT:
            found = jax.nn.log_softmax(params[name]) if name == "log_weights" else params[name]
            np.testing.assert_allclose(found, EXACT[name], atol=1e-3)


def numpy_policy(means, log_weights, log_std, x_s, s, x, t):
    """(x - E[x_0]) / t for x_0 ~ q(x_0) p(x | x_0, t) / p(x_s | x_0, s), all of one sample in float64."""
    a, b = (1 - t) / t**2, (1 - s) / s**2
    precision = np.exp(-2 * log_std) + (1 - t) ** 2 / t**2 - (1 - s) ** 2 / s**2
    linear = means * np.exp(-2 * log_std) + (a * x - b * x_s)[..., None, :]
    logits = log_weights + 0.5 * np.sum(
        linear**2 / precision - means**2 * np.exp(-2 * log_std), axis=-1
    )
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (x - np.sum(weights[..., None] * linear, axis=-2) / precision) / t


def numpy_loss(toy, params, path_params, teacher_params, example, num_calls, num_substeps, dropout):
    """One training iteration of pi-Flow for each sample by itself, with the path of `path_params`."""
    values = []
    for i in range(example.s.shape[0]):
        s, one = float(example.s[i]), slice(i, i + 1)
        x_s = (1 - s) * np.float64(example.x_0[i]) + s * np.float64(example.noise[i])

        def predict(params, x, t, one=one):
            u = toy.apply(params, jnp.asarray(x[None]), jnp.asarray(t).reshape(1), example.labels[one])
            return jax.tree.map(lambda a: np.float64(a[0]), u)

        def mixture(params, x_s=x_s, s=s, predict=predict):
            u = predict(params, x_s, s)
            return x_s[..., None, :] - s * u.means, u.log_weights, u.log_std[0, 0] + np.log(s)

        means, log_weights, log_std = mixture(path_params)
        uniform = np.asarray(jax.random.uniform(example.keys[i], (1, 1, means.shape[-2]), jnp.float32))
        kept = log_weights if np.all(uniform < dropout) else np.where(uniform < dropout, -np.inf, log_weights)
        x, t = x_s, s
        for end in np.float64(example.ends[i]):
            h = (end - t) / num_substeps
            for j in range(num_substeps):
                x = x + h * numpy_policy(means, kept, log_std, x_s, s, x, t + j * h)
            t = end
            v = predict(teacher_params, x, t)
            wanted = np.sum(np.exp(v.log_weights)[..., None] * v.means, axis=-2)
            policy = numpy_policy(*mixture(params), x_s, s, x, t)
            values.append(0.5 * np.mean(np.sum((wanted - policy) ** 2, axis=-1)))
    return np.mean(values)


@pytest.mark.parametrize("num_calls", [1, 2])
def test_one_iteration_is_that_of_an_independent_float64_program(toy, x64, num_calls):
    """Its loss, and its gradient by finite differences in a random direction with the path held fixed."""
    networks = [toy.init_params(seed) for seed in (0, 1)]
    params, teacher_params = jax.tree.map(lambda a: a.astype(jnp.float64), networks)
    batch = toy.make_batch(batch_size=6, size=2)
    x_0 = batch["x_0"].astype(np.float64)
    example = training.draw_policy_example(jax.random.key(3), x_0, batch["labels"], num_calls=num_calls)
    example = dataclasses.replace(
        example, s=example.s.astype(jnp.float64), ends=example.ends.astype(jnp.float64)
    )
    loss = training.make_policy_loss(
        toy.apply, training.make_teacher(toy.apply), num_calls=num_calls, num_substeps=6, dropout=0.4
    )
    found, grads = jax.jit(jax.value_and_grad(lambda p: loss(p, example, teacher_params)[0]))(params)

    def expected(moved):
        return numpy_loss(toy, moved, params, teacher_params, example, num_calls, 6 // num_calls, 0.4)

    np.testing.assert_allclose(found, expected(params), rtol=1e-9)
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), params)
    up, down = (expected(jax.tree.map(lambda a, d, e=e: a + e * d, params, direction)) for e in (1e-5, -1e-5))
    slope = jax.tree.reduce(jnp.add, jax.tree.map(lambda g, d: jnp.sum(g * d), grads, direction))
    np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=1e-6)


def make_step(toy, **options):
    optimizer, decay = training.make_optimizer(1e-2), training.constant_decay(0.9)
    options = {"num_calls": 2, "num_substeps": 4, "dropout": 0.3} | options
    teacher = training.make_teacher(toy.apply)
    step = training.make_distillation_step(toy.apply, teacher, optimizer, decay, **options)
    return step, training.init_state(toy.init_params(), optimizer), toy.init_params(1)


@slow
@pytest.mark.parametrize("data_free", [False, True])
def test_a_batch_in_parts_gives_the_step_of_the_whole_batch(toy, data_free):
    """In microbatches, and under pmap on four devices."""
    batch, key = toy.make_batch(), jax.random.key(0)
    results = {}
    for name, options in {"whole": {}, "parts": {"num_microbatches": 4}}.items():
        step, state, teacher_params = make_step(toy, data_free=data_free, **options)
        results[name] = jax.jit(step)(state, batch, key, teacher_params)
    step, state, teacher_params = make_step(toy, data_free=data_free, axis_name="device")
    split = jax.tree.map(lambda a: a.reshape(4, -1, *a.shape[1:]), batch)
    results["pmap"] = jax.pmap(step, "device", in_axes=(None, 0, None, None), out_axes=None)(
        state, split, key, teacher_params
    )
    for name in ("parts", "pmap"):
        assert_leaves_close(results[name][1], results["whole"][1], 1e-5)
        assert_leaves_close(results[name][0].params, results["whole"][0].params, 1e-5)


@slow
def test_an_explicit_mesh_changes_nothing():
    """The mesh of `jax.make_mesh`, where the sharding of an array is part of its type."""

    def gradient(params, x_0):
        loss = training.make_policy_loss(
            exact_apply, exact_teacher, num_calls=2, num_substeps=2, data_free=True
        )
        example = training.draw_policy_example(jax.random.key(0), x_0, num_calls=2)
        return jax.value_and_grad(lambda params: loss(params, example, EXACT)[0])(params)

    start, x_0 = EXACT | {"log_std": jnp.log(0.5)}, exact_data(8)
    expected = jax.jit(gradient)(start, x_0)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        parts = jax.device_put(x_0, jax.NamedSharding(mesh, jax.P("data")))
        found = jax.jit(gradient)(start, parts)
    assert_leaves_close(found, expected, 1e-5)


def test_a_step_depends_on_key_and_step_number_only_and_skips_what_is_not_finite(toy):
    step, state, teacher_params = make_step(toy, num_calls=1)
    step, batch = jax.jit(step), toy.make_batch()
    first, metrics = step(state, batch, jax.random.key(0), teacher_params)
    again, _ = step(state, batch, jax.random.key(0), teacher_params)
    toy.assert_equal(first, again)
    assert float(metrics["time_bin_count"].sum()) == 16  # two times of 8 samples
    other, _ = step(dataclasses.replace(state, step=jnp.int32(1)), batch, jax.random.key(0), teacher_params)
    assert float(jnp.abs(other.params["out"]["bias"] - first.params["out"]["bias"]).max()) > 0
    broken = jax.tree.map(lambda a: a * jnp.nan, teacher_params)
    skipped, metrics = step(state, batch, jax.random.key(0), broken)
    assert int(metrics["skipped"]) == 1 and int(skipped.step) == 1
    toy.assert_equal(skipped.params, state.params)


@pytest.mark.parametrize("method", [pytest.param("probabilistic", marks=slow), "cfg"])
def test_a_guided_teacher_is_guided_inside_its_interval(toy, method):
    scale = {"probabilistic": 0.3, "cfg": 2.0}[method]
    params, x = toy.init_params(), jax.random.normal(jax.random.key(0), (2, 3, 3, 2))
    t, labels = jnp.asarray([0.2, 0.8]), jnp.asarray([1, 2])
    plain = training.make_teacher(toy.apply)(params, x, t, labels)
    guided = training.make_teacher(toy.apply, scale, toy.num_classes, method=method, interval=(0.0, 0.6))
    found = guided(params, x, t, labels)
    np.testing.assert_allclose(found[1], plain[1], atol=1e-5)
    assert float(jnp.abs(found[0] - plain[0]).max()) > 0.01
    if method == "cfg":
        null = training.make_teacher(toy.apply)(params, x, t, jnp.full(2, toy.num_classes))
        np.testing.assert_allclose(found[0], (2 * plain - null)[0], atol=1e-5)


def test_a_border_that_is_rounded_otherwise_is_the_same_border(toy):
    """Starting from noise, samples move on to their own interval, and no further."""
    batch = toy.make_batch()
    loss = jax.jit(training.make_policy_loss(
        toy.apply, training.make_teacher(toy.apply), num_calls=4, num_substeps=4, data_free=True
    ))
    example = training.draw_policy_example(jax.random.key(0), batch["x_0"], batch["labels"], num_calls=4)
    assert len(np.unique(example.s)) == 4
    expected = loss(toy.init_params(), example, toy.init_params(1))[0]
    for direction in (0, 2):
        moved = dataclasses.replace(example, s=jnp.nextafter(example.s, jnp.full(8, direction, jnp.float32)))
        np.testing.assert_allclose(loss(toy.init_params(), moved, toy.init_params(1))[0], expected, rtol=1e-4)


def test_students_and_teachers_of_other_kinds():
    """Half precision, one component, and a plain velocity, which counts as a component of deviation 1."""
    example = training.draw_policy_example(jax.random.key(0), exact_data(16), num_calls=1)
    student = EXACT | {"log_std": jnp.log(0.5)}

    def value(apply, teacher=exact_teacher):
        loss = training.make_policy_loss(apply, teacher, num_calls=1, num_substeps=2)
        return jax.jit(lambda params: loss(params, example, EXACT)[0])(student)

    def half(network):
        return lambda *args: jax.tree.map(lambda a: a.astype(jnp.bfloat16), network(*args))

    found = value(half(exact_apply), half(exact_teacher))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, value(exact_apply), rtol=0.05)
    plain, one = value(exact_teacher), value(lambda *args: gm.Gaussian(exact_teacher(*args), jnp.ones(())))
    np.testing.assert_allclose(plain, one, rtol=1e-6)
    few = lambda *args: exact_teacher(*args)[:8]  # noqa: E731
    for wrong, words in ((exact_apply, "a GaussianMixture"), (few, r"shape \(8, 2\)")):
        with pytest.raises(ValueError, match=f"The teacher returned {words} for points of shape"):
            value(exact_apply, wrong)


def test_options_that_cannot_work_are_refused(toy):
    for options, words in {
        "no call": ({"num_calls": 0}, "num_calls is 0"),
        "half a call": ({"num_calls": 1.5}, "num_calls is 1.5, but must be a whole number"),
        "a text": ({"num_calls": "1"}, "num_calls is '1'"),
        "half a sub-step": ({"num_substeps": 2.5}, "num_substeps must be at least 1, but 2.5"),
        "no sub-step": ({"num_substeps": 0}, "num_substeps must be at least 1"),
        "every component": ({"dropout": 1.0}, "dropout is 1.0"),
        "a shift": ({"shift": 0.0}, "shift must be positive"),
        "no part": ({"num_microbatches": 0}, "num_microbatches is 0"),
    }.values():
        with pytest.raises(ValueError, match=words):
            make_step(toy, **options)
    with pytest.raises(ValueError, match="null label is unknown"):
        training.make_teacher(toy.apply, 0.3)
    guided = training.make_teacher(toy.apply, 0.3, toy.num_classes)
    with pytest.raises(ValueError, match="the batch has no labels, so there is nothing to guide to"):
        guided(toy.init_params(), jnp.ones((2, 3, 3, 2)), jnp.full(2, 0.5))
