"""The likelihood of trained runs: time-averaged -log q(x_0 | x_t) in bits per dimension.

This is the protocol of the paper's table 3. x_0 is a training sample in the model's space (for digits, blocks
of 2 x 2 pixels in [-1, 1]; 1,024 samples of a folder of latents), x_t = (1 - t) x_0 + t noise with t uniform
in (0, 1], and q is the unguided prediction of the averaged parameters for the sample's class. The
log-density, including the terms with 2 pi, is summed over the sample. With a spectrum, pixels are not
independent, and the spectral factor (eq. 20) is added. The mean over times and samples is divided by the
number of dimensions and by log 2.

x_0 is treated as continuous, so bits/dim can be negative where q is narrow. -log q of the velocity is larger
by -E[log t] = 1 nat in each dimension (1.443 bits/dim), for every network.
"""

import dataclasses
import itertools
import os
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
from gmflow_jax._files import to_path

NUM_TIMES = 32
_SEED = 0
_NUM_TIME_BINS = 4


@dataclasses.dataclass(frozen=True)
class RunLikelihood:
    """The likelihood of one run, with or without its spectrum.

    Attributes:
      name: name of its row in the table.
      num_components: number of components K of the mixtures.
      spectrum: whether pixels are drawn with the learned spectrum.
      bits: -log q(x_0 | x_t) in bits/dim, [num_times, N]; draw j has t in (j, j + 1] / num_times.
    """

    name: str
    num_components: int
    spectrum: bool
    bits: np.ndarray

    def by_time(self) -> list[float]:
        """Return the mean in each quarter of the time axis, starting at the data."""
        return [float(part.mean()) for part in np.array_split(self.bits, _NUM_TIME_BINS)]


def report_nll(
    workdirs: list[str], out: str | os.PathLike, num_times: int = NUM_TIMES
) -> list[RunLikelihood]:
    """Measure the likelihood of runs, print the table and write the report.

    All runs get the same draws, so that differences between rows have smaller errors than the rows.

    Args:
      workdirs: folders of runs of one task.
      out: the report, a .json file.
      num_times: number of times for each sample, at least 4, one in each equal part of the time axis.

    Returns:
      The rows of the table.

    Raises:
      cli.UserError: if the runs cannot be compared, a network diverges, or `out` cannot be written.
    """
    out = to_path(out)
    with cli.report_user_errors():
        provenance.check_out(out)
        loaded, (x_0, labels) = _load(workdirs)
    with tqdm(total=len(loaded) * num_times, desc="likelihood", unit="time") as bar:
        rows = []
        for workdir, run in zip(workdirs, loaded, strict=True):
            bar.set_postfix_str(workdir)
            rows += _measure(workdir, run, x_0, labels, num_times, bar.update)
    heading = (
        f"-log q(x_0 | x_t) in bits/dim of the {loaded[0].config.task} training data: mean ± standard "
        f"error over {len(x_0):,} samples\nof {x_0[0].size} dimensions, each at {num_times} times, t uniform "
        "in (0, 1]; densities of continuous x_0, lower is better"
    )
    print(likelihood_table(rows, heading))
    files.write_json(out, {
        "heading": heading,
        "runs": trained.describe_runs(workdirs, loaded),
        "versions": provenance.versions(),
        "rows": _rows_to_json(rows),
        "unit": "bits/dim",
        "num_samples": len(x_0),
        "num_dims": x_0[0].size,
        "num_times": num_times,
        "seed": _SEED,
        "seed_rule": "draw j of sample i: fold_in(fold_in(key(seed), i), j)",
    }, sort_keys=False)  # fmt: skip
    print(f"Wrote {out}.")
    return rows


def _load(workdirs: list[str]) -> tuple[list[trained.TrainedRun], tuple[np.ndarray, np.ndarray]]:
    """Load runs, and return them with their training data; raise ValueError if they cannot be compared."""
    loaded = trained.load_comparable(workdirs, scored=False)
    for workdir, run in zip(workdirs, loaded, strict=True):
        if run.num_calls is not None:
            raise ValueError(
                f"{workdir} was distilled for few calls: its mixtures are velocity fields, not densities "
                "of the data, so that it has no likelihood; give the run of its teacher."
            )
    training_data = loaded[0].task.training_data
    for workdir, run in zip(workdirs[1:], loaded[1:], strict=True):
        if not all(map(np.array_equal, run.task.training_data, training_data)):
            raise ValueError(
                f"{workdir} was trained on other data than {workdirs[0]}, such as another data.held_out or "
                "data.folder, so that their likelihoods of training data cannot be compared; evaluate them "
                "separately."
            )
    return loaded, training_data


def _measure(
    workdir: str, run: trained.TrainedRun, x_0, labels, num_times: int, update: Callable
) -> list[RunLikelihood]:
    """Return a row without the spectrum, and another one with it if the run has learned a spectrum."""

    def model(params):
        run_with_params = dataclasses.replace(run, params=params)
        return run_with_params.denoiser, run_with_params.spectrum("gm_sde")

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
    """Compute -log q(x_0 | x_t) at stratified times.

    Args:
      model: params -> (denoiser, spectrum), where denoiser(labels [B]) returns denoise(x_t, t), as
        `TrainedRun.denoiser` does; for denoise and spectrum see `conditional_nll`.
      params: argument of `model`.
      x_0: samples [N, ...].
      labels: classes [N].
      num_times: draws of time and noise for each sample.
      batch_size: samples in a compiled call; the draws do not depend on it.
      update: called after each of the `num_times` rounds.

    Returns:
      Nats, [1, num_times, N], or [2, num_times, N] with a spectrum.
    """

    # The parameters are an argument: as constants XLA (jax 0.10.2) folds them, and in one of 20 compilations
    # it has turned parameters that are all 0 into NaN.
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
    t = (j + 1 - jax.random.uniform(time_key)) / num_times  # never 0, where q has no width
    return t, jax.random.normal(noise_key, shape)


def conditional_nll(
    denoise: Callable, x_0: jax.Array, t: jax.Array, noise: jax.Array, spectrum: Callable | None = None
) -> list[jax.Array]:
    """Compute -log q(x_0 | x_t) of each sample, in nats summed over its pixels and channels.

    Args:
      denoise: denoise(x_t, t) -> mixture over x_0.
      x_0: samples [B, ..., D]; with a spectrum [B, H, W, D].
      t: times [B].
      noise: standard normal noise, of the shape of x_0.
      spectrum: Gaussian with the mean and the variance of the mixture -> log power [B, H, W, D], or None.

    Returns:
      [for independent pixels], or [for independent pixels, for pixels drawn with the spectrum], each [B].

    Source:
      GMFlow (arXiv 2504.05304), table 3 and eq. 20.
    """
    q = denoise(flow.interpolate(x_0, noise, t), t)
    independent = sum_per_sample(losses.mixture_nll(q, x_0))
    if spectrum is None:
        return [independent]
    factor = losses.spectral_loss(spectrum(gm.moment_match(q)), q, x_0)
    return [independent, independent + sum_per_sample(factor)]


def sum_per_sample(values: jax.Array) -> jax.Array:
    """Sum [B, ...] over all axes but the first."""
    return jnp.sum(values.reshape(values.shape[0], -1), axis=-1)


def likelihood_table(rows: list[RunLikelihood], heading: str) -> str:
    """Format a line for each row: mean, paired difference to the row above, and quarters of the time axis."""
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


def _rows_to_json(rows: list[RunLikelihood]) -> list[dict]:
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
    """Return the mean of values [num_times, N] and its standard error over samples."""
    per_sample = bits.mean(0)
    standard_error = per_sample.std(ddof=1) / np.sqrt(len(per_sample))
    return {"mean": round(float(per_sample.mean()), 6), "standard_error": round(float(standard_error), 6)}


def _cell(bits: np.ndarray) -> str:
    mean, standard_error = _mean_and_error(bits).values()
    return f"{mean:.4f} ± {standard_error:.4f}"
