"""What the solvers cost beside the network: a step of everything else against one forward of a GM-DiT.

  python -m experiments.benchmarks.solver_overhead
  python -m experiments.benchmarks.solver_overhead --network=DiT-S/2,DiT-XL/2 --batch_size=125 \\
    --dtype=bfloat16

Solvers run over stored predictions in place of the network's: those of mixtures with probabilistic guidance,
the plain ones with classifier-free guidance on plain velocities. `of_forward_percent` is their time a step
in units of ONE forward of the same batch, `of_step_percent` in units of all `forwards` of the step, for
guidance needs two (which it makes as one of twice the batch). Where the whole network would take too long for
--seconds, one with fewer of its blocks is measured and scaled by the operations; the last column says so.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

from experiments.benchmarks import floors, inputs, timing
from experiments.benchmarks.report import OUT_HELP, Report
from experiments.common import cli
from experiments.common.solver_choices import calls_per_step
from gmflow_jax import flow, guidance, models, solvers
from gmflow_jax.gm import GaussianMixture


class Entry(NamedTuple):
    solver: str
    order: int = 2
    spectrum: bool = False

    @property
    def plain(self) -> bool:
        """Whether it only uses the mean, as a plain flow model gives it."""
        return not self.solver.startswith("gm_")


_ENTRIES = {
    "gm_ode 2": Entry("gm_ode"),
    "gm_ode 1": Entry("gm_ode", order=1),
    "gm_pc": Entry("gm_pc"),
    "gm_sde 2": Entry("gm_sde"),
    "gm_sde 1": Entry("gm_sde", order=1),
    "gm_sde 2 spectrum": Entry("gm_sde", spectrum=True),
    **{name: Entry(name) for name in solvers.NAMES if not name.startswith("gm_")},
}

_NETWORK = flags.DEFINE_list("network", ["DiT-S/2", "DiT-XL/2"], f"Networks, {inputs.NETWORK_HELP}.")
_CONFIG = inputs.define_network_flags()
_SOLVERS = flags.DEFINE_list("solvers", list(_ENTRIES), "Which solvers.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 4, "Samples.", lower_bound=1)
_STEPS = flags.DEFINE_integer("num_steps", 8, "Steps of a solver, over which its time is averaged.", 1)
_SUBSTEPS = flags.DEFINE_integer("num_substeps", 16, "Sub-steps of gm_ode and gm_pc.", lower_bound=1)
_SCALE = flags.DEFINE_float("guidance_scale", 0.3, "Of probabilistic guidance; 0 is none.", 0.0, 0.99)
_SECONDS = flags.DEFINE_float("seconds", 30.0, "Time for each network, with all solvers.", lower_bound=0.0)
_OUT = flags.DEFINE_string("out", None, OUT_HELP)


def main() -> None:
    with cli.report_user_errors():
        chosen = {name: _entry(name) for name in _SOLVERS.value}
        configs = {name: _CONFIG(name) for name in _NETWORK.value}
        if not chosen or not configs:
            raise ValueError("There is nothing to compare; give at least one of --solvers and of --network.")
        report = Report("solver_overhead", _OUT.value)
    config = next(iter(configs.values()))  # the networks differ within alone
    calls = {name: sampling_call(entry, config) for name, entry in chosen.items()}
    rate = floors.matmul_rate(config.dtype)
    for name, config in configs.items():
        _measure(report, name, config, rate, chosen, calls)
    report.finish()


def _measure(report: Report, network: str, config: models.GMDiTConfig, rate: float, chosen, calls) -> None:
    """The rows of one network; `rate` is that of a matrix product."""
    measured = affordable(config, _BATCH_SIZE.value, _SECONDS.value, rate)
    scaling = models.forward_flops(config) / models.forward_flops(measured)
    how = "measured" if measured == config else f"scaled from {measured.depth} of {config.depth} blocks"
    timings = timing.measure(
        {"forward": forward_call(measured, _BATCH_SIZE.value), **calls}, _SECONDS.value, say=report.say
    )
    for name, entry in chosen.items():
        forwards = calls_per_step(entry.solver) * (2 if _SCALE.value else 1)
        share = timings.ratio(name, "forward").scaled(100 / _STEPS.value / scaling)
        report.add(
            network=network,
            solver=name,
            ms_per_step=timings.seconds(name).scaled(1e3 / _STEPS.value),
            forward_ms=timings.seconds("forward").scaled(1e3 * scaling),
            of_forward_percent=share,
            forwards=forwards,
            of_step_percent=share.scaled(1 / forwards),
            forward_is=how,
        )


def _entry(name: str) -> Entry:
    if name not in _ENTRIES:
        raise ValueError(f"There is no solver {name!r} here; give some of: {', '.join(_ENTRIES)}.")
    return _ENTRIES[name]


def affordable(
    config: models.GMDiTConfig, batch_size: int, seconds: float, rate: float
) -> models.GMDiTConfig:
    """The network with as many of its blocks as leave time for ten forwards, two at least.

    `rate` is that of a matrix product, of which a network is taken to reach half.
    """
    for depth in range(config.depth, 2, -1):
        cut = dataclasses.replace(config, depth=depth)
        if 10 * batch_size * models.forward_flops(cut) / (rate / 2) <= seconds:
            return cut
    return dataclasses.replace(config, depth=min(config.depth, 2))


def forward_call(config: models.GMDiTConfig, batch_size: int) -> timing.Call:
    """One call of the network, random weights."""
    apply, params = inputs.random_network(models.GMDiT, config)
    x = jax.random.normal(jax.random.key(1), (batch_size, *config.input_height_width, config.in_channels))
    labels = jnp.arange(batch_size) % config.num_classes
    return functools.partial(jax.jit(apply), params, x, jnp.full((batch_size,), 0.5), labels)


def sampling_call(entry: Entry, config: models.GMDiTConfig) -> timing.Call:
    """All steps of a solver, over stored predictions as large as the network's."""
    size, channels = config.input_size, config.in_channels
    shape = (_BATCH_SIZE.value, size, size, channels)
    mixtures = (*shape[:3], config.num_components, channels)
    keys = jax.random.split(jax.random.key(0), 4)
    stored = [
        jax.random.normal(key, shape) if entry.plain else inputs.random_mixture(key, mixtures)
        for key in keys[:2]
    ]
    apply, params = inputs.random_network(models.SpectrumMLP, models.SpectrumMLPConfig(size, channels))
    scale = jnp.float32(inputs.CFG_SCALE if entry.plain else _SCALE.value)
    run = jax.jit(functools.partial(_sample, entry, apply))
    x = jax.random.normal(keys[2], shape)
    return functools.partial(run, params, keys[3], x, stored, jnp.float32(0), scale)


def _sample(entry: Entry, apply_spectrum: Callable, params, key, x, stored, zero, scale) -> jax.Array:
    spectrum = functools.partial(apply_spectrum, params) if entry.spectrum else None
    solver = solvers.by_name(entry.solver, entry.order, _SUBSTEPS.value, spectrum=spectrum)

    def predict(x_t, t, prediction):
        return flow.denoiser(_stand_in(prediction, zero))(x_t, t)

    if _SCALE.value:
        # The predictions are the conditions: so the copies that one call for both needs are counted.
        both = guidance.in_one_batch(predict, *stored)
        denoise = guidance.guided_denoiser(both, None, scale, "cfg" if entry.plain else "probabilistic")
    else:
        denoise = functools.partial(predict, prediction=stored[0])
    return solvers.sample(key, denoise, x, solver, flow.time_grid(_STEPS.value))


def _stand_in(prediction: GaussianMixture | jax.Array, zero: jax.Array) -> Callable[[jax.Array, Any], Any]:
    """velocity(x_t, t) that gives what is stored.

    `zero` is 0, which the compiler cannot know: without it everything that follows from the prediction alone
    would be computed once, before the loop over the steps. It is also read as the network's output would be.
    """

    def velocity(x_t: jax.Array, t: jax.Array) -> GaussianMixture | jax.Array:
        del t
        if not isinstance(prediction, GaussianMixture):
            return prediction + zero * x_t
        return GaussianMixture(
            prediction.means + zero * x_t[..., None, :],
            prediction.log_weights + zero * x_t[..., :1],
            prediction.log_std + zero * x_t[:, :1, :1, 0],
        )

    return velocity


if __name__ == "__main__":
    cli.run(main)
