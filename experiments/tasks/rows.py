"""The rows of reports on tasks with scores."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """Samples and scores of one solver at one number of network calls, over several seeds."""

    solver: str
    nfe: int
    samples: np.ndarray  # of the first seed
    scores: dict[str, tuple[float, float] | None]  # mean and standard deviation over seeds
