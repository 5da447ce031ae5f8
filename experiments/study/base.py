"""Settings, records and progress of the study, which all its parts share."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from tqdm.auto import tqdm

from experiments.configs.checkerboard_study import VARIANTS
from experiments.study.contenders import Contender


class Settings(NamedTuple):
    """How much the study computes.

    Attributes:
      nfes: numbers of network calls.
      num_samples: samples of each solver on an exact network.
      num_reference_samples: how many of these samples have a reference endpoint, solved in float64.
      num_reference_steps: Runge-Kutta steps of that reference.
      num_limit_steps: steps of the SDE solver that stands for the limit of many steps.
      num_board_samples: samples of each solver on the checkerboard.
      num_training_steps: training steps of each checkerboard network.
      networks: checkerboard networks, see `configs.checkerboard_study`.
    """

    nfes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    num_samples: int = 3000
    num_reference_samples: int = 1000
    num_reference_steps: int = 128
    num_limit_steps: int = 512
    num_board_samples: int = 10_000
    num_training_steps: int = 3000
    networks: tuple[str, ...] = VARIANTS


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
    """A number of the study: a line of study.csv.

    `nfe` is the column in the tables, and `calls` the number of network calls that were made, which for Heun
    can be one more.
    """

    part: str
    problem: str
    solver: str
    nfe: int
    calls: int
    metric: str
    value: float


@dataclasses.dataclass
class Study:
    """The state of a study that is running, which each part receives.

    Attributes:
      out: folder of the results.
      settings: how much is computed.
      contenders: the solvers to compare.
      bar: progress bar.
      records: the numbers so far.
    """

    out: pathlib.Path
    settings: Settings
    contenders: Sequence[Contender]
    bar: tqdm
    records: list[Record] = dataclasses.field(default_factory=list)

    def record(
        self, part: str, problem: str, contender: Contender, nfe: int, metrics: dict[str, float]
    ) -> None:
        """Add numbers of one solver to the records.

        Args:
          part: name of the part of the study.
          problem: name of the network.
          contender: the solver.
          nfe: the number of network calls to spend.
          metrics: {name of the metric: value}.
        """
        calls = contender.num_calls(contender.num_steps(nfe))
        self.records += [
            Record(part, problem, contender.name, nfe, calls, name, value) for name, value in metrics.items()
        ]

    def advance(self, label: str, units: int = 1) -> None:
        """Advance the progress bar by `units` and show `label` beside it."""
        self.bar.set_postfix_str(label, refresh=False)
        self.bar.update(units)
