"""The training loss of a batch as a pure function."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gmflow_jax import flow, gm, losses
from gmflow_jax._arguments import check_number
from gmflow_jax.training._example import TransitionExample

Metrics = dict[str, jax.Array]
NUM_TIME_BINS = 4


def make_loss(
    apply: Callable[..., Any],
    *,
    loss: Literal["transition", "flow"] = "transition",
    loss_weight: float = 1.0,
    spectrum_apply: Callable[..., jax.Array] | None = None,
    spectral_loss_weight: float = 1.0,
    working_copy: Callable[[Any], Any] = lambda params: params,
) -> Callable[[Any, TransitionExample], tuple[jax.Array, tuple[Metrics, Metrics]]]:
    """Make the loss function of a batch, as `make_train_step` uses it.

    Args:
      apply: apply(params, x_t, t, labels), or apply(params, x_t, t) without labels, returns the predicted
        mixture over velocity.
      loss: 'transition' is `losses.transition_loss`; 'flow' is `losses.flow_matching_loss` of the mean
        velocity, the L2 baseline.
      loss_weight: factor of that loss.
      spectrum_apply: spectrum_apply(params, gaussian) returns the log power [B, H, W, C] for the Gaussian
        that is moment-matched to the prediction of x_0; None trains no spectrum.
      spectral_loss_weight: factor of `losses.spectral_loss`.
      working_copy: maps the parameters to the form in which the networks use them, see
        `sharding.Parallelism`.

    Returns:
      loss_fn(params, example) -> (loss, (parts, time_bins)). The loss is in nats, a mean over samples of the
      mean over pixels. `parts` has the weighted terms `loss_transition` and `loss_spectral` if a spectrum is
      trained. `time_bins` has `time_bin_sum` and `time_bin_count` [4], the summed losses and numbers of
      samples in each quarter of the time axis.

    Raises:
      ValueError: if the loss is unknown, a weight is negative or not finite, or a spectrum is given with the
        loss 'flow'.
    """
    if loss not in ("transition", "flow"):
        raise ValueError(
            f"loss is {loss!r}, but only 'transition' (GMFlow) and 'flow' (the L2 baseline) exist."
        )
    check_number("loss_weight", loss_weight, "[0, inf)")
    check_number("spectral_loss_weight", spectral_loss_weight, "[0, inf)")
    if loss == "flow" and spectrum_apply is not None:
        raise ValueError(
            "A spectrum was given with loss 'flow', but it describes samples of a mixture. Use "
            "loss='transition', or leave the spectrum out."
        )

    def loss_fn(params, example):
        params = working_copy(params)
        labels = () if example.labels is None else (example.labels,)
        prediction = apply(params, example.x_t, example.t, *labels)
        with jax.named_scope("gm_loss"):
            per_sample = loss_weight * mean_per_sample(_loss(prediction, example, loss))
        parts = {}
        if spectrum_apply is not None:
            values = _spectral_loss(functools.partial(spectrum_apply, params), prediction, example)
            spectral = spectral_loss_weight * mean_per_sample(values)
            parts = {"loss_transition": jnp.mean(per_sample), "loss_spectral": jnp.mean(spectral)}
            per_sample = per_sample + spectral
        return jnp.mean(per_sample), (parts, time_bins(per_sample, example.t))

    return loss_fn


def _loss(prediction, example: TransitionExample, loss: str) -> jax.Array:
    if loss == "transition":
        return losses.transition_loss(prediction, example.x_t, example.x_s, example.t, example.s)
    is_mixture = isinstance(prediction, gm.GaussianMixture)
    velocity = gm.mean(prediction) if is_mixture else prediction
    return losses.flow_matching_loss(velocity, example.x_0, example.noise)


@jax.named_scope("spectrum")
def _spectral_loss(
    spectrum: Callable, prediction: gm.GaussianMixture, example: TransitionExample
) -> jax.Array:
    q = jax.lax.stop_gradient(flow.to_data(prediction, example.x_t, example.t))
    return losses.spectral_loss(spectrum(gm.moment_match(q)), q, example.x_0)


def mean_per_sample(values: jax.Array) -> jax.Array:
    return jnp.mean(values.reshape(values.shape[0], -1), axis=-1)


def time_bins(per_sample: jax.Array, t: jax.Array) -> Metrics:
    index = jnp.minimum((t * NUM_TIME_BINS).astype(jnp.int32), NUM_TIME_BINS - 1)
    member = index[:, None] == jnp.arange(NUM_TIME_BINS, dtype=index.dtype)[None, :]
    return {
        "time_bin_sum": jnp.sum(jnp.where(member, per_sample[:, None], 0.0), axis=0),
        "time_bin_count": jnp.sum(member.astype(jnp.float32), axis=0),
    }
