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
    """Returns `train_step(state, batch, key) -> (state, metrics)`, to be jitted by the caller.

    `apply(params, x_t, t, labels)`, or `apply(params, x_t, t)` where the batch has no labels,
    gives the mixture over velocity. `batch` is {'x_0': [B, ..., C], 'labels': int [B]}, labels
    optional; B counts the whole batch. The draws depend on `key` and `state.step` alone;
    `draw_options` (`transition_ratio`, `class_dropout_prob`, `num_classes`, `shift`,
    `logit_normal`, `mean`, `std`) are those of `draw_example`.

    The loss, in nats, is `loss_weight` times the mean over samples of the mean over pixels of
    `losses.transition_loss`, or of `losses.flow_matching_loss` on the mean velocity when `loss`
    is 'flow' (the L2 baseline, for which the transition ratio is 1 whatever is given).
    With `spectrum_apply(params, gaussian)`, which gives the log power [B, H, W, C] for the Gaussian
    matched to the prediction of x_0, `spectral_loss_weight` times the mean of `losses.spectral_loss`
    is added. It trains the spectrum alone: its gradient does not reach the mixture. Both functions get
    all of `params`, of which each takes its part.
    Where the loss or the gradient norm is not finite, parameters, EMA and optimiser stay as they
    are and the step is counted in `num_skipped`.

    Metrics: `loss`, with a spectrum also its weighted parts `loss_transition` and `loss_spectral`,
    `grad_norm` (before clipping), `ema_decay`, `skipped` (0 or 1), `num_skipped`,
    `learning_rate` if that schedule is given (it only serves the metric), and per quarter of the
    time axis `time_bin_sum` and `time_bin_count` [4], the summed losses and numbers of samples.

    The gradient is accumulated over `num_microbatches` parts of the batch, which must divide it: less
    memory, the same numbers up to rounding. `power_stds` are the relative widths of the averages that
    `state.power_averages` holds, see `update_power_averages`.

    Under `jax.pmap`, name the mapped axis in `axis_name`: each device passes its part of the batch
    and draws what a single device would have drawn for it. Under jit with a sharded state,
    `working_copy` gathers parameters before they are used, see `gmflow_jax.sharding`.
    Source: algorithm 1 of GMFlow.
    """
    if num_microbatches < 1:
        raise ValueError(f"num_microbatches is {num_microbatches}; give 1 for the whole batch at once.")
    if loss == "flow":
        draw_options["transition_ratio"] = 1.0

    def draw(key, batch):
        x_0, labels = batch["x_0"], batch.get("labels")
        first_index = 0 if axis_name is None else jax.lax.axis_index(axis_name) * x_0.shape[0]
        return draw_example(key, x_0, labels, first_index=first_index, **draw_options)

    loss_fn = make_loss(
        apply,
        loss=loss,
        loss_weight=loss_weight,
        spectrum_apply=spectrum_apply,
        spectral_loss_weight=spectral_loss_weight,
        working_copy=working_copy,
    )

    def train_step(state, batch, key):
        example = draw(jax.random.fold_in(key, state.step), batch)
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
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


def _accumulate(grad_fn: Callable, params, example: TransitionExample, num_parts: int):
    """grad_fn(params, example) as the mean over equal parts of the example, its time bins as sums."""
    if num_parts == 1:
        return grad_fn(params, example)
    batch_size = example.t.shape[0]
    if batch_size % num_parts:
        raise ValueError(
            f"A batch of {batch_size} samples on a device cannot be cut into {num_parts} microbatches; "
            "give a number that divides it."
        )
    # Every num_parts-th sample is of one part: so each part is spread over all devices as the batch is.
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
