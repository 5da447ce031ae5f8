"""Time of the solvers without the network, relative to a forward pass of a GM-DiT.

  python -m experiments.benchmarks.solver_overhead
  python -m experiments.benchmarks.solver_overhead --network=DiT-S/2,DiT-XL/2 --batch_size=125 \\
    --dtype=bfloat16

Solvers run on stored predictions instead of the network's: GM solvers on mixtures with probabilistic
guidance, plain solvers on velocities with classifier-free guidance. Columns: `of_forward_percent` is their
time per step relative to ONE forward pass of the same batch. `of_step_percent` is relative to all `forwards`
of the step; guidance needs two, which it makes as one forward pass of twice the batch. If the whole network
takes too long for --seconds, one with fewer blocks is measured and the time is scaled by the operations, see
`forward_is`.
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


class SolverChoice(NamedTuple):
    """A solver with its options, see `solvers.by_name`; `spectrum` is whether it draws with a spectrum."""

    solver: str
    order: int = 2
    spectrum: bool = False

    @property
    def plain(self) -> bool:
        """Whether it uses velocities, the predictions of plain flow matching, instead of mixtures."""
        return not self.solver.startswith("gm_")


_CHOICES = {
    "gm_ode 2": SolverChoice("gm_ode"),
    "gm_ode 1": SolverChoice("gm_ode", order=1),
    "gm_pc": SolverChoice("gm_pc"),
    "gm_sde 2": SolverChoice("gm_sde"),
    "gm_sde 1": SolverChoice("gm_sde", order=1),
    "gm_sde 2 spectrum": SolverChoice("gm_sde", spectrum=True),
    **{name: SolverChoice(name) for name in solvers.NAMES if not name.startswith("gm_")},
}

_NETWORK = flags.DEFINE_list("network", ["DiT-S/2", "DiT-XL/2"], f"Networks, {inputs.NETWORK_HELP}.")
_CONFIG = inputs.define_network_flags()
_SOLVERS = flags.DEFINE_list("solvers", list(_CHOICES), "Names of solvers.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 4, "Samples in a batch.", lower_bound=1)
_STEPS = flags.DEFINE_integer("num_steps", 8, "Steps of a solver, over which its time is averaged.", 1)
_SUBSTEPS = flags.DEFINE_integer("num_substeps", 16, "Sub-steps of gm_ode and gm_pc.", lower_bound=1)
_SCALE = flags.DEFINE_float("guidance_scale", 0.3, "Scale of probabilistic guidance; 0 is off.", 0.0, 0.99)
_SECONDS = flags.DEFINE_float("seconds", 30.0, "Time for each network and all solvers.", lower_bound=0.0)
_OUT = cli.define_path("out", None, OUT_HELP)


def main() -> None:
    """Run the benchmark."""
    with cli.report_user_errors():
        chosen = {name: _solver_choice(name) for name in _SOLVERS.value}
        configs = {name: _CONFIG(name) for name in _NETWORK.value}
        if not chosen or not configs:
            raise ValueError("There is nothing to compare; give at least one of --solvers and of --network.")
        report = Report("solver_overhead", _OUT.value)
    config = next(iter(configs.values()))  # predictions of all networks have the same shapes
    calls = {name: sampling_call(choice, config) for name, choice in chosen.items()}
    rate = floors.matmul_rate(config.dtype)
    for name, config in configs.items():
        _measure(report, name, config, rate, chosen, calls)
    report.finish()


def _measure(report: Report, network: str, config: models.GMDiTConfig, rate: float, chosen, calls) -> None:
    """Add the rows of one network; `rate` is that of a large matrix product."""
    measured = reduce_depth(config, _BATCH_SIZE.value, _SECONDS.value, rate)
    scaling = models.forward_flops(config) / models.forward_flops(measured)
    source = "measured" if measured == config else f"scaled from {measured.depth} of {config.depth} blocks"
    timings = timing.measure(
        {"forward": forward_call(measured, _BATCH_SIZE.value), **calls}, _SECONDS.value, log=report.log
    )
    for name, choice in chosen.items():
        forwards = calls_per_step(choice.solver) * (2 if _SCALE.value else 1)
        share = timings.ratio(name, "forward").scaled(100 / _STEPS.value / scaling)
        report.add(
            network=network,
            solver=name,
            ms_per_step=timings.seconds(name).scaled(1e3 / _STEPS.value),
            forward_ms=timings.seconds("forward").scaled(1e3 * scaling),
            of_forward_percent=share,
            forwards=forwards,
            of_step_percent=share.scaled(1 / forwards),
            forward_is=source,
        )


def _solver_choice(name: str) -> SolverChoice:
    if name not in _CHOICES:
        raise ValueError(f"There is no solver {name!r} here; give some of: {', '.join(_CHOICES)}.")
    return _CHOICES[name]


def reduce_depth(
    config: models.GMDiTConfig, batch_size: int, seconds: float, rate: float
) -> models.GMDiTConfig:
    """Reduce the number of blocks, to not less than two, so that ten forward passes fit into the time.

    Args:
      config: configuration of the whole network.
      batch_size: samples in a forward pass.
      seconds: time for ten forward passes.
      rate: operations per second of a large matrix product; the network is assumed to reach half of it.

    Returns:
      The configuration with the largest possible number of blocks.
    """
    for depth in range(config.depth, 2, -1):
        reduced = dataclasses.replace(config, depth=depth)
        if 10 * batch_size * models.forward_flops(reduced) / (rate / 2) <= seconds:
            return reduced
    return dataclasses.replace(config, depth=min(config.depth, 2))


def forward_call(config: models.GMDiTConfig, batch_size: int) -> timing.Call:
    """Return a forward pass of the network with random weights."""
    apply, params = inputs.random_network(models.GMDiT, config)
    x = jax.random.normal(jax.random.key(1), (batch_size, *config.input_height_width, config.in_channels))
    labels = jnp.arange(batch_size) % config.num_classes
    return functools.partial(jax.jit(apply), params, x, jnp.full((batch_size,), 0.5), labels)


def sampling_call(choice: SolverChoice, config: models.GMDiTConfig) -> timing.Call:
    """Return all steps of a solver on stored predictions of the size of the network's."""
    size, channels = config.input_size, config.in_channels
    shape = (_BATCH_SIZE.value, size, size, channels)
    mixtures = (*shape[:3], config.num_components, channels)
    keys = jax.random.split(jax.random.key(0), 4)
    stored = [
        jax.random.normal(key, shape) if choice.plain else inputs.random_mixture(key, mixtures)
        for key in keys[:2]
    ]
    apply, params = inputs.random_network(models.SpectrumMLP, models.SpectrumMLPConfig(size, channels))
    scale = jnp.float32(inputs.CFG_SCALE if choice.plain else _SCALE.value)
    run = jax.jit(functools.partial(_sample, choice, apply))
    x = jax.random.normal(keys[2], shape)
    return functools.partial(run, params, keys[3], x, stored, jnp.float32(0), scale)


def _sample(
    choice: SolverChoice, apply_spectrum: Callable, params, key, x, stored, zero, scale
) -> jax.Array:
    spectrum = functools.partial(apply_spectrum, params) if choice.spectrum else None
    solver = solvers.by_name(choice.solver, choice.order, _SUBSTEPS.value, spectrum=spectrum)

    def predict(x_t, t, prediction):
        return flow.denoiser(_stored_velocity(prediction, zero))(x_t, t)

    if _SCALE.value:
        # The predictions take the place of the classes, so that copying both into one batch is measured too.
        both = guidance.in_one_batch(predict, *stored)
        denoise = guidance.guided_denoiser(both, None, scale, "cfg" if choice.plain else "probabilistic")
    else:
        denoise = functools.partial(predict, prediction=stored[0])
    return solvers.sample(key, denoise, x, solver, flow.time_grid(_STEPS.value))


def _stored_velocity(
    prediction: GaussianMixture | jax.Array, zero: jax.Array
) -> Callable[[jax.Array, Any], Any]:
    """Return velocity(x_t, t) that returns `prediction` + 0 * x_t.

    `zero` is an argument of the compiled program, so XLA cannot move computations that depend on the
    prediction out of the loop over the steps. The prediction is also read in each step, like the output of a
    network.
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
