"""Times of calls, measured in rounds of all calls, so that a disturbance affects them equally."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

MIN_ROUNDS = 5
_MIN_SAMPLE = 2e-3  # seconds; shorter times would be affected by the clock

Call = Callable[[], Any]


class Quartiles(NamedTuple):
    """The median of some values, and their lower and upper quartile."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: ArrayLike) -> "Quartiles":
        """Compute the quartiles of values."""
        return cls(*(float(quartile) for quartile in np.percentile(values, (25, 50, 75))))

    def scaled(self, factor: float, offset: float = 0.0) -> "Quartiles":
        """Return the quartiles of factor * value + offset, for a factor >= 0."""
        return Quartiles(*(factor * value + offset for value in self))


@dataclasses.dataclass(frozen=True)
class Timings:
    """The times that `measure` has measured.

    Attributes:
      first: seconds of the first call of each name, which traces, compiles and runs.
      rounds: seconds of later calls of each name, [num_rounds]; the entries i of all names were measured one
        after another.
    """

    first: dict[str, float]
    rounds: dict[str, np.ndarray]

    def seconds(self, name: str) -> Quartiles:
        """Return the seconds of a call."""
        return Quartiles.of(self.rounds[name])

    def ratio(self, name: str, other: str) -> Quartiles:
        """Return the seconds of `name` relative to `other` in the same round.

        A busy machine changes this ratio less than the seconds.
        """
        return Quartiles.of(self.rounds[name] / self.rounds[other])


def measure(
    calls: Mapping[str, Call],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    log: Callable[[str], None] = lambda text: None,
) -> Timings:
    """Measure the times of calls, each until its results are computed.

    Each call is made once, and once more to warm up. Then every round measures all calls in turn; a short
    call is repeated so that it lasts 2 ms.

    Args:
      calls: {name: call}.
      seconds: time for all rounds; there are at least 5 rounds.
      clock: returns seconds.
      log: called with a text on each first call.

    Returns:
      The times of the first calls and of the rounds.
    """
    first, repeats = {}, {}
    for name, call in calls.items():
        first[name] = seconds_of(call, 1, clock)
        log(f"{name}: first call {first[name]:.3g} s")
        warm = seconds_of(call, 1, clock)
        repeats[name] = math.ceil(min(_MIN_SAMPLE / max(warm, 1e-9), 1e5)) if warm < _MIN_SAMPLE else 1
    rounds = {name: [] for name in calls}
    start, count = clock(), 0
    while count < MIN_ROUNDS or clock() - start < seconds:
        for name, call in calls.items():
            rounds[name].append(seconds_of(call, repeats[name], clock))
        count += 1
    return Timings(first, {name: np.asarray(samples) for name, samples in rounds.items()})


def seconds_of(call: Call, repeats: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """Measure the seconds of one call, until its results are computed.

    Args:
      call: the call.
      repeats: number of calls, of which the mean is taken.
      clock: returns seconds.

    Returns:
      The mean.
    """
    start = clock()
    for _ in range(repeats):
        jax.block_until_ready(call())
    return (clock() - start) / repeats
