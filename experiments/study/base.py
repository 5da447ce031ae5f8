"""What the parts of the study share: its settings, its records and its progress."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from tqdm.auto import tqdm

from experiments.configs.checkerboard_study import VARIANTS
from experiments.study.contenders import Contender


class Settings(NamedTuple):
    """How much the study computes."""

    nfes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    num_samples: int = 3000
    num_reference_samples: int = 1000  # of which the endpoint is known in float64
    num_reference_steps: int = 128
    num_limit_steps: int = 512
    num_board_samples: int = 10_000
    num_training_steps: int = 3000
    networks: tuple[str, ...] = VARIANTS  # that play on the checkerboard


QUICK = Settings(
    nfes=(1, 4),
    num_samples=500,
    num_reference_samples=100,
    num_reference_steps=32,
    num_limit_steps=64,
    num_board_samples=2000,
    num_training_steps=100,
    networks=("64", "flow"),
)


class Record(NamedTuple):
    """A number of the study; `nfe` is the column it stands in, `calls` what was really spent."""

    part: str
    problem: str
    solver: str
    nfe: int
    calls: int
    metric: str
    value: float


@dataclasses.dataclass
class Study:
    """A study under way, handed from part to part."""

    out: pathlib.Path
    settings: Settings
    contenders: Sequence[Contender]
    bar: tqdm
    records: list[Record] = dataclasses.field(default_factory=list)

    def record(
        self, part: str, problem: str, contender: Contender, nfe: int, metrics: dict[str, float]
    ) -> None:
        calls = contender.num_calls(contender.num_steps(nfe))
        self.records += [
            Record(part, problem, contender.name, nfe, calls, name, value) for name, value in metrics.items()
        ]

    def advance(self, doing: str, units: int = 1) -> None:
        self.bar.set_postfix_str(doing, refresh=False)
        self.bar.update(units)
