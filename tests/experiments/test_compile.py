"""The program that compiles for devices that are not here, as far as it needs no compiler for them."""

import dataclasses
import importlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from experiments.common import cli
from experiments.compiler import memory, programs, report, targets
from experiments.compiler.program import compile_program

_DIGITS, _LATENTS = (f"experiments/configs/{name}.py" for name in ("digits", "imagenet256_gmdit_s_k8"))
_REFUSED = [
    ((), "--config and --target are needed"),
    (("--target=v4-9",), r"no slice v4-9\. Those of v4 are v4-8, v4-16, .*TensorCores"),
    (("--target=v5litepod-7",), r"no slice v5litepod-7\. Those of v5e are v5e-1, v5e-4, v5e-8, .*chips"),
    (("--target=v7-8",), r"no target 'v7-8'\. Give v4-N, v5e-N, v5p-N, v6e-N, .*h200, h100, a100"),
    (("--target=v4-8", "--num_devices=4"), "--num_devices is for GPUs"),
    (("--target=a100", "--num_devices=0"), "--num_devices is 0.*give 1 to 8"),
    (("--target=h100", "--num_devices=9"), "--num_devices is 9.*give 1 to 8"),
    (("--target=v5e-8", "--program=run"), "no program 'run'.*train, sample, decode, inception"),
    (("--target=v5e-256",), "batch of 64 cannot be split over 256 devices of v5e-256; .*multiple of 256"),
    (("--target=v5e-8", "--batch_size=12"), "batch of 12 cannot be split over 8 devices"),
    (("--target=v5e-8", "--batch_size=0"), "batch of 0 cannot be split"),
    (("--target=v5e-8", "--batch_size=2147483648"), "2147483648 is too large .* at most 2147483647"),
    (("--target=v5e-8", "--config.num_microbatches=1000000000", "--batch_size=auto"), "at most 268435455"),
    (("--target=v5e-8", "--config.mesh.fsdp=3"), "fsdp = 3 was asked for, but there are 8 devices"),
    (("--target=v5e-8", "--config.ema.kind=moving"), "ema.kind is 'moving'"),
    (("--target=v5e-8", "--batch_size=many"), "--batch_size is 'many'; give a whole number or auto"),
    (("--target=h100", "--num_devices=3", "--program=sample", "--batch_size=8"), "8 cannot be split over 3"),
    (("--target=v5e-8", "--config.num_microbatches=3"), "in 3 microbatches; .*multiple of 24"),
    (("--target=v5e-8", "--config.num_microbatches=0", "--batch_size=auto"), "num_microbatches is 0"),
    (("--target=v5e-8", "--config.parallel=pmap"), "config.parallel is 'pmap'"),
    (("--target=v5e-8", "--config.task=cats"), "no task 'cats'"),
    (("--target=v5e-8", "--config.network.num_heads=5"), "must be divisible by num_heads 5"),
    (("--target=v5e-8", "--program=sample", "--solver=rk4"), "no solver 'rk4'"),
    (("--target=v5e-8", "--program=sample", "--order=3"), "order"),
    (("--target=v5e-8", "--program=sample", "--num_steps=0"), "--num_steps must be at least 1"),
    (("--target=v5e-8", "--solver=ab2"), "--solver is for --program=sample, but train was given"),
    (("--target=v5e-8", "--program=decode"), "the task of this configuration is digits"),
    (("--target=v5e-8", "--program=inception"), "the task of this configuration is digits"),
    (("--target=v5e-8", "--out=/no/such/folder/x.json"), "The folder of .* does not exist"),
]


@pytest.mark.parametrize(("arguments", "message"), _REFUSED)
def test_refused_before_anything_is_compiled(run_main, arguments, message):
    with pytest.raises(cli.UserError, match=message):
        run_main("compile", *((f"--config={_DIGITS}", *arguments) if arguments else ()))


@pytest.mark.parametrize("name", ["base", "sweep_base", "sweep_digits"])
def test_a_configuration_without_network_is_refused(run_main, tmp_path, name):
    config = f"--config=experiments/configs/{name}.py"
    with pytest.raises(cli.UserError, match="describes no network"):
        run_main("compile", config, "--target=v5e-8")
    with pytest.raises(cli.UserError, match="describes no network"):
        run_main("train", config, f"--workdir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_errors_of_compilers_become_sentences(monkeypatch):
    def attend(x):
        return jax.nn.dot_product_attention(x, x, x, implementation="cudnn")

    def fail(x):
        return jax.pure_callback(lambda x: 1 / 0, x, x)

    mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",))
    heads = jax.ShapeDtypeStruct((1, 8, 1, 8), jnp.bfloat16)
    with pytest.raises(ValueError, match=r"cuDNN is not detected\. .* install the extra cuda12"):
        compile_program(programs.Program(mesh, {}, lambda: jax.jit(attend).lower(heads).compile()))
    with pytest.raises(ValueError, match=r"^The compiler fails: .*\.$"):
        compile_program(programs.Program(mesh, {}, lambda: jax.jit(fail)(jnp.ones(())).block_until_ready()))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    target = dataclasses.replace(targets.find("h200"), topology={"platform": "cuda", "topology_name": "none"})
    with pytest.raises(ValueError, match=r"The compiler for h200 does not start: .*another target"):
        target.devices()


def test_cudnn_is_refused_for_tpus():
    config = importlib.import_module("experiments.configs.imagenet256_gmdit_s_k8").get_config()
    config.network.attention = "cudnn"
    for name in ("train", "sample"):
        with pytest.raises(ValueError, match=r"NVIDIA GPUs, but the target is v5e-8; give .*=auto"):
            programs.check(name, config, targets.find("v5e-8"), programs.Sampling())
    programs.check("train", config, targets.find("h200"), programs.Sampling())


def test_a_distilled_step_is_checked_without_devices():
    config = importlib.import_module("experiments.configs.imagenet256_gmdit_xl_k8_distilled").get_config()
    programs.check("train", config, targets.find("v5e-8"), programs.Sampling())


@pytest.mark.parametrize(
    ("target", "module", "extra"), [("v5e-8", "libtpu", "tpu"), ("h200", "jax_plugins", "cuda12")]
)
def test_missing_compiler_is_named_with_its_command(run_main, target, module, extra):
    if importlib.util.find_spec(module):
        pytest.skip(f"{module} is installed")
    with pytest.raises(cli.UserError, match=rf"pip install 'gmflow-jax\[train,{extra}\]'"):
        run_main("compile", f"--config={_LATENTS}", f"--target={target}", "--batch_size=auto")


@pytest.mark.parametrize(
    ("name", "devices", "topology", "wrap"),
    [
        ("v4-8", 4, "v4:2x2x1", False),
        ("v4-128", 64, "v4:4x4x4", True),
        ("v5p-64", 32, "v5:2x4x4", False),
        ("v5e-8", 8, "v5e:2x4", False),
        ("v5litepod-16", 16, "v5e:4x4", False),
        ("v6e-256", 256, "v6e:16x16", True),
    ],
)
def test_slices(name, devices, topology, wrap):
    target = targets.find(name)
    assert (target.num_devices, target.topology["topology_name"]) == (devices, topology)
    assert all(target.topology["wrap"][:2]) == wrap


def test_clocks_agree_with_peaks():
    """Each matrix unit of 128 x 128 makes 2 x 128 x 128 operations in a cycle."""
    units = {"v4-8": 8, "v5p-8": 8, "v5e-8": 4, "v6e-8": 16}
    for name, count in units.items():
        target = targets.find(name)
        assert target.clock * count * 2 * 128**2 == pytest.approx(target.peak_flops, rel=3e-3)


@pytest.mark.parametrize("bend", [0.0, -0.7, 0.7])
@pytest.mark.parametrize("limit", [0, 1, 5, 37, 1000, 1216])
def test_largest_batch_that_fits(limit, bend):
    """About `limit` images fit on each device; memory grows by another law where batches are small."""
    target = targets.find("v5e-4")

    def needed(size):
        images = size // 4
        used = round(target.usable * (images + bend * min(images, 32)) / max(limit, 0.5))
        return used <= target.usable, used

    size, compilations = memory.largest_batch(needed, target, 4, lambda line: None)
    most = max(n for n in range(2000) if needed(4 * n)[0])
    assert most - max(0, most // 10) <= size // 4 <= most
    assert compilations <= 8


def test_memory_that_hardly_grows_gives_no_absurd_batches():
    target, tried = targets.find("v5e-4"), []

    def needed(size):
        tried.append(size)
        return True, 10**6

    size, compilations = memory.largest_batch(needed, target, 4, lambda line: None)
    assert size == tried[-1] <= memory.MAX_BATCH and compilations == len(tried) <= 10
    assert all(b <= 8 * a for a, b in itertools.pairwise(tried))
    assert memory.largest_batch(needed, target, 2**29, lambda line: None)[0] == 3 * 2**29


def test_refusal_of_the_tpus_compiler():
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 21.50G of 15.75G hbm. Exceeded"
    refusal = memory.refusal(RuntimeError(message))
    assert (refusal.needed, refusal.available) == (21.5 * 2**30, 15.75 * 2**30)
    assert memory.refusal(RuntimeError("RESOURCE_EXHAUSTED")).needed is None


def _compiled(name, config, size, **sampling):
    target = dataclasses.replace(targets.find("v5e-4"), platform="cpu")
    program = programs.make(name, config, jax.devices()[:4], size, programs.Sampling(**sampling))
    described = report.describe(target, program, size, program.compile())
    described |= {"program": name, "compilations": 1, "seconds_to_compile": 1.0}
    return json.loads(json.dumps(described)), report.text(described)


def test_report_of_a_training_step(fast_compile):
    config = importlib.import_module("experiments.configs.checkerboard").get_config()
    config.batch_size = 64
    config.network.update(dict(width=256, depth=2))
    values, text = _compiled("train", config, 64)
    used = values["memory_per_device"]
    assert values["fits"] and used["held_batch"] == 64 * 2 * 4 // 4
    assert used["held_state"] <= used["arguments"] <= used["total"]
    assert values["ideal_per_device"]["reduce-scatter"] > 0 and values["sent_per_device"]
    assert values["estimated_by_the_compiler"] is None
    assert "Fits: " in text and "mesh data 4 x fsdp 1" in text


def test_report_of_a_sampler(fast_compile):
    config = importlib.import_module("experiments.configs.digits").get_config()
    config.network.update(dict(hidden_size=16, depth=1, num_heads=1))
    values, text = _compiled("sample", config, 8, solver="euler", num_steps=2, guided=False)
    assert values["flops_per_device"] * 4 == pytest.approx(values["model_flops"], rel=0.2)
    assert values["memory_per_device"]["held_parameters"] > 0
    assert "Collectives: none." in text
    assert values["loops_of_unknown_length"] == [] and "unknown length" not in text


def test_loops_of_unknown_length_are_reported():
    @jax.jit
    def search(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: x @ x, x)

    mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",))
    compiled = search.lower(jax.ShapeDtypeStruct((8, 8), jnp.float32)).compile()
    program = programs.Program(mesh, {}, lambda: compiled)
    target = dataclasses.replace(targets.find("v5e-1"), platform="cpu")
    values = report.describe(target, program, 1, compiled)
    assert len(values["loops_of_unknown_length"]) == 1 and values["flops_per_device"] == 2 * 8**3
    text = report.text({"program": "train", "compilations": 1, "seconds_to_compile": 1.0} | values)
    assert "1 loop of unknown length counts once" in text


def test_report_of_a_refused_program():
    config = importlib.import_module("experiments.configs.checkerboard").get_config()
    program = programs.make("train", config, jax.devices()[:4], 64, programs.Sampling())
    start = {"program": "train", "compilations": 1, "seconds_to_compile": 1.0}
    for used, reason in (
        (" Used 21.50G of 15.75G hbm.", "needs 21.50 GiB on each device, where 15.75 GiB can be used"),
        ("", "refuses it: RESOURCE_EXHAUSTED: Ran out of memory"),
    ):
        refusal = memory.refusal(RuntimeError(f"RESOURCE_EXHAUSTED: Ran out of memory.{used}"))
        values = report.describe_refusal(targets.find("v5e-4"), program, 64, refusal)
        text = report.text(start | values)
        assert not values["fits"] and values["memory_per_device"]["held_state"] > 0
        assert "Does not fit. " in text and reason in text and "--config.network.remat=full" in text


def test_report_of_a_tpu(tmp_path):
    pytest.importorskip("libtpu")
    out = tmp_path / "report.json"
    command = [
        sys.executable, "-m", "experiments.compile", f"--config={_DIGITS}", "--target=v5e-4", f"--out={out}",
        "--config.network.depth=2", "--config.network.scan_layers=True",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "Estimated by the compiler, not measured" in done.stdout
    values = json.loads(out.read_text())
    estimate = values["estimated_by_the_compiler"]
    assert values["fits"] and sum(estimate["cycles_by_part"].values()) == estimate["cycles"] > 0
