"""A step of distillation, and a state made of a teacher's parameters, are the same for every parallelism."""

import functools

import jax
import jax.numpy as jnp
import pytest

from gmflow_jax import training
from tests.helpers import assert_leaves_close
from tests.sharding.layouts import BATCH_SIZE, PARALLEL, PARALLELISMS, assert_lies_as


def make_step(block_toy, teacher, parallelism, dtype, data_free):
    """A step in two microbatches for two calls."""

    def apply(params, x_t, t, labels):
        return block_toy.apply(*jax.tree.map(lambda a: a.astype(dtype), (params, x_t, t)), labels)

    return training.make_distillation_step(
        apply,
        teacher,
        block_toy.optimizer,
        training.ramp_up_decay(1e4, BATCH_SIZE),
        num_calls=2,
        num_substeps=4,
        dropout=0.3,
        data_free=data_free,
        power_stds=(0.1,),
        num_microbatches=2,
        axis_name=parallelism.axis_name,
        working_copy=parallelism.working_copy,
    )


@pytest.fixture(scope="module")
def distil(toy, block_toy, few_optimisations):
    """distil(name, dtype, guided, data_free): parameters, average and metrics after one step."""

    @functools.cache
    def make(name, dtype, guided=False, data_free=False):
        teacher = training.make_teacher(block_toy.apply, *((0.3, toy.num_classes) if guided else ()))
        parallelism = PARALLELISMS[name]()
        teacher_params = toy.init_params(1)
        teacher_params["blocks"] = {"hidden": teacher_params.pop("hidden")}
        teacher_params = parallelism.place(jax.device_get(teacher_params))
        whole = jax.eval_shape(lambda: block_toy.batch)
        step = parallelism.compile(
            make_step(block_toy, teacher, parallelism, dtype, data_free),
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


@pytest.mark.slow
@pytest.mark.parametrize("name", PARALLEL)
def test_a_step_of_distillation_is_the_same_for_every_parallelism(distil, name):
    assert_leaves_close(distil(name, "float32"), distil("one device", "float32"), 1e-5)


@pytest.mark.slow
def test_a_step_of_distillation_in_half_precision_is_the_same_up_to_its_rounding(distil):
    found, expected = (distil(name, "bfloat16", True, True) for name in ("(2, 2)", "one device"))
    assert_leaves_close(found, expected, float(jnp.finfo(jnp.bfloat16).eps))


def test_init_takes_constants(toy):
    """Such as a teacher's parameters, from which a student starts."""
    for name in ("(2, 2)", "pmap"):
        parallelism = PARALLELISMS[name]()
        placed = parallelism.place(jax.device_get(toy.init_params(1)))
        state = parallelism.init(lambda params: jax.tree.map(lambda a: 2 * a, params), placed)
        assert_lies_as(state, parallelism.abstract(lambda params: params, placed))
        toy.assert_equal(state, jax.tree.map(lambda a: 2 * a, toy.init_params(1)))
