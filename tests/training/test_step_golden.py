"""Six whole training iterations against the authors' code, with their draws."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import load_file

from gmflow_jax import flow, interop, models, training

GOLDEN = Path(__file__).parents[1] / "golden/train"
ITERATIONS = np.load(GOLDEN / "iterations.npz")
HYPER = json.loads((GOLDEN / "config.json").read_text())["hyper"]
CONFIG = models.GMDiTConfig(
    input_size=8, in_channels=4, patch_size=2, hidden_size=16, depth=2, num_heads=2,
    num_classes=10, num_components=3, log_std_layers=2, log_std_dim=16, head="joint",
)


def load(name):
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    prefix = "denoising."
    tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return jax.tree.map(jnp.array, interop.gm_dit_from_torch(tensors, CONFIG))


def given_example(key, x_0, draws, **options):
    """Takes the place of `draw_example`: the draws come in with the labels."""
    del key
    options = {
        k: options[k] for k in ("transition_ratio", "class_dropout_prob", "num_classes")
    }
    t = flow.time_from_draw(draws["time_draw"])
    return training.make_example(
        x_0, draws["labels"], t, draws["noise_0"], draws["noise_1"], draws["label_uniform"],
        **options,
    )


def with_spectrum_gradient(optimizer):
    """Adds one parameter whose gradient raises the global norm to the logged one.

    The spectrum network, which is not part of this step, meets the transformer there only.
    """
    logged = jnp.asarray(np.nan_to_num(ITERATIONS["log_grad_norm"]))
    extra = {"bias": jnp.zeros(())}

    def init(params):
        return optimizer.init((params, extra)), jnp.zeros((), jnp.int32)

    def update(grads, state, params):
        inner, iteration = state
        missing = jnp.square(logged[iteration]) - jnp.square(optax.tree.norm(grads))
        missing = {"bias": jnp.sqrt(jnp.maximum(missing, 0.0))}
        updates, inner = optimizer.update((grads, missing), inner, (params, extra))
        return updates[0], (inner, iteration + 1)

    return optax.GradientTransformation(init, update)


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


def test_six_iterations_follow_the_authors(monkeypatch):
    monkeypatch.setattr("gmflow_jax.training._step.draw_example", given_example)
    apply, _ = models.abstract(models.GMDiT, CONFIG)
    schedule = training.warm_up_schedule(HYPER["lr"], HYPER["warmup_iters"], HYPER["warmup_ratio"])
    optimizer = with_spectrum_gradient(training.make_optimizer(
        schedule, *HYPER["betas"], HYPER["weight_decay"], clip_norm=HYPER["grad_clip"],
        clip_begin_step=HYPER["grad_clip_begin_iter"], eps=HYPER["adam_eps"],
    ))
    ema = HYPER["ema"]
    step = jax.jit(training.make_train_step(
        apply, optimizer,
        training.ramp_up_decay(1000 * ema["ema_kimg"], ema["batch_size"], ema["ema_rampup"]),
        loss_weight=HYPER["weight_scale"], transition_ratio=HYPER["trans_ratio"],
        class_dropout_prob=1 - HYPER["prob_class"], num_classes=10, learning_rate=schedule,
    ))
    state = training.init_state(load("params_initial"), optimizer, load("ema_initial"))
    constant = HYPER["weight_scale"] * 4 / 2 * math.log(2 * math.pi)  # the authors leave it out
    logs = {name: [] for name in ("loss", "grad_norm", "ema_decay", "learning_rate")}
    for i in range(HYPER["iterations"]):
        draws = {name: ITERATIONS[name][i] for name in (
            "labels", "time_draw", "noise_0", "noise_1", "label_uniform"
        )}
        batch = {"x_0": ITERATIONS["x_0"][i], "labels": draws}
        state, metrics = step(state, batch, jax.random.key(0))
        for name, values in logs.items():
            values.append(float(metrics[name]))
        if i == 0:
            assert_params_close(state.params, load("params_after_1"), atol=5e-7)
            assert_params_close(state.ema_params, load("ema_after_1"), atol=5e-7)
    losses = np.asarray(logs["loss"]) - constant
    np.testing.assert_allclose(losses, ITERATIONS["log_loss_transition"], rtol=2e-5)
    np.testing.assert_allclose(logs["ema_decay"], ITERATIONS["log_ema_momentum"], rtol=1e-6)
    np.testing.assert_allclose(logs["learning_rate"], ITERATIONS["log_lr"], rtol=1e-5)
    # The spectrum network's share of the norm is what is missing here: positive and small.
    share = np.asarray(logs["grad_norm"][2:]) / ITERATIONS["log_grad_norm"][2:]
    assert np.all((share > 0.97) & (share < 1))
    assert_params_close(state.params, load("params_final"), atol=2e-6)
    assert_params_close(state.ema_params, load("ema_final"), atol=2e-6)
    assert int(state.num_skipped) == 0
