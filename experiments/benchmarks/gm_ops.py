"""Speed of the mixture operations, compared with a copy of the bytes that they must move.

  python -m experiments.benchmarks.gm_ops
  python -m experiments.benchmarks.gm_ops --batch_size=16,128 --out=gm_ops.json

Each operation is measured in turn with a copy of the same number of bytes. Columns: `bytes` counts every
input and every output once, `copy_share` is the bandwidth relative to the copy, and `times_copy` the time
relative to the copy. The last rows compute one formula, the mean of the posterior, for three orders of axes
in memory. The time of a call includes waiting for its result; on a GPU use batches for which this wait does
not matter, such as --batch_size=1024,8192.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

from experiments.benchmarks import floors, inputs, timing
from experiments.benchmarks.report import OUT_HELP, Report
from experiments.common import cli
from gmflow_jax import flow, gm, guidance, losses

_BATCH_SIZE = flags.DEFINE_list("batch_size", ["16"], "Batch sizes, separated by commas.")
_SIZE = flags.DEFINE_integer("input_size", 32, "Height and width of a sample.", lower_bound=1)
_COMPONENTS = flags.DEFINE_integer("num_components", 8, "Components K of each mixture.", lower_bound=1)
_CHANNELS = flags.DEFINE_integer("in_channels", 4, "Channels D of a pixel.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 1.0, "Time for each operation.", lower_bound=0.0)
_OUT = cli.define_path("out", None, OUT_HELP)

# Axes of the components and of the channels in the means.
_LAYOUTS = {"[B, H, W, K, D]": (3, 4), "[B, H, W, D, K]": (4, 3), "[K, D, B, H, W]": (0, 1)}


class Operation(NamedTuple):
    """A function with its arguments, and its name in the table."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    @property
    def num_bytes(self) -> int:
        """The bytes of all inputs and outputs."""
        return floors.num_bytes(self.arguments, jax.eval_shape(self.function, *self.arguments))

    @property
    def call(self) -> timing.Call:
        """The call of the compiled function."""
        return functools.partial(jax.jit(self.function), *self.arguments)


def main() -> None:
    """Run the benchmark."""
    with cli.report_user_errors():
        batch_sizes = inputs.whole_numbers(_BATCH_SIZE)
        report = Report("gm_ops", _OUT.value)
    for batch_size in batch_sizes:
        shape = (batch_size, _SIZE.value, _SIZE.value, _COMPONENTS.value, _CHANNELS.value)
        for operation in operations(shape):
            _measure(report, [operation], shape)
        _measure(report, layouts(shape), shape)
    report.finish()


def _measure(report: Report, group: list[Operation], shape: tuple[int, ...]) -> None:
    """Measure operations that move the same number of bytes in turn, and add a row for each."""
    size = group[0].num_bytes
    calls = {operation.name: operation.call for operation in group}
    timings = timing.measure(calls | {"copy": floors.copy_call(size)}, _SECONDS.value * len(group))
    for name in calls:
        seconds = timings.seconds(name)
        report.add(
            operation=name,
            shape=str(list(shape)),
            ms=seconds.scaled(1e3),
            bytes=size,
            gb_per_s=size / seconds.median / 1e9,
            copy_share=timings.ratio("copy", name),
            times_copy=timings.ratio(name, "copy"),
            first_s=timings.first[name],
        )


def operations(shape: tuple[int, int, int, int, int]) -> list[Operation]:
    """Return the operations on mixtures with means of shape [B, H, W, K, D]."""
    keys = jax.random.split(jax.random.key(0), 5)
    q, uncond = (inputs.random_mixture(key, shape) for key in keys[:2])
    x_t, x_s, noise = (jax.random.normal(key, (*shape[:3], shape[4])) for key in keys[2:])
    t, s = jnp.linspace(0.4, 0.9, shape[0]), jnp.linspace(0.2, 0.8, shape[0])
    var = jnp.full((shape[0], 1, 1), 0.2)
    narrow, wide = gm.Gaussian(x_s, var), gm.Gaussian(x_t, 2 * var)
    scale, from_t = jnp.float32(0.3), (q, x_t, t, x_s, s)

    def guide(cond, uncond, scale):
        guided = guidance.probabilistic_guidance(cond, uncond, scale)
        return guided.mixture, guided.surrogate, guided.bias

    def mean_loss(q, x_t, x_s, t, s):
        return jnp.mean(losses.transition_loss(q, x_t, x_s, t, s))

    transition = (q, x_t, x_s, t, s)
    return [
        Operation("posterior", flow.posterior, from_t),
        Operation("posterior, then its mean", lambda *arguments: gm.mean(flow.posterior(*arguments)), from_t),
        Operation("posterior mean", flow.posterior_mean, from_t),
        Operation("mean", gm.mean, (q,)),
        Operation("mixture x Gaussian", gm.multiply, (q, narrow)),
        Operation("reweight", gm.reweight, (q, narrow, wide)),
        Operation("probabilistic guidance", guide, (q, uncond, scale)),
        Operation("transport z -> x", gm.from_standard_normal, (q, noise)),
        Operation("transport x -> z", gm.to_standard_normal, (q, x_t)),
        Operation("transition loss", losses.transition_loss, transition),
        Operation("transition loss and gradient", jax.value_and_grad(mean_loss), transition),
    ]


def layouts(shape: tuple[int, int, int, int, int]) -> list[Operation]:
    """Return the posterior mean of mixtures with means [B, H, W, K, D], for several orders of axes."""
    keys = jax.random.split(jax.random.key(0), 3)
    q = inputs.random_mixture(keys[0], shape)
    x_t, x_s = (jax.random.normal(key, (*shape[:3], shape[4])) for key in keys[1:])
    variants = []
    for name, (k, d) in _LAYOUTS.items():
        arguments = (
            jnp.moveaxis(q.means, (3, 4), (k, d)),
            jnp.moveaxis(q.log_weights, 3, k - (d < k)),
            *(jnp.moveaxis(x, 3, d - (k < d)) for x in (x_t, x_s)),
            jnp.float32(0.15), jnp.float32(0.7), jnp.float32(0.5),
        )  # fmt: skip
        function = functools.partial(_posterior_mean, axes=(k, d))
        variants.append(Operation(f"posterior mean, plain, {name}", function, arguments))
    return variants


def _posterior_mean(means, log_weights, x_t, x_s, var, t, s, axes: tuple[int, int]) -> jax.Array:
    """Compute the mean of eq. 10; `axes` are the axes of components and channels in the means."""
    k, d = axes
    of_weights, of_x = k - (d < k), d - (k < d)  # axis of components in log_weights, of channels in x
    ratio = jnp.square(s / t)
    linear = (1 - s) * x_s - ratio * (1 - t) * x_t
    precision = jnp.square(1 - s) - ratio * jnp.square(1 - t)
    total = jnp.square(s) + var * precision
    exponent = _over(jnp.add, means * (jnp.expand_dims(linear, k) - 0.5 * precision * means), d) / total
    logits = log_weights + exponent
    weights = jnp.exp(logits - jnp.expand_dims(_over(jnp.maximum, logits, of_weights), of_weights))
    mean = _over(jnp.add, jnp.expand_dims(weights, d) * means, k)
    mean = mean / jnp.expand_dims(_over(jnp.add, weights, of_weights), of_x)
    return (jnp.square(s) * mean + var * linear) / total


def _over(operation: Callable, x: jax.Array, axis: int) -> jax.Array:
    """Reduce a short axis element by element; XLA's reductions took 2 to 5 times as long on a CPU."""
    return functools.reduce(operation, jnp.unstack(x, axis=axis))


if __name__ == "__main__":
    cli.run(main)
