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
        return (_first_numbers(np.arange(num_samples, dtype=np.uint32)) % num_classes).astype(np.int32)
    raise ValueError(f"There is no rule {rule!r} for labels. Choose one of {', '.join(LABEL_RULES)}.")


def _first_numbers(seeds: np.ndarray) -> np.ndarray:
    """Return the first number of a Mersenne Twister (MT19937) with each seed, uint32.

    It is a function of three of the 624 words of the initial state. To make each generator takes a hundred
    times as long.

    Source:
      Matsumoto & Nishimura 1998, mt19937ar.c: init_genrand and genrand_int32.
    """
    word = second = _next_word(seeds, 1)
    for i in range(2, 398):
        word = _next_word(word, i)
    y = (seeds & np.uint32(0x80000000)) | (second & np.uint32(0x7FFFFFFF))
    y = word ^ (y >> 1) ^ np.where(y & 1, np.uint32(0x9908B0DF), np.uint32(0))
    y ^= y >> 11
    y ^= (y << 7) & np.uint32(0x9D2C5680)
    y ^= (y << 15) & np.uint32(0xEFC60000)
    return y ^ (y >> 18)


def _next_word(word: np.ndarray, index: int) -> np.ndarray:
    return np.uint32(1812433253) * (word ^ (word >> 30)) + np.uint32(index)
