"""One training step as a pure function."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gmflow_jax.training._ema import update_ema
from gmflow_jax.training._example import TransitionExample, draw_example
from gmflow_jax.training._loss import Metrics, make_loss
from gmflow_jax.training._post_hoc import update_power_averages
from gmflow_jax.training._state import TrainState


def make_train_step(
    apply: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    ema_decay: Callable[[ArrayLike], jax.Array],
    *,
    loss: Literal["transition", "flow"] = "transition",
    loss_weight: float = 1.0,
    spectrum_apply: Callable[..., jax.Array] | None = None,
    spectral_loss_weight: float = 1.0,
    learning_rate: optax.Schedule | None = None,
    power_stds: Sequence[float] = (),
    num_microbatches: int = 1,
    axis_name: str | None = None,
    working_copy: Callable[[Any], Any] = lambda params: params,
    **draw_options: Any,
) -> Callable[[TrainState, dict[str, jax.Array], jax.Array], tuple[TrainState, Metrics]]:
    """Make the training step, which the caller compiles.

    The draws depend on `key` and `state.step` only. If the loss or the gradient norm is not finite,
    parameters, averages and optimiser stay unchanged, and the step is counted in `num_skipped`. A spectrum is
    trained by its own loss, whose gradient does not reach the mixture.

    Args:
      apply: apply(params, x_t, t, labels), or apply(params, x_t, t) if the batch has no labels, returns the
        predicted mixture over velocity.
      optimizer: the optimiser.
      ema_decay: function from the iteration to the decay of the average.
      loss: 'transition' is `losses.transition_loss`; 'flow' is `losses.flow_matching_loss` of the mean
        velocity, the L2 baseline, whose transition ratio is always 1.
      loss_weight: factor of that loss.
      spectrum_apply: spectrum_apply(params, gaussian) returns the log power [B, H, W, C] for the Gaussian
        that is moment-matched to the prediction of x_0; it gets all of `params`. None trains no spectrum.
      spectral_loss_weight: factor of `losses.spectral_loss`.
      learning_rate: schedule that is reported as a metric; None reports none.
      power_stds: widths of `state.power_averages`, as fractions of the steps so far; see
        `update_power_averages`.
      num_microbatches: number of parts of the batch over which the gradient is accumulated; it must divide
        the batch. More parts need less memory and change only rounding.
      axis_name: name of the axis under `jax.pmap`; each device passes its part of the batch, and draws what
        a single device would draw for it. None without pmap.
      working_copy: gathers sharded parameters before they are used, see `sharding.Parallelism`.
      **draw_options: `transition_ratio`, `class_dropout_prob`, `num_classes`, `shift`, `logit_normal`,
        `mean` and `std` of `draw_example`.

    Returns:
      train_step(state, batch, key) -> (state, metrics). The batch is {'x_0': [B, ..., C], 'labels': int [B]},
      where labels are optional and B counts the whole batch. The metrics are
        `loss`, in nats, the mean over samples of the mean over pixels;
        `loss_transition` and `loss_spectral`, its weighted terms, with a spectrum;
        `grad_norm`, before clipping; `ema_decay`; `learning_rate`, with a schedule;
        `skipped`, 0 or 1, and `num_skipped`;
        `time_bin_sum` and `time_bin_count` [4], the summed losses and numbers of samples in each quarter of
        the time axis.

    Raises:
      ValueError: if an option is unknown or out of range.

    Source:
      GMFlow (arXiv 2504.05304), algorithm 1.
    """
    if num_microbatches < 1:
        raise ValueError(f"num_microbatches is {num_microbatches}; give 1 for the whole batch at once.")
    if loss == "flow":
        draw_options["transition_ratio"] = 1.0

    loss_fn = make_loss(
        apply, loss=loss, loss_weight=loss_weight, spectrum_apply=spectrum_apply,
        spectral_loss_weight=spectral_loss_weight, working_copy=working_copy,
    )
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def train_step(state, batch, key):
        example = _draw(jax.random.fold_in(key, state.step), batch, axis_name, draw_options)
        (value, (parts, bins)), grads = _accumulate(grad_fn, state.params, example, num_microbatches)
        if axis_name is not None:
            value, parts, grads = jax.lax.pmean((value, parts, grads), axis_name)
            bins = jax.lax.psum(bins, axis_name)
        grad_norm = optax.tree.norm(grads)
        decay = ema_decay(state.step)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        new_state = _update(state, grads, optimizer, decay, power_stds, finite)
        metrics = {"loss": value, **parts, "grad_norm": grad_norm, "ema_decay": decay}
        metrics |= {"skipped": 1 - finite.astype(jnp.int32), "num_skipped": new_state.num_skipped}
        metrics |= jax.tree.map(lambda x: jnp.where(finite, x, 0.0), bins)
        if learning_rate is not None:
            rate = learning_rate(state.step - state.num_skipped)
            metrics["learning_rate"] = jnp.asarray(rate, jnp.float32)
        return new_state, metrics

    return train_step


def _draw(key, batch, axis_name: str | None, draw_options: dict[str, Any]) -> TransitionExample:
    x_0, labels = batch["x_0"], batch.get("labels")
    first_index = 0 if axis_name is None else jax.lax.axis_index(axis_name) * x_0.shape[0]
    return draw_example(key, x_0, labels, first_index=first_index, **draw_options)


def _accumulate(grad_fn: Callable, params, example: TransitionExample, num_parts: int):
    """Average grad_fn(params, part) over equal parts of the example; time bins are summed."""
    if num_parts == 1:
        return grad_fn(params, example)
    batch_size = example.t.shape[0]
    if batch_size % num_parts:
        raise ValueError(
            f"A batch of {batch_size} samples on a device cannot be cut into {num_parts} microbatches; "
            "give a number that divides it."
        )
    # A part has every num_parts-th sample, so it is split over all devices as the batch is.
    parts = jax.tree.map(lambda x: x.reshape(-1, num_parts, *x.shape[1:]).swapaxes(0, 1), example)

    def add(total, part):
        return jax.tree.map(jnp.add, total, grad_fn(params, part)), None

    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(grad_fn, params, first))
    ((value, (values, bins)), grads), _ = jax.lax.scan(add, zeros, parts)
    value, values, grads = jax.tree.map(lambda x: x / num_parts, (value, values, grads))
    return (value, (values, bins)), grads


def _update(state: TrainState, grads, optimizer, decay, power_stds, finite) -> TrainState:
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params = update_ema(state.ema_params, params, decay)
    averages = update_power_averages(state.power_averages, params, state.step, power_stds)
    new = (params, ema_params, opt_state, averages)
    old = (state.params, state.ema_params, state.opt_state, state.power_averages)
    params, ema_params, opt_state, averages = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), new, old
    )
    return TrainState(
        params=params, ema_params=ema_params, opt_state=opt_state, power_averages=averages,
        step=state.step + 1, num_skipped=state.num_skipped + 1 - finite.astype(jnp.int32),
    )
