"""The random draws that turn a batch of data into training examples."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from gmflow_jax import flow

# Below this time the noise in x_t is under 1e-4 of the data, and float32 keeps less than three
# digits of it. The authors' floor is 1e-7 in [0, 1], with t - s >= 1e-7.
MIN_TRAINING_TIME = 1e-4


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TransitionExample:
    """A batch of transitions from time s to the noisier time t (algorithm 1 of GMFlow).

    `x_0`, `x_s`, `x_t` and `noise` (the one that led from x_s to x_t) are [B, ..., C]; `s` and `t`
    are [B] with 0 <= s < t <= 1; `labels` is int [B], or None for unconditional data.
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
    """Builds examples from given draws; `draw_example` makes the draws.

    `x_0` and the standard normals `noise_0` (from x_0 to x_s) and `noise_1` (from x_s to x_t) are
    [B, ..., C]. `t` [B] in [0, 1] is raised to MIN_TRAINING_TIME; s = (1 - transition_ratio) t.
    Labels become the null label `num_classes` where `label_uniform` [B] is at least
    1 - class_dropout_prob.
    """
    _check_options(labels, transition_ratio, class_dropout_prob, num_classes)
    t = jnp.clip(t, MIN_TRAINING_TIME, 1.0)
    s = (1.0 - transition_ratio) * t
    x_s = flow.interpolate(x_0, noise_0, s)
    x_t = flow.forward_transition(x_s, noise_1, s, t)
    if labels is not None and class_dropout_prob > 0:
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
    """Draws times, noises and dropped labels for `x_0` [B, ..., C] and `labels` [B] or None.

    Sample i is drawn with `fold_in(key, first_index + i)`, so a part of a batch gets what it would
    get within the whole. `shift`, `logit_normal`, `mean` and `std` are those of
    `flow.sample_time`, the rest those of `make_example`.
    """
    _check_options(labels, transition_ratio, class_dropout_prob, num_classes)

    def draw(index):
        keys = jax.random.split(jax.random.fold_in(key, index), 3)
        t = flow.sample_time(keys[0], (), shift, logit_normal, mean, std)
        noise_0, noise_1 = jax.random.normal(keys[1], (2, *x_0.shape[1:]), x_0.dtype)
        return t, noise_0, noise_1, jax.random.uniform(keys[2])

    t, noise_0, noise_1, label_uniform = jax.vmap(draw)(first_index + jnp.arange(x_0.shape[0]))
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
