"""Part (a): networks whose flow and data are known exactly, and the same networks with an error."""

from collections.abc import Sequence

import numpy as np

from experiments.study import figures, problems, tables
from experiments.study.base import Settings, Study
from experiments.study.contenders import ADAPTED, ADAPTED_SOLVERS, UNCONVERTED, Contender
from experiments.study.scores import endpoint_error, energy_distance_to
from experiments.study.sweep import Network, start_noise, sweep
from gmflow_jax import solvers

PART = "exact"
_OFF_CENTER = "2-D off centre"
_UNITS = 30  # of the progress bar, for a solver on a network at one number of network calls
_FLOOR_REPEATS = 8
_START_SEED, _STEP_SEED, _DATA_SEED, _OTHER_START_SEED, _OTHER_STEP_SEED, _FLOOR_SEED = range(6)


def networks() -> dict[str, Network]:
    """Return the networks by name."""
    return {"2-D": problems.plane(), "16-D": problems.space(), _OFF_CENTER: problems.plane(offset=1.0)}


def contenders_for(contenders: Sequence[Contender], name: str) -> list[Contender]:
    """Select the solvers for a network.

    On data that is not centred, only the solvers that the paper runs through the adapter are compared, with
    and without it. The adapter changes nothing on centred data, so there all solvers run without it. The
    solver without eq. 10 runs only on the checkerboard.
    """
    adapted = {f"{solver}{adapter}" for solver in ADAPTED_SOLVERS for adapter in ("", ADAPTED)}
    if name == _OFF_CENTER:
        return [c for c in contenders if c.name in adapted]
    return [c for c in contenders if not c.drops_first_call and c.name != UNCONVERTED]


def units(settings: Settings, contenders: Sequence[Contender]) -> int:
    """Return the length of this part in units of the progress bar."""
    num_cells = sum(
        len(network.variants) * len(contenders_for(contenders, name)) for name, network in networks().items()
    )
    return _UNITS * num_cells * len(settings.nfes)


def run(study: Study) -> str:
    """Score the solvers on every network, write the figures, and return the Markdown."""
    sections = [_INTRODUCTION]
    for name, network in networks().items():
        if not contenders_for(study.contenders, name):
            continue
        floor, notes = _score(study, name, network)
        for variant in network.variants:
            problem = f"{name} {variant}"
            errors = tables.values(study.records, problem, "endpoint_error")
            distances = tables.values(study.records, problem, "energy_distance")
            to_limit = tables.values(study.records, problem, "energy_distance_to_limit")
            file = f"errors_{problem.lower().replace(' ', '_')}.png"
            figures.error_curves(study.out / file, problem, errors, distances, floor)
            sections.append(_section(study, problem, notes[variant], floor, errors, distances, to_limit))
            sections.append(f"![Errors against network calls, {problem}]({file})")
    sections.append(_lost_call_section(study))
    return "\n\n".join(sections)


def _score(study: Study, name: str, network: Network) -> tuple[float, dict[str, str]]:
    """Record all numbers of a network.

    Returns:
      The RMS energy distance of two sets of exact samples, and {variant: note for its section}.
    """
    settings = study.settings
    n, num_known = settings.num_samples, settings.num_reference_samples
    x_1 = start_noise(n, network.num_dims, _START_SEED)
    to_data = energy_distance_to(problems.sample_data(network, n, _DATA_SEED))
    exact_distances = [
        to_data(problems.sample_data(network, n, _FLOOR_SEED + i)) for i in range(_FLOOR_REPEATS)
    ]
    floor = float(np.sqrt(np.mean(np.square(exact_distances))))
    notes, endpoints = {}, {}
    for variant, params in network.variants.items():
        coarse, endpoints[variant] = (
            problems.flow_endpoint(params, x_1[:num_known], steps)
            for steps in (settings.num_reference_steps // 2, settings.num_reference_steps)
        )
        change = endpoint_error(coarse, endpoints[variant])
        notes[variant] = f"With half as many steps the reference solution changes by {change:.1e}."
    notes[problems.RIPPLED] += (
        f" The mean velocity has a relative error of {problems.relative_error(network):.1%} RMS."
    )
    to_limit = _limits(network, settings)
    for cell in sweep(network, contenders_for(study.contenders, name), settings.nfes, x_1, _STEP_SEED):
        stochastic = cell.contender.stochastic
        metrics = {"energy_distance": to_data(cell.samples)}
        if cell.variant == problems.RIPPLED:
            metrics["energy_distance_to_limit"] = to_limit[stochastic](cell.samples)
        if not stochastic:
            metrics["endpoint_error"] = endpoint_error(cell.samples[:num_known], endpoints[cell.variant])
        study.record(PART, f"{name} {cell.variant}", cell.contender, cell.nfe, metrics)
        study.advance(f"{name} {cell.variant}: {cell.contender.name}", _UNITS)
    return floor, notes


def _limits(network: Network, settings: Settings) -> dict:
    """Return {stochastic: function that measures the energy distance to the limit of many steps}.

    If the network has an error, the ODE and the SDE have different distributions, and neither is that of the
    data. All SDE solvers have the same limit, because the width of the mixture matters less in smaller steps.
    The samples of the limits start from other noise.
    """
    params = network.variants[problems.RIPPLED]
    x_1 = start_noise(settings.num_samples, network.num_dims, _OTHER_START_SEED)
    rippled = network._replace(variants={problems.RIPPLED: params})
    ddpm = Contender("DDPM small", solvers.ddpm("small"), stochastic=True)
    finest = next(sweep(rippled, [ddpm], (settings.num_limit_steps,), x_1, _OTHER_STEP_SEED))
    endpoint = problems.flow_endpoint(params, x_1, settings.num_reference_steps // 4)
    return {True: energy_distance_to(finest.samples), False: energy_distance_to(endpoint)}


def _section(study, problem, note, floor, errors, distances, to_limit) -> str:
    nfes = study.settings.nfes
    blocks = [
        f"### {problem}",
        note,
        "Endpoint error, RMS:",
        tables.errors_by_nfe(errors, nfes),
        f"Energy distance to the data (two sets of exact samples: {floor:.4f} RMS):",
        tables.by_nfe([distances], nfes, _four_places),
    ]
    if to_limit:
        blocks += [
            "Energy distance to the limit of many steps (ODE solvers: the float64 flow from other noise; "
            f"SDE solvers: DDPM small with {study.settings.num_limit_steps} steps):",
            tables.by_nfe([to_limit], nfes, _four_places),
        ]
    return "\n\n".join(blocks)


def _lost_call_section(study: Study) -> str:
    """Compare the endpoint errors with and without the first call."""
    ratios = {}
    for name, network in networks().items():
        for variant in network.variants:
            errors = tables.values(study.records, f"{name} {variant}", "endpoint_error")
            for solver in ADAPTED_SOLVERS:
                adapted = errors.get(f"{solver}{ADAPTED}")
                if adapted and solver in errors:
                    ratio = {nfe: adapted[nfe] / errors[solver][nfe] for nfe in adapted}
                    ratios[f"{solver}, {name} {variant}"] = ratio
    return "\n\n".join([
        "### Effect of the lost first call",
        "The paper runs its baselines through an adapter that sets the estimate of x_0 at t = 1 to zero "
        "(\"call lost\" above). The correct estimate there is the mean of the data. The adapter therefore "
        "changes nothing if that mean is 0, but causes an error otherwise, for instance for a single class. "
        "The table shows the endpoint error with the adapter, divided by the error of the same solver "
        "without it:",
        tables.by_nfe([ratios], study.settings.nfes, "{:.2f}".format),
    ])


def _four_places(value: float) -> str:
    return f"{round(value, 4) + 0.0:.4f}"  # + 0.0 turns -0.0 into 0.0


_INTRODUCTION = """## Exact networks

The data is a Gaussian mixture with mean 0 (off centre: 1 in each channel) and mean variance 1, and the \
network is its exact posterior. "With error" means that smooth waves are added to the means and logits of \
the predicted mixture. The endpoint error is the distance to the endpoint of the flow of the network's own \
mean velocity, solved in float64 by the Runge-Kutta method of order 4. The energy distance is estimated \
without bias, so it can be negative. In columns with an even number of network calls, Heun makes one call \
more."""
