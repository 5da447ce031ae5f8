"""The training step of GMFlow as a pure function."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import optax
from jax.typing import ArrayLike

from gmflow_jax.training._example import draw_example
from gmflow_jax.training._loss import Metrics, make_loss
from gmflow_jax.training._state import TrainState
from gmflow_jax.training._update import make_update_step


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
    if loss == "flow":
        draw_options["transition_ratio"] = 1.0
    loss_fn = make_loss(
        apply, loss=loss, loss_weight=loss_weight, spectrum_apply=spectrum_apply,
        spectral_loss_weight=spectral_loss_weight, working_copy=working_copy,
    )

    def draw(key, batch, first_index):
        return draw_example(key, batch["x_0"], batch.get("labels"), first_index=first_index, **draw_options)

    return make_update_step(
        draw, loss_fn, optimizer, ema_decay, learning_rate=learning_rate, power_stds=power_stds,
        num_microbatches=num_microbatches, axis_name=axis_name,
    )
