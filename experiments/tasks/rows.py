"""The rows of reports on digits and points."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """Samples and scores of one solver at one number of network calls.

    Attributes:
      solver: name of the solver in the report.
      nfe: number of network calls.
      samples: samples of the first seed.
      scores: mean and standard deviation over the seeds, by name.
    """

    solver: str
    nfe: int
    samples: np.ndarray
    scores: dict[str, tuple[float, float] | None]
