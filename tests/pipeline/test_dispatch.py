"""Sampling is one program: compiled once, called once, without transfers in between."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, pipeline


@pytest.fixture
def programs(pipe, monkeypatch):
    """The names of the pipeline's compiled functions in the order of their calls; transfers raise errors."""
    called = []
    compiled = pipe._compile

    def watched(recipe):
        run = compiled(recipe)
        for name in ("_start", "_step", "_sample"):
            monkeypatch.setattr(run, name, _watch(getattr(run, name), name, called))
        return run

    monkeypatch.setattr(pipe, "_compile", watched)
    return called


def _watch(function, name, called):
    function = getattr(function, "__wrapped_by_test__", function)

    def call(*arguments):
        called.append(name)
        with jax.transfer_guard_host_to_device("disallow"), jax.transfer_guard_device_to_host("disallow"):
            return function(*arguments)

    call.__wrapped_by_test__ = function
    return call


def test_a_batch_is_one_call_or_one_for_each_step_with_a_progress_bar(pipe, programs):
    asked = {"num_steps": 3, "num_substeps": 1, "decode": False}
    at_once = pipe([0, 5, 1, 2, 3], batch_size=4, progress=False, **asked)
    assert programs == ["_sample"] * 2
    programs.clear()
    stepwise = pipe([0, 5, 1, 2, 3], batch_size=4, progress=True, **asked)
    assert programs == ["_start", "_step", "_step", "_step"] * 2
    np.testing.assert_allclose(stepwise, at_once, atol=1e-4)


def test_the_transfer_guard_detects_transfers_to_a_device():
    with jax.transfer_guard_host_to_device("disallow"), pytest.raises(Exception, match=r"[Dd]isallowed"):
        jnp.add(np.ones(3, np.float32), 1.0)


def test_one_program_serves_all_scales_seeds_labels_and_times(bundle):
    sampler = pipeline.Sampler(bundle, pipeline.Recipe(num_substeps=1))
    params = {"model": bundle.params}
    sample = jax.jit(sampler.sample)
    results = []
    for seed, labels, scale, times in (
        (0, [1, 2], 0.3, sampler.times(2)),
        (1, [1, 2], 0.3, sampler.times(2)),
        (0, [3, 9], 0.3, sampler.times(2)),
        (0, [1, 2], 0.6, sampler.times(2)),
        (0, [1, 2], 0.3, flow.time_grid(2, 2.0)),
    ):
        keys = jax.random.split(jax.random.key(seed), 2)
        results.append(sample(params, keys, jnp.asarray(labels), jnp.float32(scale), times))
    assert sample._cache_size() == 1
    changes = [np.abs(np.asarray(result - results[0])).max() for result in results[1:]]
    assert min(changes) > 1e-3


def test_guidance_in_one_batch_equals_two_calls(bundle):
    """Of classes: for "no class" both predictions are equal, and guidance magnifies their rounding."""
    keys, labels = jax.random.split(jax.random.key(3), 3), jnp.asarray([0, 5, 9])
    found = []
    for one_batch in (True, False):
        sampler = pipeline.Sampler(bundle, pipeline.Recipe(num_substeps=1, one_batch=one_batch))
        arguments = ({"model": bundle.params}, keys, labels, jnp.float32(0.4), sampler.times(2))
        found.append(jax.jit(sampler.sample)(*arguments))
    np.testing.assert_allclose(*found, atol=1e-5)
