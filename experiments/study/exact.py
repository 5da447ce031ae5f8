"""Part (a): networks whose flow and data are known, and the same networks with an error."""

from collections.abc import Sequence

import numpy as np

from experiments.study import figures, problems, tables
from experiments.study.base import Settings, Study
from experiments.study.contenders import CALL_LOSERS, CALL_LOST, UNCONVERTED, Contender
from experiments.study.scores import endpoint_error, energy_distance_to
from experiments.study.sweep import Network, start_noise, sweep
from gmflow_jax import solvers

PART = "exact"
_OFF_CENTRE = "2-D off centre"
_UNITS = 30  # of the progress bar, for one number of network calls of one solver on one network
_FLOOR_REPEATS = 8
_START_SEED, _STEP_SEED, _DATA_SEED, _OTHER_START_SEED, _OTHER_STEP_SEED, _FLOOR_SEED = range(6)


def networks() -> dict[str, Network]:
    return {"2-D": problems.plane(), "16-D": problems.space(), _OFF_CENTRE: problems.plane(offset=1.0)}


def suited(contenders: Sequence[Contender], name: str) -> list[Contender]:
    """Who runs on a network: off centre those that can lose a call; else all that lose none.

    What an adapter loses is 0 for centred data. The solver without eq. 10 is for the board alone.
    """
    losers = {f"{solver}{lost}" for solver in CALL_LOSERS for lost in ("", CALL_LOST)}
    if name == _OFF_CENTRE:
        return [c for c in contenders if c.name in losers]
    return [c for c in contenders if not c.loses_first_call and c.name != UNCONVERTED]


def units(settings: Settings, contenders: Sequence[Contender]) -> int:
    num_cells = sum(len(net.variants) * len(suited(contenders, name)) for name, net in networks().items())
    return _UNITS * num_cells * len(settings.nfes)


def run(study: Study) -> str:
    """Score every contender on every network; write the figures; return the Markdown."""
    sections = [_INTRODUCTION]
    for name, network in networks().items():
        if not suited(study.contenders, name):
            continue
        notes = _score(study, name, network)
        for variant in network.variants:
            problem = f"{name} {variant}"
            errors = tables.values(study.records, problem, "endpoint_error")
            distances = tables.values(study.records, problem, "energy_distance")
            to_limit = tables.values(study.records, problem, "energy_distance_to_limit")
            file = f"errors_{problem.lower().replace(' ', '_')}.png"
            floor = notes["floor"]
            figures.error_curves(study.out / file, problem, errors, distances, floor)
            sections.append(_section(study, problem, notes[variant], floor, errors, distances, to_limit))
            sections.append(f"![Errors against network calls, {problem}]({file})")
    sections.append(_lost_call_section(study))
    return "\n\n".join(sections)


def _score(study: Study, name: str, network: Network) -> dict:
    """Record all numbers of a network; what to say of each variant, and the floor of the distances."""
    settings = study.settings
    n, num_known = settings.num_samples, settings.num_reference_samples
    x_1 = start_noise(n, network.num_dims, _START_SEED)
    to_data = energy_distance_to(problems.sample_data(network, n, _DATA_SEED))
    again = [
        to_data(problems.sample_data(network, n, _FLOOR_SEED + i)) for i in range(_FLOOR_REPEATS)
    ]
    notes = {"floor": float(np.sqrt(np.mean(np.square(again))))}
    known = {}
    for variant, params in network.variants.items():
        coarse, known[variant] = (
            problems.flow_endpoint(params, x_1[:num_known], steps)
            for steps in (settings.num_reference_steps // 2, settings.num_reference_steps)
        )
        moved = endpoint_error(coarse, known[variant])
        notes[variant] = f"Halving the reference's steps moves it by {moved:.1e}."
    notes[problems.RIPPLED] += (
        f" The mean velocity is off by {problems.relative_error(network):.1%} RMS."
    )
    to_limit = _limits(network, settings)
    for cell in sweep(network, suited(study.contenders, name), settings.nfes, x_1, _STEP_SEED):
        stochastic = cell.contender.stochastic
        metrics = {"energy_distance": to_data(cell.samples)}
        if cell.variant == problems.RIPPLED:
            metrics["energy_distance_to_limit"] = to_limit[stochastic](cell.samples)
        if not stochastic:
            metrics["endpoint_error"] = endpoint_error(cell.samples[:num_known], known[cell.variant])
        study.record(PART, f"{name} {cell.variant}", cell.contender, cell.nfe, metrics)
        study.advance(f"{name} {cell.variant}: {cell.contender.name}", _UNITS)
    return notes


def _limits(network: Network, settings: Settings) -> dict:
    """Energy distance to what endless steps would give, from other noise: {stochastic: distance}.

    With an error in the network the ODE and the SDE have different laws, neither that of the data; all
    SDE solvers share a limit, since the mixture's spread weighs less and less in a step.
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
    """How many times as large the endpoint error is without the first call."""
    ratios = {}
    for name, network in networks().items():
        for variant in network.variants:
            found = tables.values(study.records, f"{name} {variant}", "endpoint_error")
            for solver in CALL_LOSERS:
                lossy = found.get(f"{solver}{CALL_LOST}")
                if lossy and solver in found:
                    ratio = {nfe: lossy[nfe] / found[solver][nfe] for nfe in lossy}
                    ratios[f"{solver}, {name} {variant}"] = ratio
    return "\n\n".join([
        "### What the lost first call costs",
        "The paper's baselines run through an adapter that makes the estimate of x_0 at t = 1 zero, whatever "
        "the network says (\"call lost\" above). The right estimate there is the data's mean: so nothing is "
        "lost where that is 0, and much where it is not, as it may be for one class of many. "
        "Endpoint error over that of the same solver without the fault:",
        tables.by_nfe([ratios], study.settings.nfes, "{:.2f}".format),
    ])


def _four_places(value: float) -> str:
    return f"{round(value, 4) + 0.0:.4f}"  # + 0.0 turns -0.0 into 0.0


_INTRODUCTION = """## Exact networks

Data is a Gaussian mixture of mean 0 (off centre: 1 in each channel) and mean variance 1, and the network \
is its exact posterior. \
"With error": smooth waves are added to the means and logits of the predicted mixture. The endpoint error \
is the distance to where the network's own mean velocity leads, solved in float64 by Runge-Kutta of order \
4. Energy distance is unbiased, so it can be negative. Heun makes one call more than its column says where \
that is even."""
