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
from tests.helpers import assert_leaves_close
from tests.sharding.layouts import BATCH_SIZE, PARALLEL, PARALLELISMS, assert_lies_as, jit_parallelism


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


# (2, 2) splits both the batch and the state.
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ("(4, 1)", "(1, 4)"))) for n in PARALLEL]
)
def test_a_step_is_the_same_for_every_parallelism(try_out, name):
    alone, trial = try_out("one device"), try_out(name)
    found, expected = (jax.device_get((run.state, run.metrics)) for run in (trial, alone))
    assert_leaves_close(found, expected, 1e-6, smallest_scale=0.0)


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
