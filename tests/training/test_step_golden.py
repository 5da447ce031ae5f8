"""Six whole training iterations against the authors' code, with their draws."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from gmflow_jax import interop, models, training
from gmflow_jax.flow._time import time_from_draw
from gmflow_jax.training._example import make_example

GOLDEN = Path(__file__).parents[1] / "golden/train"
ITERATIONS = np.load(GOLDEN / "iterations.npz")
HYPER = json.loads((GOLDEN / "config.json").read_text())["hyper"]
NETWORK = models.GMDiTConfig(
    input_size=8, in_channels=4, patch_size=2, hidden_size=16, depth=2, num_heads=2,
    num_classes=10, num_components=3, log_std_layers=2, log_std_dim=16, head="joint",
)
SPECTRUM = models.SpectrumMLPConfig(
    base_size=8, num_channels=4, widths=tuple(HYPER["spectrum_layers"])
)


def load(name):
    tensors = load_file(GOLDEN / f"{name}.safetensors")

    def part(prefix):
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    params = {
        "network": interop.gm_dit_from_torch(part("denoising."), NETWORK),
        "spectrum": interop.spectrum_mlp_from_torch(part("spectrum_net."), SPECTRUM),
    }
    return jax.tree.map(jnp.array, params)


def given_example(key, x_0, draws, **options):
    """Replace `draw_example`; the draws are passed with the labels."""
    del key
    options = {
        k: options[k] for k in ("transition_ratio", "class_dropout_prob", "num_classes")
    }
    t = time_from_draw(draws["time_draw"])
    return make_example(
        x_0, draws["labels"], t, draws["noise_0"], draws["noise_1"], draws["label_uniform"],
        **options,
    )


def assert_params_close(params, golden, atol):
    def compare(path, a, b):
        if [key.key for key in path[-2:]] != ["key", "bias"]:  # its true gradient is zero
            np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=str(path))

    jax.tree_util.tree_map_with_path(compare, params, golden)


def test_draws_become_the_authors_times_and_labels():
    for i in range(HYPER["iterations"]):
        draws = {name: jnp.asarray(ITERATIONS[name][i]) for name in ITERATIONS.files}
        example = given_example(
            None, draws["x_0"], draws, transition_ratio=0.5, num_classes=10,
            class_dropout_prob=1 - HYPER["prob_class"],
        )
        np.testing.assert_allclose(1000 * example.t, ITERATIONS["used_t"][i], rtol=1e-6)
        np.testing.assert_array_equal(example.labels, ITERATIONS["used_labels"][i])


def test_six_iterations_follow_the_authors(monkeypatch, fast_compile):
    """Both networks are trained jointly and share the clipping of the common gradient norm."""
    monkeypatch.setattr("gmflow_jax.training._step.draw_example", given_example)
    network, _ = models.abstract(models.GMDiT, NETWORK)
    spectrum, _ = models.abstract(models.SpectrumMLP, SPECTRUM)
    schedule = training.warm_up_schedule(HYPER["lr"], HYPER["warmup_iters"], HYPER["warmup_ratio"])
    optimizer = training.make_optimizer(
        schedule, *HYPER["betas"], HYPER["weight_decay"], clip_norm=HYPER["grad_clip"],
        clip_begin_step=HYPER["grad_clip_begin_iter"], eps=HYPER["adam_eps"],
    )
    ema = HYPER["ema"]
    step = jax.jit(training.make_train_step(
        lambda params, *inputs: network(params["network"], *inputs), optimizer,
        training.ramp_up_decay(1000 * ema["ema_kimg"], ema["batch_size"], ema["ema_rampup"]),
        spectrum_apply=lambda params, gaussian: spectrum(params["spectrum"], gaussian),
        loss_weight=HYPER["weight_scale"], spectral_loss_weight=HYPER["spectral_loss_weight"],
        transition_ratio=HYPER["trans_ratio"], class_dropout_prob=1 - HYPER["prob_class"],
        num_classes=10, learning_rate=schedule,
    ))
    state = training.init_state(load("params_initial"), optimizer, load("ema_initial"))
    logs = []
    for i in range(HYPER["iterations"]):
        draws = {name: ITERATIONS[name][i] for name in (
            "labels", "time_draw", "noise_0", "noise_1", "label_uniform"
        )}
        batch = {"x_0": ITERATIONS["x_0"][i], "labels": draws}
        state, metrics = step(state, batch, jax.random.key(0))
        logs.append(metrics)
        if i == 0:
            assert_params_close(state.params, load("params_after_1"), atol=5e-7)
            assert_params_close(state.ema_params, load("ema_after_1"), atol=5e-7)
    logs = jax.tree.map(lambda *values: np.asarray(values), *logs)
    constant = HYPER["weight_scale"] * 4 / 2 * math.log(2 * math.pi)  # the authors leave it out
    for values, name, rtol in (
        (logs["loss_transition"] - constant, "loss_transition", 2e-5),
        (logs["loss_spectral"], "loss_spectral", 2e-5),
        (logs["loss"] - constant, "loss_total", 2e-5),
        (logs["grad_norm"][2:], "grad_norm", 2e-5),  # not logged before clipping begins
        (logs["ema_decay"], "ema_momentum", 1e-6),
        (logs["learning_rate"], "lr", 1e-5),
    ):
        expected = ITERATIONS[f"log_{name}_f64"][-len(values):]
        np.testing.assert_allclose(values, expected, rtol=rtol, err_msg=name)
    assert_params_close(state.params, load("params_final"), atol=2e-6)
    assert_params_close(state.ema_params, load("ema_final"), atol=2e-6)
    assert int(state.num_skipped) == 0
