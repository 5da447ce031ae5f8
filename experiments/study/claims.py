"""The paper's statements about the checkerboard, each tested on the study's numbers."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.study import tables
from experiments.study.base import Record
from experiments.study.contenders import ADAPTED, ADAPTED_SOLVERS, UNCONVERTED

PLAIN = "plain flow"
REASONABLE, GOOD = 0.25, 0.12  # largest total variation of a reasonable and of a good histogram
MARGIN = 0.03  # smallest deviation of spread that counts; its standard error at 10,000 samples is 0.006
SMALL_DIFFERENCE = 0.02  # largest difference in total variation of solvers that "hardly differ"
FEW_CALLS = (2, 4, 8)  # network calls at which solvers are compared


class Verdict(NamedTuple):
    """Whether the numbers confirm a statement, and these numbers as text."""

    holds: bool
    numbers: str


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of the paper.

    Attributes:
      sentence: what the paper says.
      meaning: how it is tested, for the table.
      test: the test. It raises KeyError if a number is missing.
    """

    sentence: str
    meaning: str
    test: Callable[["Numbers"], Verdict]


class Numbers:
    """The values of records: numbers(problem, solver, nfe, metric)."""

    def __init__(self, records: Sequence[Record]):
        self._values = {(r.problem, r.solver, r.nfe, r.metric): r.value for r in records}

    def __call__(self, problem: str, solver: str, nfe: int, metric: str) -> float:
        return self._values[problem, solver, nfe, metric]

    def line(self, problem: str, solver: str, metric: str, nfes: Sequence[int]) -> list[float]:
        """Return the values of one metric at several numbers of network calls.

        Args:
          problem: name of the network.
          solver: name of the solver.
          metric: name of the metric.
          nfes: numbers of network calls.
        """
        return [self(problem, solver, nfe, metric) for nfe in nfes]


def section(records: Sequence[Record]) -> str:
    """Return the verdicts as Markdown, with 'not measured' for a claim whose numbers are missing."""
    numbers, rows = Numbers(records), []
    for claim in CLAIMS:
        try:
            holds, found = claim.test(numbers)
            verdict = "**confirmed**" if holds else "**contradicted**"
        except KeyError:
            found, verdict = "", "not measured"
        rows.append([claim.sentence, claim.meaning, found, verdict])
    return "\n\n".join([
        "### Statements of the paper",
        f"A histogram is called reasonable if its total variation (TV) is at most {REASONABLE}, and good if "
        f"it is at most {GOOD}. Few calls are {', '.join(map(str, FEW_CALLS))}. These limits are chosen by "
        "this study, not by the paper, so a verdict on a number close to a limit means little. Each kind of "
        "network was trained once, with one seed, and is much smaller and less trained than the paper's; the "
        "variation between trainings is not measured.",
        tables.markdown(["the paper says", "tested as", "found", "verdict"], rows),
    ])


def _inward(solver: str) -> Claim:
    def test(numbers: Numbers) -> Verdict:
        spread = numbers.line(PLAIN, solver, "spread", FEW_CALLS)
        return Verdict(all(v < 1 - MARGIN for v in spread), f"spread {_list(spread)}")

    return Claim(
        "First-order plain solvers pull samples to the centre.",
        f"{solver}, {PLAIN}: spread below {1 - MARGIN} at few calls",
        test,
    )


def _outward(solver: str) -> Claim:
    nfes = FEW_CALLS[1:]  # multistep solvers extrapolate only from the second call on

    def test(numbers: Numbers) -> Verdict:
        spread = numbers.line(PLAIN, solver, "spread", nfes)
        edge = numbers.line(PLAIN, solver, "edge", nfes)
        return Verdict(
            all(v > 1 + MARGIN for v in spread), f"spread {_list(spread)}; edge {_list(edge)}"
        )

    return Claim(
        "DPM++ and UniPC push samples to the outer edges.",
        f"{solver}, {PLAIN}: spread above {1 + MARGIN} at {' and '.join(map(str, nfes))} calls",
        test,
    )


def _uniform(problem: str, solver: str) -> Claim:
    def test(numbers: Numbers) -> Verdict:
        spread = numbers.line(problem, solver, "spread", FEW_CALLS)
        return Verdict(all(abs(v - 1) <= MARGIN for v in spread), f"spread {_list(spread)}")

    return Claim(
        "GM solvers stay uniform.", f"{solver}, {problem}: spread within {MARGIN} of 1 at few calls", test
    )


def _reaches_limit(
    problem: str, solver: str, sentence: str, fails_at: int | None, limit: float, holds_at: int
) -> Claim:
    """TV is at most `limit` at `holds_at` calls, and above it at `fails_at` calls, if given."""
    word = "reasonable" if limit == REASONABLE else "good"
    nfes = [holds_at] if fails_at is None else [fails_at, holds_at]
    meaning = f"{solver}, {problem}: {word} at {holds_at}" + (f", not at {fails_at}" if fails_at else "")

    def test(numbers: Numbers) -> Verdict:
        variation = numbers.line(problem, solver, "total_variation", nfes)
        holds = variation[-1] <= limit and (fails_at is None or variation[0] > limit)
        return Verdict(holds, f"TV {_list(variation, 3)}")

    return Claim(sentence, meaning, test)


def _hardly_differ(first: str, second: str) -> Claim:
    nfes = (2, 4, 8, 16, 32)

    def test(numbers: Numbers) -> Verdict:
        one, other = (numbers.line("K = 8", solver, "total_variation", nfes) for solver in (first, second))
        largest = max(abs(a - b) for a, b in zip(one, other, strict=True))
        text = f"TV {_list(one, 3)} and {_list(other, 3)}: largest difference {largest:.3f}"
        return Verdict(largest <= SMALL_DIFFERENCE, text)

    return Claim(
        "With K = 8 first and second order hardly differ.",
        f"{first} and {second}: TV within {SMALL_DIFFERENCE} at {', '.join(map(str, nfes))} calls",
        test,
    )


def _overshoots(problem: str) -> Claim:
    def test(numbers: Numbers) -> Verdict:
        without, with_ = (
            numbers.line(problem, solver, "spread", FEW_CALLS) for solver in (UNCONVERTED, "GM-ODE 2")
        )
        holds = all(a - b > MARGIN for a, b in zip(without, with_, strict=True))
        return Verdict(holds, f"spread {_list(without)} without, {_list(with_)} with")

    return Claim(
        "Without the eq. 10 conversion inside the second-order step, samples overshoot to the edges.",
        f"GM-ODE 2, {problem}: spread larger by {MARGIN} without it at few calls",
        test,
    )


def _list(values: Sequence[float], places: int = 2) -> str:
    return ", ".join(f"{v:.{places}f}" for v in values)


_PLAIN_CALLS = "Plain flow needs about 8 steps for a reasonable histogram and 16 to 32 for a good one."
_MIXTURE_CALLS = "K = 64 approximates the board in 1 step and is good in 4."
CLAIMS = (
    _reaches_limit(PLAIN, "Euler", _PLAIN_CALLS, 4, REASONABLE, 8),
    _reaches_limit(PLAIN, "Euler", _PLAIN_CALLS, 8, GOOD, 32),
    _reaches_limit("K = 64", "GM-ODE 2", _MIXTURE_CALLS, None, REASONABLE, 1),
    _reaches_limit("K = 64", "GM-ODE 2", _MIXTURE_CALLS, None, GOOD, 4),
    *map(_inward, ("Euler", "DDPM small")),
    *map(_outward, (f"{solver}{adapter}" for solver in ADAPTED_SOLVERS for adapter in ("", ADAPTED))),
    *(_uniform(k, s) for k in ("K = 8", "K = 64") for s in ("GM-ODE 1", "GM-ODE 2", "GM-SDE 1", "GM-SDE 2")),
    _hardly_differ("GM-ODE 1", "GM-ODE 2"),
    _hardly_differ("GM-SDE 1", "GM-SDE 2"),
    *map(_overshoots, ("K = 8", "K = 64")),
)
