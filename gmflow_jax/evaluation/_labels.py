"""The class labels that the samples of an evaluation are drawn for."""

import numpy as np

LABEL_RULES = ("random", "balanced")


def evaluation_labels(num_samples: int, num_classes: int, rule: str = "random") -> np.ndarray:
    """Return the label of each sample of an evaluation.

    The label of sample i does not depend on the number of samples.

    Args:
      num_samples: number of labels.
      num_classes: number of classes.
      rule: 'random' is the authors' rule: label i is the first number of a 32-bit Mersenne Twister with seed
        i, modulo `num_classes` (what torch.randint returns on a CPU with that seed). 'balanced' cycles
        through the classes.

    Returns:
      int32 [num_samples].

    Raises:
      ValueError: if the rule is unknown or a number is below 1.
    """
    if num_samples < 1 or num_classes < 1:
        raise ValueError(f"num_samples is {num_samples} and num_classes {num_classes}; give at least 1.")
    if rule == "balanced":
        return np.arange(num_samples, dtype=np.int32) % num_classes
    if rule == "random":
        first = [np.random.RandomState(i).bytes(4) for i in range(num_samples)]
        return (np.frombuffer(b"".join(first), "<u4") % num_classes).astype(np.int32)
    raise ValueError(f"There is no rule {rule!r} for labels. Choose one of {', '.join(LABEL_RULES)}.")
