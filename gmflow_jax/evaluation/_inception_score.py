"""The Inception Score, from the logits of a classifier."""

import numpy as np

from gmflow_jax.evaluation._checks import feature_rows


def inception_score(logits, splits: int = 10, split_size: int | None = None) -> float:
    """Return the Inception Score, between 1 and the number of classes.

    It is exp of the mean divergence KL(p(y | x) || p(y)), in nats, where p(y) is the mean over the part that
    a sample belongs to, averaged over the parts. Few samples in a part make the score smaller. The softmax is
    computed in float64.

    Args:
      logits: [N, classes]. Published scores use logits without their bias.
      splits: number of parts of N // splits rows each, in order; leftover rows are dropped. This is the rule
        of GMFlow's evaluation.
      split_size: rows in each part, of which the last may be shorter; ADM's evaluator has 5000. If given,
        `splits` is ignored.

    Returns:
      The score.

    Raises:
      ValueError: if a value is NaN or infinite, the shape is another one, or there are fewer rows than parts.

    Source:
      Salimans et al. 2016 (arXiv 1606.03498).
    """
    for name, value in (("splits", splits), ("split_size", split_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, but a part has at least one row; give at least 1.")
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
