"""The likelihood of trained runs: time-averaged -log q(x_0 | x_t) in bits per dimension.

The protocol of the paper's table 3. x_0 is a training sample in the model's space (for digits blocks of
2 x 2 pixels in [-1, 1]; 1,024 of a folder of latents), x_t = (1 - t) x_0 + t noise with t uniform in (0, 1],
and q the prediction of the averaged parameters for the sample's class, unguided. Its log-density, 2 pi
included, is summed over the sample; with a spectrum, pixels are not independent and the spectral factor
(eq. 20) is added. The mean over times and samples is divided by the number of dimensions and log 2.

x_0 counts as continuous, so bits/dim below 0 are right where q is narrow. -log q of the velocity is
larger by -E[log t] = 1 nat in each dimension, 1.443 bits/dim, whatever the network.
"""

import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from experiments.common import cli, files, provenance
from experiments.common.batches import full_batches
from experiments.runs import trained
from gmflow_jax import evaluation, flow, gm, losses

NUM_TIMES = 32
_SEED = 0
_NUM_TIME_BINS = 4


@dataclasses.dataclass(frozen=True)
class RunLikelihood:
    """-log q(x_0 | x_t) of one run in bits/dim, [num_times, N]: draw j has t in (j, j + 1] / num_times."""

    name: str
    num_components: int
    spectrum: bool
    bits: np.ndarray

    def by_time(self) -> list[float]:
        """The mean in each quarter of the time axis, data first."""
        return [float(part.mean()) for part in np.array_split(self.bits, _NUM_TIME_BINS)]


def report_nll(
    workdirs: list[str], out: str | os.PathLike, num_times: int = NUM_TIMES
) -> list[RunLikelihood]:
    """Measure the runs, print their table and write it as json.

    Each sample is seen at `num_times` (at least 4) times, one in each equal part of the time axis. All
    runs get the same draws, so that the differences between rows are known better than the rows.
    """
    out = pathlib.Path(out)
    with cli.report_user_errors():
        provenance.check_out(out)
        loaded = trained.load_comparable(workdirs, scored=False)
        x_0, labels = loaded[0].task.training_data
    with tqdm(total=len(loaded) * num_times, desc="likelihood", unit="time") as bar:
        rows = []
        for workdir, run in zip(workdirs, loaded, strict=True):
            bar.set_postfix_str(workdir)
            rows += _rows(workdir, run, x_0, labels, num_times, bar.update)
    heading = (
        f"-log q(x_0 | x_t) in bits/dim of the {loaded[0].config.task} training data: mean ± standard "
        f"error over {len(x_0):,} samples\nof {x_0[0].size} dimensions, each at {num_times} times, t uniform "
        "in (0, 1]; densities of continuous x_0, lower is better"
    )
    print(likelihood_table(rows, heading))
    files.write_text(out, json.dumps({
        "heading": heading,
        "runs": trained.describe_runs(workdirs, loaded),
        "versions": provenance.versions(),
        "rows": _named(rows),
        "unit": "bits/dim",
        "num_samples": len(x_0),
        "num_dims": x_0[0].size,
        "num_times": num_times,
        "seed": _SEED,
        "seed_rule": "draw j of sample i: fold_in(fold_in(key(seed), i), j)",
    }, indent=2) + "\n")  # fmt: skip
    print(f"Wrote {out}.")
    return rows


def _rows(
    workdir: str, run: trained.TrainedRun, x_0, labels, num_times: int, update: Callable
) -> list[RunLikelihood]:
    """A row without the spectrum, and one with it where the run has learned one."""

    def model(params):
        now = dataclasses.replace(run, params=params)
        return now.denoiser, now.spectrum("gm_sde")

    nll = draw_nll(model, run.params, x_0, labels, num_times, run.task.sample_batch_size, update)
    with cli.report_user_errors():
        _check_finite(workdir, nll)
    bits = evaluation.bits_per_dim(nll, x_0[0].size)
    name = f"{workdir} (plain flow, std 1)" if run.config.loss.loss == "flow" else str(workdir)
    num_components = run.config.network.num_components
    return [RunLikelihood(name, num_components, bool(i), values) for i, values in enumerate(bits)]


def _check_finite(workdir: str, nll: np.ndarray) -> None:
    bad = ~np.isfinite(nll)
    if bad.any():
        rounds = np.flatnonzero(bad.any((0, 2)))
        num_times = nll.shape[1]
        raise ValueError(
            f"{workdir}: {bad.sum()} of {bad.size} log-likelihoods are NaN or infinite, at times between "
            f"{rounds[0] / num_times:.3g} and {(rounds[-1] + 1) / num_times:.3g}. The network diverges "
            "there: train it longer, or on more of these times (config.loss.logit_normal=False)."
        )


def draw_nll(
    model: Callable,
    params: Any,
    x_0: np.ndarray,
    labels: np.ndarray,
    num_times: int,
    batch_size: int,
    update: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """-log q(x_0 | x_t) at stratified times, in nats: [1, num_times, N], with a spectrum [2, ...].

    Args:
      model: params -> (denoiser, spectrum), of which denoiser(labels [B]) -> denoise(x_t, t), as
        `TrainedRun.denoiser`; for both see `conditional_nll`.
      params: an argument of what is compiled. As constants XLA (jax 0.10.2) folds them, and in one of 20
        compilations it has made NaN of parameters that are all 0.
      x_0: [N, ...]; labels: [N].
      num_times: draws of time and noise for each sample.
      batch_size: samples in a compiled call; the draws do not depend on it.
      update: called after each of the `num_times` rounds.
    """

    @jax.jit
    def batch_nll(params, x_0, labels, indices, j):
        denoiser, spectrum = model(params)
        t, noise = jax.vmap(lambda i: _draw(i, j, num_times, x_0.shape[1:]))(indices)
        return jnp.stack(conditional_nll(denoiser(labels), x_0, t, noise, spectrum))

    batches = full_batches(len(x_0), min(batch_size, len(x_0)))
    rounds = []
    for j in range(num_times):
        parts = [np.asarray(batch_nll(params, x_0[i], labels[i], i, j)) for i in batches]
        rounds.append(np.concatenate(parts, axis=1)[:, : len(x_0)])
        update()
    return np.stack(rounds, axis=1)


def _draw(i, j, num_times: int, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Time and noise of draw j of sample i."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(_SEED), i), j)
    time_key, noise_key = jax.random.split(key)
    t = (j + 1 - jax.random.uniform(time_key)) / num_times  # never 0, where q is a point
    return t, jax.random.normal(noise_key, shape)


def conditional_nll(
    denoise: Callable, x_0: jax.Array, t: jax.Array, noise: jax.Array, spectrum: Callable | None = None
) -> list[jax.Array]:
    """-log q(x_0 | x_t) of each sample, [B], nats summed over its pixels and channels.

    Args:
      denoise: denoise(x_t, t) -> mixture over x_0.
      x_0, noise: [B, ..., D]; with a spectrum [B, H, W, D].
      t: [B].
      spectrum: Gaussian matched to that mixture -> log power [B, H, W, D], or None.

    Returns:
      [pixels independent], or [pixels independent, pixels drawn with the spectrum].
    """
    q = denoise(flow.interpolate(x_0, noise, t), t)
    independent = sum_per_sample(losses.mixture_nll(q, x_0))
    if spectrum is None:
        return [independent]
    factor = losses.spectral_loss(spectrum(gm.moment_match(q)), q, x_0)
    return [independent, independent + sum_per_sample(factor)]


def sum_per_sample(values: jax.Array) -> jax.Array:
    return jnp.sum(values.reshape(values.shape[0], -1), axis=-1)


def likelihood_table(rows: list[RunLikelihood], heading: str) -> str:
    """One line for each row: mean, paired difference to the row above, and quarters of the time axis."""
    width = max(len(name) for name in [*(row.name for row in rows), "run"]) + 2
    edges = [f"{i / _NUM_TIME_BINS:g}" for i in range(_NUM_TIME_BINS + 1)]
    quarters = "".join(f"{f't {a}-{b}':>12}" for a, b in itertools.pairwise(edges))
    lines = [heading, "", f"{'run':{width}}{'K':>3}{'spectrum':>10}{'NLL':>18}{'to row above':>18}{quarters}"]
    for row, above in zip(rows, [None, *rows], strict=False):
        lines.append(
            f"{row.name:{width}}{row.num_components:>3}{'yes' if row.spectrum else 'no':>10}"
            f"{_cell(row.bits):>18}{_cell(row.bits - above.bits) if above else '':>18}"
            + "".join(f"{value:>12.3f}" for value in row.by_time())
        )
    return "\n".join(lines) + "\n"


def _named(rows: list[RunLikelihood]) -> list[dict]:
    """The rows as json has them."""
    return [
        {
            "run": row.name,
            "num_components": row.num_components,
            "spectrum": row.spectrum,
            "nll": _mean_and_error(row.bits),
            "difference_to_row_above": _mean_and_error(row.bits - above.bits) if above else None,
            "by_quarter_of_time": [round(value, 6) for value in row.by_time()],
        }
        for row, above in zip(rows, [None, *rows], strict=False)
    ]


def _mean_and_error(bits: np.ndarray) -> dict[str, float]:
    """Mean, and its standard error over samples, of values [num_times, N]."""
    per_sample = bits.mean(0)
    standard_error = per_sample.std(ddof=1) / np.sqrt(len(per_sample))
    return {"mean": round(float(per_sample.mean()), 6), "standard_error": round(float(standard_error), 6)}


def _cell(bits: np.ndarray) -> str:
    mean, standard_error = _mean_and_error(bits).values()
    return f"{mean:.4f} ± {standard_error:.4f}"
