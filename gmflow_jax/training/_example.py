"""Random draws that turn a batch of data into training examples."""

import dataclasses

import jax
import jax.numpy as jnp

from gmflow_jax import flow
from gmflow_jax._arguments import check_labels, check_number
from gmflow_jax._meshes import leading_like

# Below this time the noise in x_t is less than 1e-4 of the data, and float32 keeps fewer than three
# of its digits. The authors' floor is 1e-7 in [0, 1], with t - s >= 1e-7.
MIN_TRAINING_TIME = 1e-4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TransitionExample:
    """A batch of transitions from time s to the noisier time t (algorithm 1 of GMFlow).

    Attributes:
      x_0: data [B, ..., C].
      x_s: noisy data at time s, [B, ..., C].
      x_t: noisy data at time t, [B, ..., C].
      noise: standard normals of the transition from x_s to x_t, [B, ..., C].
      s: times [B], with 0 <= s < t.
      t: times [B], with t <= 1.
      labels: int [B]; None for unconditional data.
    """

    x_0: jax.Array
    x_s: jax.Array
    x_t: jax.Array
    noise: jax.Array
    s: jax.Array
    t: jax.Array
    labels: jax.Array | None


def make_example(
    x_0: jax.Array,
    labels: jax.Array | None,
    t: jax.Array,
    noise_0: jax.Array,
    noise_1: jax.Array,
    label_uniform: jax.Array | None = None,
    *,
    transition_ratio: float = 0.5,
    class_dropout_prob: float = 0.0,
    num_classes: int | None = None,
) -> TransitionExample:
    """Make training examples from given draws; `draw_example` makes the draws.

    Args:
      x_0: data [B, ..., C].
      labels: int [B], or None for unconditional data.
      t: times [B] in [0, 1], raised to MIN_TRAINING_TIME if they are below it.
      noise_0: standard normals of the step from x_0 to x_s, [B, ..., C].
      noise_1: standard normals of the step from x_s to x_t, [B, ..., C].
      label_uniform: uniform numbers [B]; a label is dropped where this is at least 1 - class_dropout_prob.
        None if no labels are to be dropped.
      transition_ratio: (t - s) / t, in (0, 1].
      class_dropout_prob: probability with which a label is replaced by the null label.
      num_classes: number of classes, and the null label.

    Returns:
      The examples.

    Raises:
      ValueError: if an option is out of range, a label that is not traced is neither a class nor the null
        label, or dropping labels lacks `num_classes` or `label_uniform`.
    """
    _check_options(labels, transition_ratio, class_dropout_prob, num_classes)
    if labels is not None and num_classes is not None:
        check_labels(labels, num_classes, allow_null=True)
    t = jnp.clip(t, MIN_TRAINING_TIME, 1.0)
    s = (1.0 - transition_ratio) * t
    x_s = flow.interpolate(x_0, noise_0, s)
    x_t = flow.forward_transition(x_s, noise_1, s, t)
    if labels is not None and class_dropout_prob > 0:
        if label_uniform is None:
            raise ValueError("label_uniform is None, but labels are to be dropped; give uniform numbers [B].")
        assert num_classes is not None  # _check_options raises otherwise
        labels = jnp.where(label_uniform >= 1.0 - class_dropout_prob, num_classes, labels)
    return TransitionExample(x_0=x_0, x_s=x_s, x_t=x_t, noise=noise_1, s=s, t=t, labels=labels)


def draw_example(
    key: jax.Array,
    x_0: jax.Array,
    labels: jax.Array | None = None,
    *,
    first_index: int | jax.Array = 0,
    transition_ratio: float = 0.5,
    class_dropout_prob: float = 0.1,
    num_classes: int | None = None,
    shift: float = 1.0,
    logit_normal: bool = True,
    mean: float = 0.0,
    std: float = 1.0,
) -> TransitionExample:
    """Draw times, noise and dropped labels for a batch.

    Sample i is drawn with `fold_in(key, first_index + i)`, so a part of a batch gets the same draws as within
    the whole batch.

    Args:
      key: random key.
      x_0: data [B, ..., C].
      labels: int [B], or None for unconditional data.
      first_index: index of the first sample in the whole batch.
      transition_ratio: (t - s) / t, in (0, 1]; 1 is the plain loss, the paper uses 0.5.
      class_dropout_prob: probability with which a label is replaced by the null label.
      num_classes: number of classes, and the null label; needed if labels are dropped.
      shift: shift of the times, see `flow.sample_time`.
      logit_normal: whether times before the shift are logit-normal instead of uniform.
      mean: mean of the logits.
      std: standard deviation of the logits.

    Returns:
      The examples.

    Raises:
      ValueError: if an option is out of range, or labels are dropped without `num_classes`.

    Source:
      GMFlow (arXiv 2504.05304), algorithm 1.
    """
    _check_options(labels, transition_ratio, class_dropout_prob, num_classes)
    check_number("shift", shift, "(0, inf)")
    check_number("mean", mean, "(-inf, inf)")
    check_number("std", std, "(0, inf)")

    def draw(index):
        keys = jax.random.split(jax.random.fold_in(key, index), 3)
        t = flow.sample_time(keys[0], (), shift, logit_normal, mean, std)
        noise_0, noise_1 = jax.random.normal(keys[1], (2, *x_0.shape[1:]), x_0.dtype)
        return t, noise_0, noise_1, jax.random.uniform(keys[2])

    index = leading_like(jnp.arange(x_0.shape[0]), x_0)
    t, noise_0, noise_1, label_uniform = jax.vmap(draw)(first_index + index)
    return make_example(
        x_0, labels, t, noise_0, noise_1, label_uniform, transition_ratio=transition_ratio,
        class_dropout_prob=class_dropout_prob, num_classes=num_classes,
    )


def _check_options(labels, transition_ratio, class_dropout_prob, num_classes) -> None:
    if not 0.0 < transition_ratio <= 1.0:
        raise ValueError(
            f"transition_ratio is {transition_ratio}, but s = (1 - ratio) t must lie in [0, t); "
            "give a ratio in (0, 1]; 1 is the plain loss, the paper uses 0.5."
        )
    if not 0.0 <= class_dropout_prob <= 1.0:
        raise ValueError(
            f"class_dropout_prob is {class_dropout_prob}, which is no probability; "
            "give a value in [0, 1]; the paper uses 0.1."
        )
    if labels is not None and class_dropout_prob > 0 and num_classes is None:
        raise ValueError(
            f"Labels are to be dropped with probability {class_dropout_prob}, but num_classes is "
            "None, so the null label is unknown; give num_classes or class_dropout_prob=0."
        )
