"""What the paper says of the checkerboard, sentence by sentence, judged by the study's numbers."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.study import tables
from experiments.study.base import Record
from experiments.study.contenders import CALL_LOSERS, CALL_LOST, UNCONVERTED

PLAIN = "plain flow"
REASONABLE, GOOD = 0.25, 0.12  # largest total variation of a histogram that deserves the word
MARGIN = 0.03  # of spread, whose standard error at 10,000 samples is 0.006
HARDLY = 0.02  # largest difference in total variation that is hardly one
FEW = (2, 4, 8)  # network calls at which solvers are told apart


class Verdict(NamedTuple):
    """Whether the numbers bear a sentence out, and these numbers."""

    holds: bool
    figures: str


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence, what it is taken to mean, and a test of it on the numbers."""

    sentence: str
    meaning: str
    test: Callable[["Numbers"], Verdict]


class Numbers:
    """The records, by problem, solver, NFE and metric."""

    def __init__(self, records: Sequence[Record]):
        self._values = {(r.problem, r.solver, r.nfe, r.metric): r.value for r in records}

    def __call__(self, problem: str, solver: str, nfe: int, metric: str) -> float:
        return self._values[problem, solver, nfe, metric]

    def line(self, problem: str, solver: str, metric: str, nfes: Sequence[int]) -> list[float]:
        return [self(problem, solver, nfe, metric) for nfe in nfes]


def section(records: Sequence[Record]) -> str:
    """The verdicts as Markdown; a claim whose numbers are missing is not judged."""
    numbers, rows = Numbers(records), []
    for claim in CLAIMS:
        try:
            holds, figures = claim.test(numbers)
            word = "**confirmed**" if holds else "**contradicted**"
        except KeyError:
            figures, word = "", "not measured"
        rows.append([claim.sentence, claim.meaning, figures, word])
    return "\n\n".join([
        "### What the paper says",
        f"Reasonable is a total variation (TV) of at most {REASONABLE}, good of at most {GOOD}; few calls "
        f"are {', '.join(map(str, FEW))}. These limits are this study's, not the paper's; where a number is "
        "near one, read the number. There is one network of each kind, much smaller and less trained than "
        "the paper's, and one seed: what another training would change is not measured.",
        tables.markdown(["the paper says", "tested as", "found", "verdict"], rows),
    ])


def _inward(solver: str) -> Claim:
    def test(numbers: Numbers) -> Verdict:
        spread = numbers.line(PLAIN, solver, "spread", FEW)
        return Verdict(all(v < 1 - MARGIN for v in spread), f"spread {_list(spread)}")

    return Claim(
        "First-order plain solvers pull samples to the centre.",
        f"{solver}, {PLAIN}: spread below {1 - MARGIN} at few calls",
        test,
    )


def _outward(solver: str) -> Claim:
    nfes = FEW[1:]  # the second call is the first that extrapolates

    def test(numbers: Numbers) -> Verdict:
        spread = numbers.line(PLAIN, solver, "spread", nfes)
        edge = numbers.line(PLAIN, solver, "edge", nfes)
        found = f"spread {_list(spread)}; edge {_list(edge)}"
        return Verdict(all(v > 1 + MARGIN for v in spread), found)

    return Claim(
        "DPM++ and UniPC push samples to the outer edges.",
        f"{solver}, {PLAIN}: spread above {1 + MARGIN} at {' and '.join(map(str, nfes))} calls",
        test,
    )


def _uniform(problem: str, solver: str) -> Claim:
    def test(numbers: Numbers) -> Verdict:
        spread = numbers.line(problem, solver, "spread", FEW)
        return Verdict(all(abs(v - 1) <= MARGIN for v in spread), f"spread {_list(spread)}")

    return Claim(
        "GM solvers stay uniform.", f"{solver}, {problem}: spread within {MARGIN} of 1 at few calls", test
    )


def _needs(
    problem: str, solver: str, sentence: str, fails_at: int | None, limit: float, holds_at: int
) -> Claim:
    """TV above the limit at `fails_at` calls, if given, and within it at `holds_at`."""
    word = "reasonable" if limit == REASONABLE else "good"
    nfes = [holds_at] if fails_at is None else [fails_at, holds_at]
    meaning = f"{solver}, {problem}: {word} at {holds_at}" + (f", not at {fails_at}" if fails_at else "")

    def test(numbers: Numbers) -> Verdict:
        found = numbers.line(problem, solver, "total_variation", nfes)
        holds = found[-1] <= limit and (fails_at is None or found[0] > limit)
        return Verdict(holds, f"TV {_list(found, 3)}")

    return Claim(sentence, meaning, test)


def _hardly_differ(first: str, second: str) -> Claim:
    nfes = (2, 4, 8, 16, 32)

    def test(numbers: Numbers) -> Verdict:
        one, two = (numbers.line("K = 8", solver, "total_variation", nfes) for solver in (first, second))
        largest = max(abs(a - b) for a, b in zip(one, two, strict=True))
        found = f"TV {_list(one, 3)} and {_list(two, 3)}: {largest:.3f} apart at most"
        return Verdict(largest <= HARDLY, found)

    return Claim(
        "With K = 8 first and second order hardly differ.",
        f"{first} and {second}: TV within {HARDLY} at {', '.join(map(str, nfes))} calls",
        test,
    )


def _overshoots(problem: str) -> Claim:
    def test(numbers: Numbers) -> Verdict:
        without, with_ = (
            numbers.line(problem, solver, "spread", FEW) for solver in (UNCONVERTED, "GM-ODE 2")
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


_PLAIN_NEEDS = "Plain flow needs about 8 steps for a reasonable histogram and 16 to 32 for a good one."
_MIXTURE_NEEDS = "K = 64 approximates the board in 1 step and is good in 4."
CLAIMS = (
    _needs(PLAIN, "Euler", _PLAIN_NEEDS, 4, REASONABLE, 8),
    _needs(PLAIN, "Euler", _PLAIN_NEEDS, 8, GOOD, 32),
    _needs("K = 64", "GM-ODE 2", _MIXTURE_NEEDS, None, REASONABLE, 1),
    _needs("K = 64", "GM-ODE 2", _MIXTURE_NEEDS, None, GOOD, 4),
    *map(_inward, ("Euler", "DDPM small")),
    *map(_outward, (f"{solver}{lost}" for solver in CALL_LOSERS for lost in ("", CALL_LOST))),
    *(_uniform(k, s) for k in ("K = 8", "K = 64") for s in ("GM-ODE 1", "GM-ODE 2", "GM-SDE 1", "GM-SDE 2")),
    _hardly_differ("GM-ODE 1", "GM-ODE 2"),
    _hardly_differ("GM-SDE 1", "GM-SDE 2"),
    *map(_overshoots, ("K = 8", "K = 64")),
)
