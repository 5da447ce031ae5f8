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
_UNITS = 60  # of the progress bar, for one number of network calls; a training step is one
_START_SEED, _STEP_SEED = range(2)


def problem_name(variant: str) -> str:
    return claims.PLAIN if variant == "flow" else f"K = {variant}"


def suited(contenders: Sequence[Contender], variant: str) -> list[Contender]:
    """Who runs on a network: plain solvers where a mean is enough, GM solvers on mixtures."""
    if variant == "flow":
        return [c for c in contenders if not c.uses_mixture]
    few = variant in ("1", "2")
    mixture = [c for c in contenders if c.uses_mixture and not (few and c.name == UNCONVERTED)]
    # The strongest mixture network also shows what plain solvers make of its mean.
    plain = [c for c in contenders if not (c.uses_mixture or c.loses_first_call)]
    return mixture + (plain if variant == "64" else [])


def units(settings: Settings, contenders: Sequence[Contender]) -> int:
    cells = sum(len(suited(contenders, variant)) for variant in settings.networks) * len(settings.nfes)
    return cells * _UNITS + len(settings.networks) * settings.num_training_steps


def run(study: Study) -> str:
    """Train the networks, score every contender on them; write the figures; return the Markdown."""
    x_1 = start_noise(study.settings.num_board_samples, 2, _START_SEED)
    exact = _exact_scores(study.settings)
    sections = [_INTRODUCTION.format(**exact)]
    for variant in study.settings.networks:
        trained = _train(study, variant)
        network = Network(trained.apply, 2, {variant: trained.params})
        problem, cells = problem_name(variant), {}
        for cell in sweep(network, suited(study.contenders, variant), study.settings.nfes, x_1, _STEP_SEED):
            cells.setdefault(cell.contender.name, []).append(cell.samples)
            study.record(PART, problem, cell.contender, cell.nfe, board_scores(cell.samples))
            study.advance(f"checkerboard, {problem}: {cell.contender.name}", _UNITS)
        sections.append(_section(study, problem, f"checkerboard_{variant}.png", cells, exact))
    sections.append(claims.section(study.records))
    return "\n\n".join(sections)


def _train(study: Study, variant: str) -> trained.TrainedRun:
    config = checkerboard_study.get_config(variant)
    config.num_steps = study.settings.num_training_steps
    config.optimizer.warm_up_steps = min(config.optimizer.warm_up_steps, config.num_steps // 10)
    workdir = study.out / "runs" / f"checkerboard_{variant}"
    before = study.bar.n
    fit_run(config, workdir, lambda: study.advance(f"training {problem_name(variant)}"))
    study.bar.update(before + config.num_steps - study.bar.n)  # what an earlier run had done
    return trained.load_run(str(workdir))


def _section(
    study: Study, problem: str, file: str, cells: dict[str, list[np.ndarray]], exact: dict[str, float]
) -> str:
    nfes = study.settings.nfes

    def columns(*metrics: str) -> list[tables.Values]:
        return [tables.values(study.records, problem, metric) for metric in metrics]

    inside, variation = columns("inside", "total_variation")
    captions = [[(inside[name][nfe], variation[name][nfe]) for nfe in nfes] for name in cells]
    note = f"exact points: 1 / {exact['total_variation']:.3f}"
    rows = [textwrap.fill(name, 10) for name in cells]
    figures.histogram_grid(study.out / file, rows, nfes, list(cells.values()), captions, note)
    return "\n\n".join([
        f"### {problem}",
        f"![Histograms of samples, {problem}: solvers in rows, network calls in columns]({file})",
        "Share inside the white squares / total variation:",
        tables.by_nfe([inside, variation], nfes, "{:.3f} / {:.3f}".format),
        "Spread / centre / edge:",
        tables.by_nfe(columns("spread", "centre", "edge"), nfes, "{:.2f} / {:.2f} / {:.2f}".format),
    ])


def _exact_scores(settings: Settings) -> dict[str, float]:
    """What as many exact points score."""
    n = settings.num_board_samples
    return {"num_samples": n, "total_variation": evaluation.checkerboard_floor(n)[0]}


_INTRODUCTION = """## Checkerboard

Five networks of one size and training: mixtures of K components, and plain flow matching. Each cell has \
{num_samples:,} samples; as many exact points score a total variation of {total_variation:.3f}. Spread is \
the mean squared radius over the board's, centre the share in the central quarter and edge the share \
beyond three quarters of the half-width, each over the board's own share: 1 is right, spread below 1 is \
pulled inward, above 1 pushed outward."""
