"""The Inception Score, from the logits of a classifier."""

import numpy as np

from gmflow_jax.evaluation._checks import feature_rows


def inception_score(logits, splits: int = 10, split_size: int | None = None) -> float:
    """Inception Score of logits [N, classes] (Salimans et al. 2016), between 1 and the number of classes.

    exp of the mean divergence, in nats, of each sample's class probabilities from those of its part,
    averaged over the parts. Parts are `splits` runs of N // splits rows, in order, the remaining rows left
    out (the rule of GMFlow's evaluation); or, given `split_size` (5000 in ADM's evaluator), runs of that
    many rows, of which the last may be shorter, and `splits` does not count. Published scores use logits
    without their bias. Few samples in a part make the score smaller. The softmax is in float64.
    Raises ValueError for NaN, another shape, or fewer rows than parts.
    """
    for name, value in (("splits", splits), ("split_size", split_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, but there must be a part with a row; give at least 1.")
    if split_size is None:
        logits = feature_rows(logits, "logits", splits, f"there are {splits} parts to score", np.float64)
        num_used, split_size = len(logits) // splits * splits, len(logits) // splits
    else:
        logits = feature_rows(logits, "logits", 1, "a score needs one", np.float64)
        num_used = len(logits)
    parts = [logits[start : min(start + split_size, num_used)] for start in range(0, num_used, split_size)]
    return float(np.mean([_score(part) for part in parts]))


def _score(logits: np.ndarray) -> float:
    logits = logits - logits.max(1, keepdims=True)
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    probs = np.exp(log_probs)
    log_mean = np.log(np.maximum(probs.mean(0), np.finfo(np.float64).tiny))
    return float(np.exp((probs * (log_probs - log_mean)).sum(1).mean()))
