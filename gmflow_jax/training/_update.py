"""The update of a training state by one batch, for any draws and any loss."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gmflow_jax.training._ema import update_ema
from gmflow_jax.training._loss import Metrics
from gmflow_jax.training._post_hoc import update_power_averages
from gmflow_jax.training._state import TrainState


def make_update_step(
    draw: Callable[..., Any],
    loss_fn: Callable[..., tuple[jax.Array, tuple[Metrics, Metrics]]],
    optimizer: optax.GradientTransformation,
    ema_decay: Callable[[ArrayLike], jax.Array],
    *,
    learning_rate: optax.Schedule | None = None,
    power_stds: Sequence[float] = (),
    num_microbatches: int = 1,
    axis_name: str | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Make a training step, which the caller compiles; see `make_train_step` for what it does.

    Args:
      draw: draw(key, batch, first_index) returns the examples of a batch, a pytree of arrays [B, ...]; the
        first sample has the number `first_index` in the whole batch.
      loss_fn: loss_fn(params, examples, *constants) -> (loss, (parts, time_bins)), as from `make_loss`.
      optimizer: the optimiser.
      ema_decay: function from the iteration to the decay of the average.
      learning_rate: see `make_train_step`.
      power_stds: see `make_train_step`.
      num_microbatches: see `make_train_step`.
      axis_name: see `make_train_step`.

    Returns:
      step(state, batch, key, *constants) -> (state, metrics).

    Raises:
      ValueError: if num_microbatches is less than 1.
    """
    if num_microbatches < 1:
        raise ValueError(f"num_microbatches is {num_microbatches}; give 1 for the whole batch at once.")
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def train_step(state, batch, key, *constants):
        size = jax.tree.leaves(batch)[0].shape[0]
        first_index = 0 if axis_name is None else jax.lax.axis_index(axis_name) * size
        examples = draw(jax.random.fold_in(key, state.step), batch, first_index)

        def grad_of(part):
            return grad_fn(state.params, part, *constants)

        (value, (parts, bins)), grads = _accumulate(grad_of, examples, num_microbatches)
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


def _accumulate(grad_of: Callable, examples, num_parts: int):
    """Average grad_of(part) over equal parts of the examples; time bins are summed."""
    if num_parts == 1:
        return grad_of(examples)
    batch_size = jax.tree.leaves(examples)[0].shape[0]
    if batch_size % num_parts:
        raise ValueError(
            f"A batch of {batch_size} samples on a device cannot be cut into {num_parts} microbatches; "
            "give a number that divides it."
        )
    # A part has every num_parts-th sample, so it is split over all devices as the batch is.
    parts = jax.tree.map(lambda x: x.reshape(-1, num_parts, *x.shape[1:]).swapaxes(0, 1), examples)

    def add(total, part):
        return jax.tree.map(jnp.add, total, grad_of(part)), None

    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(grad_of, first))
    ((value, (values, bins)), grads), _ = jax.lax.scan(add, zeros, parts)
    value, values, grads = jax.tree.map(lambda x: x / num_parts, (value, values, grads))
    return (value, (values, bins)), grads


def _update(state: TrainState, grads, optimizer, decay, power_stds, finite) -> TrainState:
    with jax.named_scope("optimizer"):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    with jax.named_scope("ema"):
        ema_params = update_ema(state.ema_params, params, decay)
        averages = update_power_averages(state.power_averages, params, state.step, power_stds)
    new = (params, ema_params, opt_state, averages)
    old = (state.params, state.ema_params, state.opt_state, state.power_averages)
    with jax.named_scope("optimizer"):
        params, ema_params, opt_state, averages = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), new, old
        )
    return TrainState(
        params=params, ema_params=ema_params, opt_state=opt_state, power_averages=averages,
        step=state.step + 1, num_skipped=state.num_skipped + 1 - finite.astype(jnp.int32),
    )
