"""Which class each sample of an evaluation is drawn for."""

import numpy as np

LABEL_RULES = ("random", "balanced")


def evaluation_labels(num_samples: int, num_classes: int, rule: str = "random") -> np.ndarray:
    """The label of each sample, int32 [num_samples].

    'random' is the authors' rule: label i is the first number of a 32-bit Mersenne Twister with seed i,
    modulo num_classes (what torch.randint gives on a CPU with that seed). 'balanced' counts through the
    classes. Sample i has the same label whatever the number of samples.
    Raises ValueError for another rule, or numbers below 1.
    """
    if num_samples < 1 or num_classes < 1:
        raise ValueError(f"{num_samples} samples of {num_classes} classes were asked for; give at least 1.")
    if rule == "balanced":
        return np.arange(num_samples, dtype=np.int32) % num_classes
    if rule == "random":
        first = [np.random.RandomState(i).bytes(4) for i in range(num_samples)]
        return (np.frombuffer(b"".join(first), "<u4") % num_classes).astype(np.int32)
    raise ValueError(f"There is no rule {rule!r} for labels. Choose one of {', '.join(LABEL_RULES)}.")
