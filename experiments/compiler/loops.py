"""How often the loops of a compiled program run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.compiler.hlo import Computation, Instruction, Module


def trip_count(module: Module, loop: Instruction) -> int | None:
    """Return how often the body of a `while` runs; None if the text does not say."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    return _count(module, loop, module.computations[module.attribute(loop, "condition")])


def of_unknown_length(module: Module) -> list[str]:
    """Return the names of the loops that count once because the text does not say how often they run."""
    whiles = {x.name: x for x, _, _ in module.walk() if x.opcode == "while"}
    return [name for name, loop in whiles.items() if trip_count(module, loop) is None]


def _count(module: Module, loop: Instruction, condition: Computation) -> int | None:
    """Count the steps of `while counter < limit` from the start, the limit and the step in the text."""
    compare, computation = _inlined(module, condition, condition.root)
    direction = re.search(r"direction=(\w+)", compare.attributes)
    if compare.opcode != "compare" or not direction or direction[1] not in ("LT", "LE"):
        return None
    # In a fusion, the operands of the comparison are parameters, which stand for the fusion's operands.
    pair = [computation.operand(compare, i) for i in (0, 1)]
    if computation is not condition:
        fusion = condition.root
        pair = [condition.operand(fusion, int(x.arguments)) if x.opcode == "parameter" else x for x in pair]
    counter, limit = pair[0], _constant(condition, pair[1])
    index = re.search(r"index=(\d+)", counter.attributes)
    if counter.opcode != "get-tuple-element" or limit is None or not index:
        return None
    computation = module.of(loop)
    initial = computation.operand(loop, 0)
    if initial.opcode != "tuple":
        return None
    start = _constant(computation, computation.operand(initial, int(index[1])))
    step = _step(module, module.computations[module.attribute(loop, "body")], int(index[1]))
    if start is None or step is None:
        return None
    return max(0, -(-(limit + (direction[1] == "LE") - start) // step))


def _step(module: Module, body: Computation, index: int) -> int | None:
    """Return by how much a loop's counter grows; None if the text does not say, or it does not grow."""
    if body.root.opcode != "tuple":
        return None
    result = body.operand(body.root, index)
    add, computation = _inlined(module, body, result)
    if add.opcode != "add":
        return None
    steps = [_constant(computation, computation.operand(add, i)) for i in (0, 1)]
    return next((step for step in steps if step is not None and step > 0), None)


def _inlined(module: Module, computation: Computation, instruction: Instruction):
    """Return an instruction and its computation; for a fusion its root and the fused computation."""
    while instruction.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
        instruction = computation.operand(instruction, 0)
    if instruction.opcode == "fusion":
        computation = module.computations[instruction.called[0]]
        instruction = computation.root
    return instruction, computation


def _constant(computation: Computation, instruction: Instruction) -> int | None:
    while instruction.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start"):
        instruction = computation.operand(instruction, 0)
    is_number = instruction.opcode == "constant" and re.fullmatch(r"-?\d+", instruction.arguments)
    return int(instruction.arguments) if is_number else None
