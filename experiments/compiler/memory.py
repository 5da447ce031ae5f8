"""The memory of a compiled program on each device, and the largest batch that fits."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax

from experiments.compiler.hlo import Module
from experiments.compiler.targets import Target

MAX_BATCH = 2**31 - 1
# Operations whose result is no memory of its own.
_NOT_ALLOCATED = {"parameter", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_MAX_COMPILATIONS = 10
_FIRST_BATCH = 8  # for each device
_MAX_GROWTH = 8  # from a batch to the next, because small ones may take memory that does not grow
_FULL = 0.97  # share of the memory from which on no larger batch is tried


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device. `arguments` and later fields come from the compiler, with padding.

    Attributes:
      held: what the program is given by name, such as the training state and the batch, without padding.
      arguments: all of `held`.
      outputs: results that do not replace an argument.
      working: working memory.
      code: the program itself.
    """

    held: dict[str, int]
    arguments: int
    outputs: int
    working: int
    code: int

    @property
    def total(self) -> int:
        return self.arguments + self.outputs + self.working + self.code


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A program that the compiler refuses because it needs more memory than a device has.

    Attributes:
      needed: bytes that it needs, None if the compiler does not say.
      available: bytes that it may use, None likewise.
      message: the compiler's message.
    """

    needed: int | None
    available: int | None
    message: str


def of(compiled: jax.stages.Compiled, held: dict[str, Any]) -> Memory:
    """Return the memory of a compiled program, whose arguments `held` are trees of shapes by name."""
    stats = compiled.memory_analysis()
    return Memory(
        held={name: stored_bytes(tree) for name, tree in held.items()},
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
        working=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )


def stored_bytes(tree: Any) -> int:
    """Return the bytes of a tree of shapes with shardings on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def refusal(error: Exception) -> Refusal:
    """Read the error of a compiler that refuses a program for its memory."""
    message = str(error)
    used = re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", message)
    if not used:
        return Refusal(None, None, message)
    needed, available = (int(float(used[i]) * _UNITS[used[i + 1]]) for i in (1, 3))
    return Refusal(needed, available, message)


def largest_arrays(module: Module, count: int = 5) -> list[dict[str, Any]]:
    """List the largest arrays that a program makes, each shape once, without padding.

    Not all of them exist at the same time.
    """
    arrays: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
    for instruction, times, _ in module.walk():
        if instruction.opcode in _NOT_ALLOCATED:
            continue
        for shape in instruction.shapes:
            known = arrays.setdefault(
                (shape.dtype, shape.dims),
                {"dtype": shape.dtype, "shape": list(shape.dims), "bytes": shape.bytes, "times": 0},
            )
            known["times"] += times
            if instruction.op_name:
                known.setdefault("op_name", instruction.op_name)
    return sorted(arrays.values(), key=lambda array: -array["bytes"])[:count]


def largest_batch(
    needed: Callable[[int], tuple[bool, int | None]], target: Target, unit: int, log: Callable[[str], None]
) -> tuple[int, int]:
    """Find the largest batch whose program fits, to about 6 %.

    The memory of two batches gives a linear model; what it predicts is compiled, which corrects it.

    Args:
      needed: compiles the program for a batch size; returns whether it fits, and its bytes on each device
        (None if the compiler does not say).
      target: the devices.
      unit: number of which a batch must be a multiple.
      log: is called with a line before and after each compilation.

    Returns:
      The batch size, 0 if not even `unit` fits; and the number of compilations.
    """
    points: dict[int, int] = {}
    fits, too_large, most = 0, math.inf, MAX_BATCH // unit
    size = min(_FIRST_BATCH, most)
    for compilations in range(1, _MAX_COMPILATIONS + 1):
        log(f"Compilation {compilations}: a batch of {size * unit:,} ...")
        does_fit, used = needed(size * unit)
        if used is not None:
            points[size] = used
        log(f"  {'fits' if does_fit else 'does not fit'}{'' if used is None else f', {gib(used)} used'}.")
        if does_fit:
            fits = max(fits, size)
        else:
            too_large = min(too_large, size)
        size = min(_next(points, fits, too_large, target.usable), most)
        if not fits < size < too_large:
            break
    return fits * unit, compilations


def _next(points: dict[int, int], fits: int, too_large: float, usable: int) -> int:
    """Return the size to try next, or `fits` if none is between what fits and what does not."""
    if not fits:
        return int(too_large) // 2
    if points[fits] >= _FULL * usable:
        return fits
    # The line through the sizes around the limit, or the two largest if all fit.
    *_, a, b = [0, *sorted(n for n in points if n <= fits)]
    if too_large in points:
        a, b = b, int(too_large)
    elif too_large < math.inf:
        return (fits + int(too_large)) // 2
    elif not a:
        return 2 * fits
    slope = max((points[b] - points[a]) / (b - a), 1)
    guess = _rounded_down(b + math.floor((usable - points[b]) / slope))
    if too_large == math.inf:
        return min(guess, _MAX_GROWTH * b)
    step = _granule(int(too_large))
    return min(max(guess, fits + step), int(too_large) - step)


def _granule(size: int) -> int:
    """Return a power of 2 of at most a 16th of a size, and at least 1."""
    return 2 ** max(int(math.log2(max(size, 1))) - 4, 0)


def _rounded_down(size: int) -> int:
    return max(size, 1) // _granule(size) * _granule(size)


def gib(count: float) -> str:
    """Format a number of bytes in GiB, or if it is small in MiB or KiB."""
    units = (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")
    unit, name = next((unit for unit in units if count >= unit[0] / 10), units[-1])
    return f"{count / unit:,.2f} {name}"
