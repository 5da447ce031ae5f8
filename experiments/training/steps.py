"""The optimiser, the training step and the evaluation loss of a configuration."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from experiments.runs.networks import abstract_network, init_params, spectrum_function
from experiments.training import distillation
from gmflow_jax import sharding, training

_EMA = {
    "constant": training.constant_decay,
    "warm_up": training.warm_up_decay,
    "ramp_up": training.ramp_up_decay,
    "karras": training.karras_decay,
}


def make_schedule(config: ml_collections.ConfigDict) -> Callable:
    """Return the learning rate as a function of the step."""
    c = config.optimizer
    if c.schedule == "cosine":
        return training.warm_up_cosine_schedule(
            c.learning_rate, c.warm_up_steps, config.num_steps, end_ratio=c.end_ratio
        )
    if c.schedule == "constant":
        return training.warm_up_schedule(c.learning_rate, c.warm_up_steps)
    raise ValueError(f"optimizer.schedule is {c.schedule!r}. Choose 'cosine' or 'constant'.")


def make_optimizer(config: ml_collections.ConfigDict):
    """Make the optimiser of `config.optimizer`."""
    c = config.optimizer
    return training.make_optimizer(
        make_schedule(config),
        b1=c.b1,
        b2=c.b2,
        weight_decay=c.weight_decay,
        clip_norm=c.clip_norm or None,
        clip_begin_step=c.clip_begin_step,
        mu_dtype=c.mu_dtype,
    )


def make_init(
    config: ml_collections.ConfigDict, optimizer, distilled: distillation.Distillation | None = None
) -> Callable[..., training.TrainState]:
    """Return init(), which makes the state before the first step; compile it with shardings.

    For a distilled run it is init(teacher_params).
    """

    def init(*teacher_params):
        if distilled is None:
            params = init_params(config)
        else:
            params = distillation.start(config, distilled.teacher)(*teacher_params)
        averages = len(config.post_hoc_ema.stds)
        return training.init_state(params, optimizer, num_power_averages=averages)

    return init


def make_train_step(
    config: ml_collections.ConfigDict,
    optimizer,
    parallelism: sharding.Parallelism,
    distilled: distillation.Distillation | None = None,
) -> Callable:
    """Make the training step, which the caller compiles.

    Args:
      config: configuration of the run.
      optimizer: optimiser from `make_optimizer`.
      parallelism: parallelism of the run.
      distilled: the teacher of a distilled run.

    Returns:
      train_step(state, batch, key) -> (state, metrics), see `training.make_train_step`. The step of a
      distilled run takes the teacher's parameters as a fourth argument.

    Raises:
      ValueError: if an option of `config.loss`, `config.distillation` or `config.ema` cannot be used.
    """
    options = {
        "optimizer": optimizer,
        "ema_decay": _make_decay(config.ema),
        "learning_rate": make_schedule(config),
        "power_stds": tuple(config.post_hoc_ema.stds),
        "num_microbatches": config.num_microbatches,
        "axis_name": parallelism.axis_name,
        "working_copy": parallelism.working_copy,
    }
    if distilled is not None:
        return distillation.make_step(config, distilled, **options)
    loss, draws = _loss_options(config)
    return training.make_train_step(**options, **loss, **draws)


def _make_decay(ema: ml_collections.ConfigDict) -> Callable:
    options = ema.to_dict()
    kind = options.pop("kind")
    if kind not in _EMA:
        raise ValueError(f"ema.kind is {kind!r}. Choose one of {', '.join(_EMA)}.")
    try:
        return _EMA[kind](**options)
    except TypeError as error:
        raise ValueError(f"The options of config.ema cannot be used: {error}.") from error


def make_eval_loss(
    config: ml_collections.ConfigDict,
    parallelism: sharding.Parallelism,
    distilled: distillation.Distillation | None = None,
) -> Callable:
    """Return loss(params, batch, key), the training loss of a batch.

    For a distilled run it is loss(params, batch, key, teacher_params).
    """
    if distilled is not None:
        return distillation.make_eval_loss(config, distilled, parallelism)
    loss, draws = _loss_options(config)
    loss_fn = training.make_loss(working_copy=parallelism.working_copy, **loss)

    def evaluate(params, batch, key):
        return loss_fn(params, training.draw_example(key, batch["x_0"], batch.get("labels"), **draws))[0]

    return evaluate


def _loss_options(config: ml_collections.ConfigDict) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of `training.make_loss`, and those of `training.draw_example`."""
    options = config.loss.to_dict()
    spectrum = spectrum_function(config)
    loss = {
        "apply": abstract_network(config)[0],
        "loss": options.pop("loss"),
        "loss_weight": options.pop("loss_weight", 1.0),
        "spectrum_apply": spectrum,
        "spectral_loss_weight": config.spectrum.loss_weight if spectrum else 0.0,
    }
    if loss["loss"] == "flow":
        options["transition_ratio"] = 1.0
    draws = {**options, "num_classes": config.network.get("num_classes")}
    # Trace the draws here, so that wrong options raise before the step is compiled.
    labels = jnp.zeros((1,), jnp.int32) if draws["num_classes"] else None
    draw = functools.partial(training.draw_example, **draws)
    try:
        jax.eval_shape(draw, jax.random.key(0), jnp.zeros((1, 1)), labels)
    except TypeError as error:
        raise ValueError(f"The options of config.loss cannot be used: {error}.") from error
    return loss, draws
