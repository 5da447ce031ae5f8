"""The TPU compiler's estimate of cycles, by part of the model.

An estimate of the compiler's cost model, which is never a measurement. Waiting for collectives is not in it.
Of a conditional, the most expensive branch counts.
"""

from collections import Counter

from experiments.compiler import places
from experiments.compiler.hlo import Instruction, Module


def by_part(module: Module) -> dict[str, int]:
    """Return the estimated cycles of one run by part of the model, largest first.

    Args:
      module: compiled program.

    Returns:
      Cycles by the names of `places.PARTS` and 'other'; empty if the compiler gives no estimates.
    """
    return _summed(module, 0)


def by_phase(module: Module) -> dict[str, int]:
    """Return the estimated cycles of one run by phase, see `places.phase`."""
    return _summed(module, 1)


def _summed(module: Module, index: int) -> dict[str, int]:
    """Add up the entries of `table` that have the same name at a position of their key, largest first."""
    names: Counter[str] = Counter()
    for key, cycles in table(module).items():
        names[key[index]] += cycles
    return dict(names.most_common())


def table(module: Module) -> dict[tuple[str, str], int]:
    """Return the estimated cycles of one run by part and phase."""
    cycles: Counter[tuple[str, str]] = Counter()
    for instruction, times, _ in module.walk(_estimate):
        if instruction.estimated_cycles:
            name = places.name_of(module, instruction)
            cycles[places.part(name), places.phase(name)] += times * instruction.estimated_cycles
    return dict(cycles)


def total(module: Module) -> int:
    """Return the estimated cycles of one run."""
    return sum(table(module).values())


def _estimate(instruction: Instruction) -> int:
    return instruction.estimated_cycles
