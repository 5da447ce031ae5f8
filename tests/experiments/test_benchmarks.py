"""The benchmarks: their harness with a simulated clock, and each program once with the smallest sizes."""

import dataclasses
import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import report, timing
from experiments.common import cli
from gmflow_jax import flow, gm, models

_TINY = ("--network=tiny", "--input_size=4", "--num_components=2")


@pytest.fixture
def measured(run_main, tmp_path):
    """measured(name, *arguments): run a benchmark; return the rows that it writes, and its module."""

    def run(name, *arguments):
        out = tmp_path / f"{name}.json"
        run_main(f"benchmarks.{name}", "--seconds=0", f"--out={out}", *arguments)
        content = json.loads(out.read_text())
        assert content["benchmark"] == name and content["settings"]["seconds"] == 0
        assert content["environment"]["platform"] == "cpu"
        assert all(math.isfinite(value) for row in content["rows"] for value in _figures(row))
        return content["rows"], sys.modules[f"experiments.benchmarks.{name}"]

    return run


def _figures(row):
    for value in row.values():
        if isinstance(value, dict):
            assert value["low"] <= value["median"] <= value["high"]
            yield from value.values()
        elif isinstance(value, (int, float)):
            yield value


class Clock:
    """A simulated clock, which only calls advance, each by a known time."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def call(self, name, seconds):
        def run():
            self.calls.append(name)
            self.now += seconds if len(self.calls) > 2 else 10 * seconds

        return run


def test_calls_are_measured_in_alternation():
    clock = Clock()
    calls = {"long": clock.call("long", 0.5), "short": clock.call("short", 0.0005)}
    timings = timing.measure(calls, 6.0, clock)
    # A first call and one to warm up, then rounds with the short call repeated until it takes 2 ms.
    one_round = ["long", "short", "short", "short", "short"]
    assert clock.calls == ["long", "long", "short", "short", *12 * one_round]
    assert timings.first == pytest.approx({"long": 5.0, "short": 0.0005})
    assert timings.seconds("long") == pytest.approx((0.5, 0.5, 0.5))
    assert timings.seconds("short").median == pytest.approx(0.0005)


def test_there_are_five_rounds_at_least():
    clock = Clock()
    assert timing.measure({"slow": clock.call("slow", 9.0)}, 1.0, clock).rounds["slow"].shape == (5,)


def test_ratios_compare_calls_of_the_same_round():
    """A machine that slows both calls of a round by one factor does not change their ratio."""
    slow = np.array([1.0, 8.0, 1.0, 3.0, 1.0])
    timings = timing.Timings({}, {"a": 3 * slow, "b": 2 * slow})
    assert timings.ratio("a", "b") == pytest.approx((1.5, 1.5, 1.5))
    assert timings.ratio("a", "b").scaled(100, -100).median == pytest.approx(50)
    assert timings.seconds("a") == (3.0, 3.0, 9.0)


def test_the_table_has_a_column_for_every_field():
    rows = [{"name": "a", "ms": timing.Quartiles(0.5, 1.0, 2.0)}, {"name": "b", "count": 12345, "ms": None}]
    assert report.table(rows).splitlines() == [
        "| name | ms           | count  |",
        "|------|--------------|--------|",
        "| a    | 1 (0.5 to 2) |        |",
        "| b    |              | 12,345 |",
    ]


def test_gm_ops_benchmark(measured):
    sizes = ("--input_size=4", "--num_components=3", "--in_channels=2")
    rows, gm_ops = measured("gm_ops", "--batch_size=2", *sizes)
    assert len(rows) == 14 and rows[0]["shape"] == "[2, 4, 4, 3, 2]"
    table = {row["operation"]: row for row in rows}
    means, log_weights, log_std, x, t = 192, 96, 2, 64, 2
    mixture = means + log_weights + log_std
    assert table["posterior"]["bytes"] == 4 * (2 * mixture + 2 * x + 2 * t)
    assert table["posterior mean"]["bytes"] == 4 * (mixture + 3 * x + 2 * t)
    assert table["mean"]["bytes"] == 4 * (mixture + x)
    assert table["transition loss and gradient"]["bytes"] == 4 * (2 * mixture + 2 * x + 2 * t + 1)
    for row in rows:
        assert row["gb_per_s"] == pytest.approx(row["bytes"] / row["ms"]["median"] / 1e6)
    _check_layouts(gm_ops)


def _check_layouts(gm_ops):
    """Check that every order of axes computes the library's mean of the posterior."""
    first, *others = (
        (operation.function(*operation.arguments), operation.arguments)
        for operation in gm_ops.layouts((2, 4, 4, 3, 2))
    )
    means, log_weights, x_t, x_s, var, t, s = first[1]
    q = gm.GaussianMixture(means, log_weights, 0.5 * jnp.log(var))
    expected = gm.mean(flow.posterior(q, x_t, t, x_s, s))
    for found in (first[0], others[0][0], jnp.moveaxis(others[1][0], 0, -1)):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_solver_overhead_benchmark(measured):
    steps = ("--batch_size=2", "--num_steps=2", "--num_substeps=2")
    names = ["gm_ode 2", "gm_sde 2 spectrum", "heun"]
    rows, program = measured("solver_overhead", *_TINY, *steps, f"--solvers={','.join(names)}")
    assert [row["solver"] for row in rows] == names
    assert [row["forwards"] for row in rows] == [2, 2, 4]
    for row in rows:
        share, step = row["of_forward_percent"]["median"], row["of_step_percent"]["median"]
        assert step == pytest.approx(share / row["forwards"])
    _check_that_too_slow_networks_are_cut(program)


def _check_that_too_slow_networks_are_cut(program):
    config = models.gm_dit_config("DiT-XL/2")
    assert program.reduce_depth(config, 1, 1e9, 1e12) == config
    assert program.reduce_depth(config, 1, 0.0, 1e12).depth == 2
    half = dataclasses.replace(config, depth=14)
    seconds = 10 * 4 * models.forward_flops(half) / 0.5e12
    assert program.reduce_depth(config, 4, 1.001 * seconds, 1e12) == half


def test_train_step_benchmark(measured):
    (row,), program = measured("train_step", *_TINY, "--batch_size=4", "--steps=gmflow")
    assert (row["step"], row["remat"], row["batch_size"]) == ("gmflow", "none", 4)
    assert row["images_per_s"] == pytest.approx(4 / row["ms"]["median"] * 1e3)
    config = models.GMDiTConfig(
        input_size=4, hidden_size=16, depth=2, num_heads=2, log_std_dim=8, num_components=2
    )
    operations = 3 * 4 * models.forward_flops(config)
    assert row["tflop_per_s"] == pytest.approx(operations / row["ms"]["median"] / 1e9)
    assert row["temp_gb"] > 0 and row["compile_s"] > 0 and row["overhead_percent"] is None
    _check_the_plain_steps(program)
    _check_the_search_for_the_largest_batch(program)


def _check_the_plain_steps(program):
    for step, num_components in (("flow", 1), ("flow_k", 2)):
        config = program.make_config(step, "dots", 8)
        assert config.loss.loss == "flow" and config.spectrum is None and config.batch_size == 8
        assert config.network.num_components == num_components and config.network.remat == "dots"


def _check_the_search_for_the_largest_batch(program):
    assert program.largest_batch(lambda n: n <= 100, 8) == 64
    assert program.largest_batch(lambda n: n <= 100, 128) == 128

    def too_large():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    assert program.none_if_out_of_memory(too_large) is None and program.none_if_out_of_memory(lambda: 3) == 3


@pytest.fixture
def keep_cache_setting(monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # for the processes that are started
    yield
    jax.config.update("jax_enable_compilation_cache", True)


def test_sampling_benchmark(measured, keep_cache_setting):
    rows, program = measured("sampling", *_TINY, "--solver=euler", "--batch_size=2", "--num_steps=2")
    assert [row["measured"] for row in rows] == ["pipeline", "sampler", "network"]
    for row in rows:
        assert row["images_per_s"] == pytest.approx(2 / row["s"]["median"])
        assert row["ms_per_step"]["median"] == pytest.approx(500 * row["s"]["median"])
    assert all(row["trace_s"] > 0 and row["lower_s"] > 0 and row["compile_s"] > 0 for row in rows[1:])
    assert rows[0]["first_s"] > 0 and rows[0]["first_cached_s"] > 0
    _check_that_the_network_alone_is_called_as_often(program)


def _check_that_the_network_alone_is_called_as_often(program):
    config = models.GMDiTConfig()
    for solver, guided, calls in (("heun", True, 20), ("heun", False, 10), ("gm_ode", True, 10)):
        job = program.Job(config, program.pipeline.Recipe(solver, guided=guided), 0.3, 5, 1, False)
        assert job.calls == job.network_alone().calls == calls


def test_data_benchmark(measured):
    rows, _ = measured("data", "--num_records=20", "--num_shards=3", "--num_threads=0,1",
                       "--global_batch_size=8", "--num_hosts=2", "--steps_per_second=4")  # fmt: skip
    assert [row["container"] for row in rows[:5]] == ["floor", *2 * ["npy"], *2 * ["array_record"]]
    assert [row["threads"] for row in rows[:5]] == [None, 0, 1, 0, 1]
    for row in rows:
        assert row["steps_per_s"] == pytest.approx(row["records_per_s"] / 4)
        assert row["of_needed"] == pytest.approx(row["steps_per_s"] / 4)


@pytest.mark.parametrize(
    ("name", "argument", "said"),
    [
        ("gm_ops", "--batch_size=0", "batch_size holds '0'; give whole numbers from 1"),
        ("gm_ops", "--out=rows.txt", r"must end in \.json"),
        ("solver_overhead", "--network=DiT-M/2", "no network called 'DiT-M/2'"),
        ("solver_overhead", "--solvers=rk4", "no solver 'rk4' here; give some of: gm_ode 2"),
        ("train_step", "--batch_size=auto", "give a number on a CPU"),
        ("train_step", "--batch_size=many", "give a whole number, or auto"),
        ("train_step", "--batch_size=3", "cannot be split over 4 devices"),
        ("train_step", "--remat=none,all", "remat is 'all'"),
        ("train_step", "--steps=", "nothing to measure"),
        ("train_step", "--steps=l1", "no step 'l1'; give some of gmflow"),
        ("sampling", "--order=3", "order must be 1 or 2"),
        ("data", "--folder=/nonexistent", "no folder /nonexistent; make it"),
        ("data", "--global_batch_size=8", "8 images cannot be split over 16 hosts"),
    ],
)
def test_bad_input_is_refused(run_main, name, argument, said):
    with pytest.raises(cli.UserError, match=said):
        run_main(f"benchmarks.{name}", argument)
