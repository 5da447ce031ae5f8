"""Distillation into a network for few steps: its mixture policy imitates a teacher's velocity."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gmflow_jax import flow, gm, losses
from gmflow_jax._arguments import append_axes, check_number, whole_number
from gmflow_jax._meshes import leading_like, where
from gmflow_jax.flow._substeps import check_substeps
from gmflow_jax.flow._time import check_shift, shift_time
from gmflow_jax.training._example import MIN_TRAINING_TIME
from gmflow_jax.training._loss import Metrics, mean_per_sample, time_bins
from gmflow_jax.training._state import TrainState
from gmflow_jax.training._update import make_update_step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PolicyExample:
    """A batch of draws for the distillation of a policy.

    Attributes:
      x_0: data [B, ..., C]; unused if the student starts from noise.
      noise: standard normals [B, ..., C].
      s: times of the student's calls [B], upper borders of the intervals.
      ends: times [B, 2] at which student and teacher are compared, s >= ends[:, 0] >= ends[:, 1].
      keys: [B] keys for the dropped components.
      labels: int [B]; None for unconditional data.
    """

    x_0: jax.Array
    noise: jax.Array
    s: jax.Array
    ends: jax.Array
    keys: jax.Array
    labels: jax.Array | None


def make_distillation_step(
    apply: Callable[..., Any],
    teacher: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    ema_decay: Callable[[ArrayLike], jax.Array],
    *,
    num_calls: int,
    shift: float = 1.0,
    learning_rate: optax.Schedule | None = None,
    power_stds: Sequence[float] = (),
    num_microbatches: int = 1,
    axis_name: str | None = None,
    working_copy: Callable[[Any], Any] = lambda params: params,
    **options: Any,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Make the step that trains a student to sample in few network calls, which the caller compiles.

    A prediction at time s is a velocity field for all times below s (`flow.policy_velocity`). The student
    learns to make this field equal to the teacher's velocity along the student's own path, up to its next
    call. `solvers.gm_ode(order=1)` on `flow.time_grid(num_calls, shift)` samples from it.

    As for `make_train_step`, draws depend on `key` and `state.step` only, a step whose loss or gradient is
    not finite changes nothing, and the metrics are the same.

    Args:
      apply: the student, as in `make_train_step`. A plain velocity [B, ..., C] counts as one component of
        standard deviation 1, as in `flow.denoiser`.
      teacher: velocity(teacher_params, x_t, t, labels), or without labels if the batch has none, see
        `make_teacher`. It is called with 2 B samples; nothing is differentiated.
      optimizer: the optimiser.
      ema_decay: function from the iteration to the decay of the average.
      num_calls: number of network calls N that the student is made for; the uniform grid of N steps is
        shifted by `shift`.
      shift: shift of the time grid, see `flow.time_grid`.
      learning_rate: see `make_train_step`.
      power_stds: see `make_train_step`.
      num_microbatches: see `make_train_step`.
      axis_name: see `make_train_step`.
      working_copy: see `make_train_step`; it also gathers the teacher's parameters.
      **options: `num_substeps`, `integrator`, `dropout` and `data_free` of `make_policy_loss`.

    Returns:
      step(state, batch, key, teacher_params) -> (state, metrics). The batch is {'x_0': [B, ..., C],
      'labels': int [B]}, where labels are optional. With data_free, x_0 only gives the shape and the dtype.

    Raises:
      ValueError: if an option is out of range.

    Source:
      pi-Flow (arXiv 2510.14974), policy imitation.
    """
    loss_fn = make_policy_loss(
        apply, teacher, num_calls=num_calls, shift=shift, working_copy=working_copy, **options
    )

    def draw(key, batch, first_index):
        return draw_policy_example(
            key, batch["x_0"], batch.get("labels"), num_calls=num_calls, shift=shift, first_index=first_index
        )

    return make_update_step(
        draw, loss_fn, optimizer, ema_decay, learning_rate=learning_rate, power_stds=power_stds,
        num_microbatches=num_microbatches, axis_name=axis_name,
    )


def draw_policy_example(
    key: jax.Array,
    x_0: jax.Array,
    labels: jax.Array | None = None,
    *,
    num_calls: int,
    shift: float = 1.0,
    first_index: int | jax.Array = 0,
) -> PolicyExample:
    """Draw times, noise and keys for a batch.

    The interval of a sample is one of the num_calls equal intervals of the time before the shift. The two
    times of the comparison are uniform in its first and in its second half, in decreasing order: the loss
    has the mean that two independent uniform times would give, apart from the error of the sub-steps, and
    less variance. As in `draw_example`, sample i is drawn with `fold_in(key, first_index + i)`.

    Args:
      key: random key.
      x_0: data [B, ..., C].
      labels: int [B], or None for unconditional data.
      num_calls: number of network calls.
      shift: shift of the time grid.
      first_index: index of the first sample in the whole batch.

    Returns:
      The draws. Times are at least `MIN_TRAINING_TIME`.
    """
    num_calls = whole_number("num_calls", num_calls, 1)
    check_shift(shift)

    def draw(index):
        keys = jax.random.split(jax.random.fold_in(key, index), 4)
        border = jax.random.randint(keys[0], (), 1, num_calls + 1).astype(jnp.float32)
        after = (jnp.arange(2, dtype=jnp.float32) + jax.random.uniform(keys[1], (2,), jnp.float32)) / 2
        u = (border - jnp.concatenate([jnp.zeros_like(after[:1]), after])) / num_calls
        times = jnp.maximum(shift_time(u, shift), MIN_TRAINING_TIME)
        return times[0], times[1:], jax.random.normal(keys[2], x_0.shape[1:], x_0.dtype), keys[3]

    index = leading_like(jnp.arange(x_0.shape[0]), x_0)
    s, ends, noise, keys = jax.vmap(draw)(first_index + index)
    return PolicyExample(x_0=x_0, noise=noise, s=s, ends=ends, keys=keys, labels=labels)


def make_policy_loss(
    apply: Callable[..., Any],
    teacher: Callable[..., jax.Array],
    *,
    num_calls: int,
    shift: float = 1.0,
    num_substeps: int = 128,
    integrator: str = "euler",
    dropout: float = 0.05,
    data_free: bool = False,
    working_copy: Callable[[Any], Any] = lambda params: params,
) -> Callable[..., tuple[jax.Array, tuple[Metrics, Metrics]]]:
    """Make the loss function of a batch, as `make_distillation_step` uses it.

    Args:
      apply: the student, as in `make_distillation_step`.
      teacher: as in `make_distillation_step`.
      num_calls: number of network calls.
      shift: shift of the time grid.
      num_substeps: sub-steps of the path from t = 1 to 0. Each of the two parts of a sample's path takes the
        share of an interval, num_substeps / num_calls.
      integrator: method of the sub-steps, see `flow.follow_policy`.
      dropout: probability with which a component is left out along the path, see `gm.drop_components`.
      data_free: whether the student is called where its own samples pass, from noise on, instead of at noisy
        data. This takes num_calls - 1 more forward passes.
      working_copy: maps parameters to the form in which the networks use them, see `sharding.Parallelism`.

    Returns:
      loss_fn(params, example, teacher_params) -> (loss, (parts, time_bins)), as `make_loss`. The loss is the
      mean of `losses.policy_loss` over both times, samples and pixels; `parts` is empty.

    Raises:
      ValueError: if an option is out of range.
    """
    num_calls = whole_number("num_calls", num_calls, 1)
    check_substeps(num_substeps, shift, integrator)
    check_number("dropout", dropout, "[0, 1)")
    share = -(-num_substeps // num_calls)

    def predict(params, x, s, labels):
        return flow.denoiser(lambda x, t: apply(params, x, t, *_given(labels)))(x, s)

    def follow(q, x_s, s, x, t, end):
        return flow.follow_policy(q, x_s, s, x, t, end, share, shift, integrator)

    def loss_fn(params, example, teacher_params):
        params, teacher_params = working_copy(params), working_copy(teacher_params)
        s, labels = example.s, example.labels
        if data_free:
            x_s = _own_points(jax.lax.stop_gradient(params), example, predict, follow, num_calls, shift)
        else:
            x_s = flow.interpolate(example.x_0, example.noise, s)
        q = predict(params, x_s, s, labels)
        path = gm.drop_components(example.keys, jax.lax.stop_gradient(q), dropout)
        t_1, t_2 = jnp.unstack(example.ends, axis=1)
        x_1 = follow(path, x_s, s, x_s, s, t_1)
        x_2 = follow(path, x_s, s, x_1, t_1, t_2)
        both = (_interleave(x_1, x_2), _interleave(t_1, t_2), *(_interleave(v, v) for v in _given(labels)))
        wanted = _checked_velocity(jax.lax.stop_gradient(teacher(teacher_params, *both)), both[0])
        values = [
            mean_per_sample(losses.policy_loss(q, x_s, s, x, t, jax.lax.slice_in_dim(wanted, i, None, 2)))
            for i, (x, t) in enumerate(((x_1, t_1), (x_2, t_2)))
        ]
        return jnp.mean(jnp.stack(values)), ({}, time_bins(_interleave(*values), both[1]))

    return loss_fn


def _own_points(
    params: Any, example: PolicyExample, predict: Callable, follow: Callable, num_calls: int, shift: float
) -> jax.Array:
    """Follow the student from noise to the time of each sample's call."""
    x = example.noise
    for i in range(num_calls, 1, -1):
        t, end = (leading_like(shift_time(jnp.float32(j / num_calls), shift), x) for j in (i, i - 1))
        moved = follow(predict(params, x, t, example.labels), x, t, x, t, end)
        # Not s <= end, since the same border may be rounded otherwise in another program.
        x = where(append_axes(example.s < (t + end) / 2, x.ndim - 1), moved, x)
    return x


def _checked_velocity(velocity: Any, x: jax.Array) -> jax.Array:
    shape = getattr(velocity, "shape", None)
    if shape != x.shape:
        found = f"a {type(velocity).__name__}" if shape is None else f"shape {shape}"
        raise ValueError(
            f"The teacher returned {found} for points of shape {x.shape}, but it must return one velocity "
            "for each point; make_teacher makes such a function of a network that predicts a mixture."
        )
    return velocity


def _given(labels: jax.Array | None) -> tuple[jax.Array, ...]:
    return () if labels is None else (labels,)


def _interleave(a: jax.Array, b: jax.Array) -> jax.Array:
    """Stack along the batch axis, so that both values of a sample stay on its device."""
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])
