"""FSDP and pmap: batches, states and steps equal those of one device."""

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import sharding, training
from tests.helpers import assert_leaves_close, fast_compilation

BATCH_SIZE = 16


def jit_parallelism(data, fsdp, devices=None):
    # The toy's arrays are small: the limit is lowered, so that most are split.
    return sharding.JitParallelism(sharding.make_mesh(data, fsdp, devices), min_sharded_size=8)


PARALLELISMS = {
    "one device": lambda: jit_parallelism(1, 1, jax.devices()[:1]),
    "(2, 2)": lambda: jit_parallelism(2, 2),
    "(4, 1)": lambda: jit_parallelism(4, 1),
    "(1, 4)": lambda: jit_parallelism(1, 4),
    "pmap": sharding.PmapParallelism,
}
PARALLEL = list(PARALLELISMS)[1:]


class BlockToy:
    """The toy network with one layer named `blocks`, so that it is stored and gathered as blocks are."""

    def __init__(self, toy):
        self._toy = toy
        self._schedule = training.warm_up_schedule(1e-2, 2)
        self._optimizer = training.make_optimizer(self._schedule, clip_norm=1.0)
        self.batch = toy.make_batch(batch_size=BATCH_SIZE)

    @property
    def apply(self):
        return lambda params, *inputs: self._toy.apply(params | params["blocks"], *inputs)

    def init(self):
        params = self._toy.init_params()
        params["blocks"] = {"hidden": params.pop("hidden")}
        return training.init_state(params, self._optimizer, num_power_averages=1)

    def make_step(self, parallelism):
        return training.make_train_step(
            self.apply,
            self._optimizer,
            training.ramp_up_decay(1e4, BATCH_SIZE),
            num_classes=self._toy.num_classes,
            power_stds=(0.1,),
            learning_rate=self._schedule,
            axis_name=parallelism.axis_name,
            working_copy=parallelism.working_copy,
        )


    def make_distillation_step(self, parallelism, dtype):
        """In two microbatches, from noise in two calls, with a guided teacher."""

        def apply(params, x_t, t, labels):
            return self.apply(*jax.tree.map(lambda a: a.astype(dtype), (params, x_t, t)), labels)

        return training.make_distillation_step(
            apply,
            training.make_teacher(self.apply, 0.3, self._toy.num_classes),
            self._optimizer,
            training.ramp_up_decay(1e4, BATCH_SIZE),
            num_calls=2,
            num_substeps=4,
            dropout=0.3,
            data_free=True,
            power_stds=(0.1,),
            num_microbatches=2,
            axis_name=parallelism.axis_name,
            working_copy=parallelism.working_copy,
        )


@dataclass(frozen=True)
class Trial:
    """A parallelism, its compiled step, and what the first step made of the initial state."""

    parallelism: sharding.Parallelism
    abstract: training.TrainState
    step: Any
    first: training.TrainState
    state: training.TrainState
    metrics: dict[str, jax.Array]
    num_compiled: int


@contextlib.contextmanager
def compilations():
    """Yield a list that gets one entry for each program that XLA compiles."""
    found = []

    def listen(event, seconds, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(details)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="module")
def block_toy(toy):
    return BlockToy(toy)


@pytest.fixture(scope="module")
def few_optimisations():
    with fast_compilation(fusion_emitters=True):
        yield


@pytest.fixture(scope="module")
def try_out(block_toy, few_optimisations):
    """try_out(name): a Trial, compiled once for each parallelism."""

    @functools.cache
    def make(name):
        parallelism = PARALLELISMS[name]()
        abstract = parallelism.abstract(block_toy.init)
        whole = jax.eval_shape(lambda: block_toy.batch)
        compiled = parallelism.compile(block_toy.make_step(parallelism), abstract, whole)
        key = parallelism.replicate(jax.random.key(0))

        def step(state):
            return compiled(state, parallelism.put(block_toy.batch, BATCH_SIZE), key)

        first = parallelism.init(block_toy.init)
        with compilations() as found:
            state, metrics = step(first)
        return Trial(parallelism, abstract, step, first, parallelism.portable(state), metrics, len(found))

    return make


def assert_lies_as(tree, abstract):
    def check(x, wanted):
        assert x.sharding.mesh == wanted.sharding.mesh
        assert x.sharding.is_equivalent_to(wanted.sharding, x.ndim), (x.sharding, wanted.sharding)

    jax.tree.map(check, tree, abstract)


@pytest.mark.parametrize("name", PARALLELISMS)
def test_rows_are_the_whole_batch_in_order(name):
    # This process has all devices; tests/experiments/test_multihost.py has several processes.
    np.testing.assert_array_equal(PARALLELISMS[name]().rows(BATCH_SIZE), np.arange(BATCH_SIZE))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("sizes", [(2, 2), (4, 1), (1, 4)])
def test_put_splits_the_batch_over_all_devices(block_toy, sizes, order):
    parallelism, batch = jit_parallelism(*sizes, jax.devices()[::order]), block_toy.batch
    placed = parallelism.put(batch, BATCH_SIZE)
    for column in ("x_0", "labels"):
        np.testing.assert_array_equal(placed[column], batch[column])
        shards = {shard.device: shard for shard in placed[column].addressable_shards}
        for i, device in enumerate(parallelism.mesh.devices.flat):
            np.testing.assert_array_equal(shards[device].data, batch[column][4 * i : 4 * i + 4])


def test_put_of_pmap_gives_each_device_the_next_rows(block_toy):
    placed = sharding.PmapParallelism().put(block_toy.batch, BATCH_SIZE)
    for column, rows in block_toy.batch.items():
        assert placed[column].shape == (4, 4, *rows.shape[1:])
        np.testing.assert_array_equal(np.concatenate(placed[column]), rows)


@pytest.mark.parametrize("name", PARALLEL)
def test_the_initial_state_is_the_same_for_every_parallelism(toy, block_toy, name, few_optimisations):
    parallelism = PARALLELISMS[name]()
    state = parallelism.init(block_toy.init)
    toy.assert_equal(state, jax.jit(block_toy.init)())
    assert_lies_as(state, parallelism.abstract(block_toy.init))
    in_shards = [not x.sharding.is_fully_replicated for x in jax.tree.leaves(state.params)]
    assert any(in_shards) == (name != "pmap")


@pytest.mark.parametrize("name", PARALLEL)
def test_a_step_is_the_same_for_every_parallelism(try_out, name):
    alone, trial = try_out("one device"), try_out(name)
    found, expected = (jax.device_get((run.state, run.metrics)) for run in (trial, alone))
    assert_leaves_close(found, expected, 1e-6, smallest_scale=0.0)


@pytest.fixture(scope="module")
def distil(toy, block_toy, few_optimisations):
    """distil(name, dtype): parameters, average and metrics after one step of distillation."""

    @functools.cache
    def make(name, dtype):
        parallelism = PARALLELISMS[name]()
        teacher_params = toy.init_params(1)
        teacher_params["blocks"] = {"hidden": teacher_params.pop("hidden")}
        teacher_params = parallelism.place(jax.device_get(teacher_params))
        whole = jax.eval_shape(lambda: block_toy.batch)
        step = parallelism.compile(
            block_toy.make_distillation_step(parallelism, dtype),
            parallelism.abstract(block_toy.init),
            whole,
            teacher_params,
        )
        batch = parallelism.put(block_toy.batch, BATCH_SIZE)
        key = parallelism.replicate(jax.random.key(0))
        state, metrics = step(parallelism.init(block_toy.init), batch, key, teacher_params)
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(teacher_params))
        assert_lies_as(parallelism.portable(state), parallelism.abstract(block_toy.init))
        return jax.device_get((state.params, state.ema_params, metrics))

    return make


_SOME = [PARALLEL[0], *(pytest.param(name, marks=pytest.mark.slow) for name in PARALLEL[1:])]


@pytest.mark.parametrize("name", _SOME)
def test_a_step_of_distillation_is_the_same_for_every_parallelism(distil, name):
    assert_leaves_close(distil(name, "float32"), distil("one device", "float32"), 1e-5)


@pytest.mark.slow
def test_a_step_of_distillation_in_half_precision_is_the_same_up_to_its_rounding(distil):
    found, expected = distil("(2, 2)", "bfloat16"), distil("one device", "bfloat16")
    assert_leaves_close(found, expected, float(jnp.finfo(jnp.bfloat16).eps))


def test_init_takes_constants(toy):
    """Such as a teacher's parameters, from which a student starts."""
    for name in ("(2, 2)", "pmap"):
        parallelism = PARALLELISMS[name]()
        placed = parallelism.place(jax.device_get(toy.init_params(1)))
        state = parallelism.init(lambda params: jax.tree.map(lambda a: 2 * a, params), placed)
        assert_lies_as(state, parallelism.abstract(lambda params: params, placed))
        toy.assert_equal(state, jax.tree.map(lambda a: 2 * a, toy.init_params(1)))


@pytest.mark.parametrize("name", PARALLELISMS)
def test_a_step_donates_the_state_and_keeps_its_sharding(try_out, name):
    trial = try_out(name)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(trial.first))
    assert_lies_as(trial.state, trial.abstract)
    assert all(metric.sharding.is_fully_replicated for metric in trial.metrics.values())


@pytest.mark.parametrize(("old", "new"), [("(2, 2)", "pmap"), ("pmap", "(1, 4)"), ("(4, 1)", "one device")])
def test_a_checkpoint_resumes_under_another_parallelism(toy, try_out, tmp_path, old, new):
    state, trial = try_out(old).state, try_out(new)
    with training.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save_state(state)
        restored, _ = checkpointer.restore_latest(trial.abstract)
    toy.assert_equal(restored, state)
    assert_lies_as(restored, trial.abstract)
    assert int(trial.step(restored)[0].step) == 2


@pytest.mark.parametrize("name", PARALLELISMS)
def test_a_step_is_compiled_once_for_states_of_its_own_and_portable_ones(try_out, name):
    trial = try_out(name)
    assert trial.num_compiled == (1 if name == "pmap" else 0)  # the others are compiled ahead
    state = jax.tree.map(jnp.copy, trial.state)
    with compilations() as found:
        for _ in range(2):
            state, _ = trial.step(state)
    assert not found
    assert int(state.step) == 3


@pytest.mark.parametrize("name", PARALLELISMS)
def test_replicate_takes_keys_too(name):
    parallelism = PARALLELISMS[name]()
    tree = {"key": jax.random.key(3), "keys": jax.random.split(jax.random.key(4), 5)}
    placed = parallelism.replicate(tree | {"rows": np.arange(6)})
    for x in placed.values():
        assert x.sharding.is_equivalent_to(parallelism.replicated, x.ndim)
    for which, key in tree.items():
        assert placed[which].dtype == key.dtype
        np.testing.assert_array_equal(jax.random.key_data(placed[which]), jax.random.key_data(key))
    np.testing.assert_array_equal(placed["rows"], np.arange(6))


def test_make_parallelism_by_name():
    parallelism = sharding.make_parallelism("jit", data=-1, fsdp=2)
    assert dict(parallelism.mesh.shape) == {"data": 2, "fsdp": 2}
    assert parallelism.axis_name is None
    for data in (-1, 4):
        parallelism = sharding.make_parallelism("pmap", data=data)
        assert isinstance(parallelism, sharding.PmapParallelism)
        assert parallelism.mesh.size == 4
    params = {"kernel": jnp.ones((2, 2))}
    assert parallelism.working_copy(params) is params


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: sharding.make_parallelism("pjit"), "parallel is 'pjit'; give 'jit' or 'pmap'"),
        (
            lambda: sharding.make_parallelism("pmap", fsdp=2),
            "data = -1 and fsdp = 2 was asked for; leave it out",
        ),
        (lambda: sharding.make_parallelism("pmap", data=2), "only splits the batch, over all 4 devices"),
        (lambda: sharding.make_parallelism("jit", data=3), "there are 4 devices"),
        (lambda: sharding.JitParallelism(sharding.make_mesh()).rows(6), "6 cannot be split over 4 devices"),
        (lambda: sharding.PmapParallelism().rows(6), "6 cannot be split over 4 devices"),
        (lambda: sharding.PmapParallelism().rows(0), "give a multiple"),
    ],
)
def test_impossible_options_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
