"""Averages of the parameters of any width, rebuilt after training from a few that were stored.

Source: the post-hoc EMA of Karras et al. 2024 (EDM2, arXiv 2312.02696). Its profiles are powers: of t
steps, step tau has the weight (gamma + 1) tau^gamma / t^(gamma + 1). So their shape is the same at
every t, and `std`, the standard deviation of tau / t, is their relative width.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from gmflow_jax.training._ema import karras_decay, update_ema

Snapshot = tuple[int, float]
_LARGEST_STD = 12**-0.5


def power_std(gamma: float) -> float:
    """Relative width of the profile with exponent `gamma` >= 0: from 12 ** -0.5, the mean, down to 0."""
    if not 0.0 <= gamma < math.inf:
        raise ValueError(
            f"gamma is {gamma}, but a profile must favour late steps; give a number from 0, the mean of all."
        )
    return ((gamma + 1.0) / ((gamma + 2.0) ** 2 * (gamma + 3.0))) ** 0.5


def power_gamma(std: float) -> float:
    """Exponent >= 0 of the profile with relative width `std`, in (0, 12 ** -0.5]; inverts `power_std`."""
    if not 0.0 < std <= _LARGEST_STD:
        raise ValueError(
            f"std is {std}, but relative widths lie above 0 and up to {_LARGEST_STD:.4f}, the mean of all "
            "steps; common ones are 0.05 and 0.1."
        )
    # power_std's square as a cubic in gamma, which has no other root from 0 on.
    precision = std**-2
    return max(0.0, float(np.roots([1.0, 7.0, 16.0 - precision, 12.0 - precision]).real.max()))


def update_power_averages(
    averages: Sequence[Any], params: Any, step: ArrayLike, stds: Sequence[float]
) -> tuple[Any, ...]:
    """Returns the averages after one more step, one for each relative width in `stds`.

    `step` counts from 0, so the new averages are of step + 1 steps; the first ones are `params`,
    whatever was given. EDM2 keeps the widths 0.05 and 0.1, of which a snapshot is stored now and then.
    """
    if len(averages) != len(stds):
        raise ValueError(
            f"There are {len(averages)} averages for {len(stds)} relative widths; give one for each."
        )
    return tuple(
        update_ema(average, params, karras_decay(power_gamma(std))(step))
        for average, std in zip(averages, stds, strict=True)
    )


def post_hoc_weights(snapshots: Sequence[Snapshot], num_steps: int, std: float) -> np.ndarray:
    """Weights with which stored averages add up to one of relative width `std` at `num_steps`.

    `snapshots` are (number of steps, std) of each stored average. The weights, float64 [snapshots],
    minimise the mean square difference of the profiles; unlike EDM2's they sum to 1, so parameters that
    do not change are kept exactly. See `post_hoc_residual` for what is left. Raises ValueError where no
    snapshot has `num_steps` steps or more.
    """
    gram, target, norm = _inner_products(snapshots, num_steps, std)
    # Profiles of norm 1, since steps and widths may differ by orders of magnitude, bordered by the sum.
    norms = np.sqrt(np.diag(gram))
    ones = norm / norms
    system = np.block([[gram / np.outer(norms, norms), ones[:, None]], [ones, 0.0]])
    return ones * np.linalg.lstsq(system, np.append(target / (norm * norms), 1.0))[0][:-1]


def post_hoc_residual(
    snapshots: Sequence[Snapshot], weights: np.ndarray, num_steps: int, std: float
) -> float:
    """Root mean square error of the rebuilt profile, relative to the wanted one: 0 exact, 1 useless.

    Values under 1e-7 are rounding. Below 0.05, averages of a random walk came within 2 % of their
    distance to its end. A large value means that the stored averages are too few, or too wide, for this
    one, or that none was stored at `num_steps`.
    """
    gram, target, norm = _inner_products(snapshots, num_steps, std)
    square = norm**2 - 2.0 * weights @ target + weights @ gram @ weights
    return math.sqrt(max(square, 0.0)) / norm


def combine(snapshots: Iterable[Any], weights: Sequence[float]) -> Any:
    """Returns the sum of pytrees times weights, float32, in one pass.

    `snapshots` may be a generator that loads one at a time, in the order of the weights. Raises
    ValueError where their numbers or structures differ.
    """
    total = None
    for weight, snapshot in itertools.zip_longest(weights, snapshots):
        if weight is None or snapshot is None:
            raise ValueError(
                f"There are {'more' if weight is None else 'fewer'} snapshots than the {len(weights)} "
                "weights; give one weight for each."
            )
        scaled = jax.tree.map(lambda x, w=float(weight): w * x.astype(np.float32), snapshot)
        total = scaled if total is None else jax.tree.map(lambda a, b: a + b, total, scaled)
    return total


def _inner_products(
    snapshots: Sequence[Snapshot], num_steps: int, std: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Of the stored profiles [N, N], of these with the wanted one [N], and the norm of the latter."""
    stored = [steps for steps, _ in snapshots]
    if not 1 <= num_steps <= max(stored, default=0):
        raise ValueError(
            f"The {len(stored)} snapshots reach step {max(stored, default=0)}, which cannot give an average "
            f"at step {num_steps}; ask for a step from 1 on, and not after the last snapshot."
        )
    if min(stored) < 1:
        raise ValueError("A snapshot was stored before step 1, when there was no average; leave it out.")
    steps, gammas = np.array([(t, power_gamma(width)) for t, width in snapshots], np.float64).T
    gamma = power_gamma(std)
    gram = _profile_product(steps[:, None], gammas[:, None], steps, gammas)
    target = _profile_product(steps, gammas, num_steps, gamma)
    return gram, target, float(_profile_product(num_steps, gamma, num_steps, gamma)) ** 0.5


def _profile_product(t_1, gamma_1, t_2, gamma_2) -> np.ndarray:
    """Integral over the steps of the product of two profiles, which end at t_1 and t_2."""
    first, last = np.minimum(t_1, t_2), np.maximum(t_1, t_2)
    factor = (gamma_1 + 1.0) * (gamma_2 + 1.0) / (gamma_1 + gamma_2 + 1.0)
    return factor * (first / t_1) ** gamma_1 * (first / t_2) ** gamma_2 / last
