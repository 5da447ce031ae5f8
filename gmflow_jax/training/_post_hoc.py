r"""Post-hoc EMA: averages of the parameters of any width, rebuilt after training from a few stored ones.

The profiles are powers: in an average of t steps, step $\tau$ has the weight
$(\gamma + 1) \tau^\gamma / t^{\gamma + 1}$. So the shape is the same at every t. The relative width `std`
is the standard deviation of $\tau / t$.

Source: Karras et al. 2024 (EDM2, arXiv 2312.02696).
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from gmflow_jax.training._ema import karras_rate

Snapshot = tuple[int, float]
_LARGEST_STD = 12**-0.5


def power_std(gamma: float) -> float:
    """Return the relative width of the profile with exponent `gamma` >= 0.

    It falls from 12 ** -0.5 at gamma = 0, the plain mean, to 0.

    Raises:
      ValueError: if `gamma` is negative or not finite.

    Source:
      Karras et al. 2024 (EDM2, arXiv 2312.02696).
    """
    if not 0.0 <= gamma < math.inf:
        raise ValueError(
            f"gamma is {gamma}, but profiles have finite exponents from 0 on; give 0 for the mean."
        )
    return ((gamma + 1.0) / ((gamma + 2.0) ** 2 * (gamma + 3.0))) ** 0.5


def power_gamma(std: float) -> float:
    """Return the exponent of the profile with relative width `std`, in (0, 12 ** -0.5]; inverts `power_std`.

    Raises:
      ValueError: if `std` is outside this range.

    Source:
      Karras et al. 2024 (EDM2, arXiv 2312.02696).
    """
    if not 0.0 < std <= _LARGEST_STD:
        raise ValueError(
            f"std is {std}, but relative widths lie above 0 and up to {_LARGEST_STD:.4f}, the mean of all "
            "steps; common ones are 0.05 and 0.1."
        )
    # std**2 from power_std as a cubic equation in gamma, which has one root from 0 on.
    precision = std**-2
    return max(0.0, float(np.roots([1.0, 7.0, 16.0 - precision, 12.0 - precision]).real.max()))


def update_power_averages(
    averages: Sequence[Any], params: Any, step: ArrayLike, stds: Sequence[float]
) -> tuple[Any, ...]:
    """Update the averages after one more step.

    EDM2 tracks the widths 0.05 and 0.1, and stores a snapshot of these averages now and then.

    Args:
      averages: one average of the parameters for each width.
      params: the new parameters.
      step: number of the step, from 0. The new averages are of step + 1 steps; at step 0 they are `params`.
      stds: relative widths.

    Returns:
      The new averages.

    Raises:
      ValueError: if the numbers of averages and widths differ.
    """
    if len(averages) != len(stds):
        raise ValueError(
            f"There are {len(averages)} averages for {len(stds)} relative widths; give one for each."
        )
    return tuple(
        optax.incremental_update(params, average, karras_rate(power_gamma(std), step))
        for average, std in zip(averages, stds, strict=True)
    )


def post_hoc_weights(snapshots: Sequence[Snapshot], num_steps: int, std: float) -> np.ndarray:
    """Return the weights with which stored averages add up to one of another width.

    The weights minimise the mean squared difference of the profiles. Unlike EDM2's they sum to 1, so
    parameters that do not change are kept exactly. `post_hoc_residual` measures the remaining difference.

    Args:
      snapshots: (number of steps, relative width) of each stored average.
      num_steps: steps of the wanted average.
      std: its relative width.

    Returns:
      float64 [snapshots].

    Raises:
      ValueError: if no snapshot has `num_steps` steps or more, or a number is out of range.

    Source:
      Karras et al. 2024 (EDM2, arXiv 2312.02696), section 3.
    """
    gram, target, norm = _inner_products(snapshots, num_steps, std)
    # The profiles are normalised, since steps and widths may differ by orders of magnitude. The last row
    # and column constrain the sum of the weights.
    norms = np.sqrt(np.diag(gram))
    ones = norm / norms
    system = np.block([[gram / np.outer(norms, norms), ones[:, None]], [ones, 0.0]])
    return ones * np.linalg.lstsq(system, np.append(target / (norm * norms), 1.0))[0][:-1]


def post_hoc_residual(
    snapshots: Sequence[Snapshot], weights: np.ndarray, num_steps: int, std: float
) -> float:
    """Return the root mean square error of a rebuilt profile, relative to the wanted one: 0 is exact.

    Values below 1e-7 are rounding. On a random walk of 3,000 steps with a snapshot every 125 steps, rebuilt
    averages with a value below 0.05 differed from the exact averages by at most 2 % of the distance from the
    exact average to the last parameters. A value near 1 means that the stored averages are too few or too
    wide, or that none was stored at `num_steps`.

    Args:
      snapshots: (number of steps, relative width) of each stored average.
      weights: weights of `post_hoc_weights`.
      num_steps: steps of the wanted average.
      std: its relative width.

    Returns:
      The relative error.
    """
    gram, target, norm = _inner_products(snapshots, num_steps, std)
    square = norm**2 - 2.0 * weights @ target + weights @ gram @ weights
    return math.sqrt(max(square, 0.0)) / norm


def combine(snapshots: Iterable[Any], weights: Sequence[float]) -> Any:
    """Return the weighted sum of pytrees, in float32 and in one pass.

    Args:
      snapshots: the pytrees, in the order of the weights; may be a generator that loads one at a time.
      weights: one weight for each.

    Returns:
      The sum.

    Raises:
      ValueError: if the numbers or the structures differ.
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
    """Return inner products of profiles.

    Returns:
      The products of the stored profiles [N, N], their products with the wanted profile [N], and its norm.
    """
    stored = [steps for steps, _ in snapshots]
    if not 1 <= num_steps <= max(stored, default=0):
        raise ValueError(
            f"The {len(stored)} snapshots reach step {max(stored, default=0)}, so they cannot give an "
            f"average at step {num_steps}; give a step from 1 to that of the last snapshot."
        )
    if min(stored) < 1:
        raise ValueError("A snapshot was stored before step 1, when there was no average; leave it out.")
    steps, gammas = np.array([(t, power_gamma(width)) for t, width in snapshots], np.float64).T
    gamma = power_gamma(std)
    gram = _profile_product(steps[:, None], gammas[:, None], steps, gammas)
    target = _profile_product(steps, gammas, num_steps, gamma)
    return gram, target, float(_profile_product(num_steps, gamma, num_steps, gamma)) ** 0.5


def _profile_product(t_1, gamma_1, t_2, gamma_2) -> np.ndarray:
    """Return the integral over the steps of the product of two profiles, which end at t_1 and t_2."""
    first, last = np.minimum(t_1, t_2), np.maximum(t_1, t_2)
    factor = (gamma_1 + 1.0) * (gamma_2 + 1.0) / (gamma_1 + gamma_2 + 1.0)
    return factor * (first / t_1) ** gamma_1 * (first / t_2) ** gamma_2 / last
