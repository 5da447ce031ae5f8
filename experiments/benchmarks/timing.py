"""How long calls take: in rounds of all of them, so that what disturbs one disturbs the others too."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

MIN_ROUNDS = 5
_MIN_SAMPLE = 2e-3  # seconds; below it the clock would count

Call = Callable[[], Any]


class Spread(NamedTuple):
    """A median between its quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: ArrayLike) -> "Spread":
        return cls(*(float(quartile) for quartile in np.percentile(values, (25, 50, 75))))

    def scaled(self, factor: float, offset: float = 0.0) -> "Spread":
        """That of factor * value + offset, for a factor >= 0."""
        return Spread(*(factor * value + offset for value in self))


@dataclasses.dataclass(frozen=True)
class Timings:
    """What `measure` found.

    Attributes:
      first: Seconds of the first call of each name, which traces, compiles and runs.
      rounds: Seconds of a later call, [num_rounds]; entries i of all names were measured one after another.
    """

    first: dict[str, float]
    rounds: dict[str, np.ndarray]

    def seconds(self, name: str) -> Spread:
        return Spread.of(self.rounds[name])

    def ratio(self, name: str, other: str) -> Spread:
        """Seconds of `name` in units of `other`'s in the same round, which a busy machine hardly changes."""
        return Spread.of(self.rounds[name] / self.rounds[other])


def measure(
    calls: Mapping[str, Call],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    say: Callable[[str], None] = lambda text: None,
) -> Timings:
    """Measures calls, each up to the time when all that it returns is computed.

    After its first call and one to warm up, each name has a turn in every round. A turn repeats a short call
    until it lasts 2 ms.

    Args:
      calls: What to call, by name.
      seconds: Time for the rounds of all names together; there are at least 5 rounds.
      clock: Gives seconds.
      say: Is told of each first call.
    """
    first, repeats = {}, {}
    for name, call in calls.items():
        first[name] = seconds_of(call, 1, clock)
        say(f"{name}: first call {first[name]:.3g} s")
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
    """Seconds of one call, the mean of several."""
    start = clock()
    for _ in range(repeats):
        jax.block_until_ready(call())
    return (clock() - start) / repeats
