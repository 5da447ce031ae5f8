"""Conversion of numbers of any type, such as NumPy's and JAX's scalars, to those of Python."""

import operator
from typing import Any

import numpy as np


def as_whole(value: Any) -> int | None:
    """Convert an int, or an integer scalar of NumPy or JAX, to an int; return None for anything else."""
    try:
        return operator.index(value)
    except TypeError:
        return None


def whole_number(name: str, value: Any, least: int, largest: int | None = None) -> int:
    """Convert a number that counts something to an int.

    Args:
      name: name of the number, for the message.
      value: an int, or an integer scalar of NumPy or JAX.
      least: the smallest number that is allowed.
      largest: the largest one; None is no limit.

    Returns:
      The number.

    Raises:
      ValueError: if it is no whole number or out of range.
    """
    number = as_whole(value)
    if number is None or number < least or (largest is not None and number > largest):
        limits = f"at least {least}" if largest is None else f"from {least} to {largest}"
        raise ValueError(f"{name} is {value!r}, but must be a whole number, {limits}.")
    return number


def finite_number(name: str, value: Any) -> float:
    """Convert a number to a float.

    Args:
      name: name of the number, for the message.
      value: a number, or a scalar of NumPy or JAX.

    Returns:
      The number.

    Raises:
      ValueError: if it is no number, not finite, or an array with axes.
    """
    try:
        number = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        number = np.empty(1)
    if isinstance(value, str) or number.ndim or not np.isfinite(number):
        raise ValueError(f"{name} is {value!r}, but must be one finite number.")
    return float(number)
