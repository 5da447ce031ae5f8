"""Part (b): trained networks on the checkerboard, figures 2 and 3 of the paper."""

import textwrap
from collections.abc import Sequence

import numpy as np

from experiments.common import figures
from experiments.configs import checkerboard_study
from experiments.runs import trained
from experiments.study import claims, tables
from experiments.study.base import Settings, Study
from experiments.study.contenders import UNCONVERTED, Contender
from experiments.study.scores import board_scores
from experiments.study.sweep import Network, start_noise, sweep
from experiments.training.fit import fit_run
from gmflow_jax import evaluation

PART = "checkerboard"
_UNITS = 60  # of the progress bar, for a solver at one NFE; a training step is one unit
_START_SEED, _STEP_SEED = range(2)


def problem_name(variant: str) -> str:
    """Return the name of a network in tables, for its variant of `configs.checkerboard_study`."""
    return claims.PLAIN if variant == "flow" else f"K = {variant}"


def contenders_for(contenders: Sequence[Contender], variant: str) -> list[Contender]:
    """Select the solvers for a network: plain solvers for plain flow, and GM solvers for mixtures."""
    if variant == "flow":
        return [c for c in contenders if not c.uses_mixture]
    few_components = variant in ("1", "2")
    mixture = [c for c in contenders if c.uses_mixture and not (few_components and c.name == UNCONVERTED)]
    # The largest mixture also runs with plain solvers, which use its mean.
    plain = [c for c in contenders if not (c.uses_mixture or c.drops_first_call)]
    return mixture + (plain if variant == "64" else [])


def units(settings: Settings, contenders: Sequence[Contender]) -> int:
    """Return the length of this part in units of the progress bar."""
    num_solvers = sum(len(contenders_for(contenders, variant)) for variant in settings.networks)
    return num_solvers * len(settings.nfes) * _UNITS + len(settings.networks) * settings.num_training_steps


def run(study: Study) -> str:
    """Train the networks, score the solvers on them, write the figures, and return the Markdown."""
    x_1 = start_noise(study.settings.num_board_samples, 2, _START_SEED)
    num_samples = study.settings.num_board_samples
    floor = evaluation.checkerboard_floor(num_samples)[0]
    sections = [_INTRODUCTION.format(num_samples=num_samples, total_variation=floor)]
    for variant in study.settings.networks:
        run = _train(study, variant)
        network = Network(run.apply, 2, {variant: run.params})
        contenders = contenders_for(study.contenders, variant)
        problem, samples = problem_name(variant), {}
        for cell in sweep(network, contenders, study.settings.nfes, x_1, _STEP_SEED):
            samples.setdefault(cell.contender.name, []).append(cell.samples)
            study.record(PART, problem, cell.contender, cell.nfe, board_scores(cell.samples))
            study.advance(f"checkerboard, {problem}: {cell.contender.name}", _UNITS)
        sections.append(_section(study, problem, f"checkerboard_{variant}.png", samples, floor))
    sections.append(claims.section(study.records))
    return "\n\n".join(sections)


def _train(study: Study, variant: str) -> trained.TrainedRun:
    config = checkerboard_study.get_config(variant)
    config.num_steps = study.settings.num_training_steps
    config.optimizer.warm_up_steps = min(config.optimizer.warm_up_steps, config.num_steps // 10)
    workdir = study.out / "runs" / f"checkerboard_{variant}"
    before = study.bar.n
    fit_run(config, workdir, lambda: study.advance(f"training {problem_name(variant)}"))
    study.bar.update(before + config.num_steps - study.bar.n)  # steps that an earlier call had made
    return trained.load_run(str(workdir))


def _section(
    study: Study, problem: str, file: str, samples: dict[str, list[np.ndarray]], floor: float
) -> str:
    """Draw the histograms of a network; return its Markdown. `samples` are {solver: [of each NFE]}."""
    nfes = study.settings.nfes

    def columns(*metrics: str) -> list[tables.Values]:
        return [tables.values(study.records, problem, metric) for metric in metrics]

    inside, variation = columns("inside", "total_variation")
    captions = [[(inside[name][nfe], variation[name][nfe]) for nfe in nfes] for name in samples]
    note = f"exact points: 1 / {floor:.3f}"
    rows = [textwrap.fill(name, 10) for name in samples]
    figures.histogram_grid(study.out / file, rows, nfes, list(samples.values()), captions, note)
    return "\n\n".join([
        f"### {problem}",
        f"![Histograms of samples, {problem}: solvers in rows, network calls in columns]({file})",
        "Share inside the white squares / total variation:",
        tables.by_nfe([inside, variation], nfes, "{:.3f} / {:.3f}".format),
        "Spread / centre / edge:",
        tables.by_nfe(columns("spread", "centre", "edge"), nfes, "{:.2f} / {:.2f} / {:.2f}".format),
    ])


_INTRODUCTION = """## Checkerboard

The networks have the same size and the same training: mixtures of K components, and plain flow matching. \
Each cell of a table is computed from {num_samples:,} samples. The same number of exact points has a total \
variation of {total_variation:.3f}. Spread is the mean squared radius of the samples, centre is their share \
in the central quarter of the board, and edge their share beyond three quarters of its half-width. All three \
are relative to the exact distribution, for which they are 1. A spread below 1 means that samples are pulled \
inward, above 1 that they are pushed outward."""
