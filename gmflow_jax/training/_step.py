"""One training step as a pure function."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gmflow_jax import flow, gm, losses
from gmflow_jax.training._ema import update_ema
from gmflow_jax.training._example import TransitionExample, draw_example
from gmflow_jax.training._state import TrainState

Metrics = dict[str, jax.Array]
NUM_TIME_BINS = 4


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
    axis_name: str | None = None,
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

    Under `jax.pmap`, name the mapped axis in `axis_name`: each device passes its part of the batch
    and draws what a single device would have drawn for it. Source: algorithm 1 of GMFlow.
    """
    if loss not in ("transition", "flow"):
        raise ValueError(
            f"loss is {loss!r}, but only 'transition' (GMFlow) and 'flow' (the L2 baseline) exist."
        )
    if loss == "flow" and spectrum_apply is not None:
        raise ValueError(
            "A spectrum was given with loss 'flow', but it describes samples of a mixture. Use "
            "loss='transition', or leave the spectrum out."
        )
    if loss == "flow":
        draw_options["transition_ratio"] = 1.0

    def draw(key, batch):
        x_0, labels = batch["x_0"], batch.get("labels")
        first_index = 0 if axis_name is None else jax.lax.axis_index(axis_name) * x_0.shape[0]
        return draw_example(key, x_0, labels, first_index=first_index, **draw_options)

    def loss_fn(params, example):
        labels = () if example.labels is None else (example.labels,)
        prediction = apply(params, example.x_t, example.t, *labels)
        per_sample = loss_weight * _per_sample(_loss(prediction, example, loss))
        parts = {}
        if spectrum_apply is not None:
            values = _spectral_loss(partial(spectrum_apply, params), prediction, example)
            spectral = spectral_loss_weight * _per_sample(values)
            parts = {"loss_transition": jnp.mean(per_sample), "loss_spectral": jnp.mean(spectral)}
            per_sample = per_sample + spectral
        return jnp.mean(per_sample), (per_sample, parts)

    def train_step(state, batch, key):
        example = draw(jax.random.fold_in(key, state.step), batch)
        (value, (per_sample, parts)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, example
        )
        bins = _time_bins(per_sample, example.t)
        if axis_name is not None:
            value, parts, grads = jax.lax.pmean((value, parts, grads), axis_name)
            bins = jax.lax.psum(bins, axis_name)
        grad_norm = optax.tree.norm(grads)
        decay = ema_decay(state.step)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        new_state = _update(state, grads, optimizer, decay, finite)
        metrics = {
            "loss": value,
            **parts,
            "grad_norm": grad_norm,
            "ema_decay": decay,
            "skipped": 1 - finite.astype(jnp.int32),
            "num_skipped": new_state.num_skipped,
            **jax.tree.map(lambda x: jnp.where(finite, x, 0.0), bins),
        }
        if learning_rate is not None:
            rate = learning_rate(state.step - state.num_skipped)
            metrics["learning_rate"] = jnp.asarray(rate, jnp.float32)
        return new_state, metrics

    return train_step


def _loss(prediction, example: TransitionExample, loss: str) -> jax.Array:
    if loss == "transition":
        return losses.transition_loss(prediction, example.x_t, example.x_s, example.t, example.s)
    is_mixture = isinstance(prediction, gm.GaussianMixture)
    velocity = gm.mean(prediction) if is_mixture else prediction
    return losses.flow_matching_loss(velocity, example.x_0, example.noise)


def _spectral_loss(spectrum: Callable, prediction, example: TransitionExample) -> jax.Array:
    q = jax.lax.stop_gradient(flow.to_data(prediction, example.x_t, example.t))
    return losses.spectral_loss(spectrum(gm.moment_match(q)), q, example.x_0)


def _per_sample(values: jax.Array) -> jax.Array:
    return jnp.mean(values.reshape(values.shape[0], -1), axis=-1)


def _update(state: TrainState, grads, optimizer, decay, finite) -> TrainState:
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    new = (params, update_ema(state.ema_params, params, decay), opt_state)
    old = (state.params, state.ema_params, state.opt_state)
    params, ema_params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), new, old
    )
    return TrainState(
        params=params, ema_params=ema_params, opt_state=opt_state, step=state.step + 1,
        num_skipped=state.num_skipped + 1 - finite.astype(jnp.int32),
    )


def _time_bins(per_sample: jax.Array, t: jax.Array) -> Metrics:
    index = jnp.minimum((t * NUM_TIME_BINS).astype(jnp.int32), NUM_TIME_BINS - 1)
    member = index[:, None] == jnp.arange(NUM_TIME_BINS)[None, :]
    return {
        "time_bin_sum": jnp.sum(jnp.where(member, per_sample[:, None], 0.0), axis=0),
        "time_bin_count": jnp.sum(member.astype(jnp.float32), axis=0),
    }
