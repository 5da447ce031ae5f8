"""Which part of the model an instruction belongs to, and whether it runs forward or backward.

Both are read from the names that JAX gives to operations, which hold the scopes of `jax.named_scope` and the
transformations of the program.
"""

import collections
import re

from experiments.compiler.hlo import Instruction, Module

PARTS = (
    "embedding", "modulation", "attention", "mlp", "head", "gm_loss", "spectrum", "optimizer", "ema",
    "solver", "guidance", "decode",
)  # fmt: skip
OTHER = "other"
_MOVES = {
    "copy", "copy-start", "copy-done", "slice", "slice-start", "slice-done", "bitcast", "reshape",
    "transpose", "convert", "broadcast", "pad", "dynamic-slice", "dynamic-update-slice", "get-tuple-element",
    "concatenate",
}  # fmt: skip
_BORDERS = ("while", "tuple", "parameter")
# JAX's own names for what moves the arrays of a loop.
_LOOP = re.compile(r"jit\(dynamic_(update_)?index_in_dim\)|/while$")
# A result is followed through at most so many instructions that have no name.
_MAX_VISITS = 64


def part(op_name: str) -> str:
    """Return the innermost scope of a name that is one of `PARTS`, or 'other'."""
    return next((word for word in reversed(re.findall(r"\w+", op_name)) if word in PARTS), OTHER)


def phase(op_name: str) -> str:
    """Return 'forward', 'recomputed', 'backward', 'optimizer' or 'other'.

    Programs without a gradient are 'other' throughout.
    """
    if "rematted_computation" in op_name:
        return "recomputed"
    if "transpose(jvp" in op_name:
        return "backward"
    if "jvp(" in op_name:
        return "forward"
    return "optimizer" if part(op_name) in ("optimizer", "ema") else OTHER


def name_of(module: Module, instruction: Instruction) -> str:
    """Return the name of an operation; for those without a name or scope, that of their neighbours.

    A fusion without a scope gets the most frequent name of what it fuses, a copy that of the nearest user
    with a scope, or else of the nearest producer.

    Args:
      module: the compiled program.
      instruction: one of its instructions.

    Returns:
      JAX's name, or ''.
    """
    own = _own_name(module, instruction)
    if part(own) != OTHER or not _moves(instruction, own):
        return own
    computation = module.of(instruction)
    for neighbours in (
        lambda x: computation.users[x.name],
        lambda x: [computation.instructions[name] for name in x.operands],
    ):
        found = _nearest(module, instruction, neighbours)
        if found:
            return found
    return own


def _own_name(module: Module, instruction: Instruction) -> str:
    """Return an instruction's name; for a fusion without a scope the most frequent one that has a scope."""
    own = instruction.op_name
    if part(own) != OTHER or instruction.operation != "fusion":
        return own
    fused = module.computations[instruction.called[0]].instructions.values()
    names = collections.Counter(x.op_name for x in fused if x.op_name)
    scoped = [(count, name) for name, count in names.items() if part(name) != OTHER]
    # With `own`, the fusion's result has a name without a scope, for example a sum of two parts.
    return max(scoped)[1] if scoped else own or max(names, key=lambda x: names[x], default="")


def _nearest(module: Module, instruction: Instruction, neighbours) -> str:
    """Search breadth first, through instructions that move data or have no name, for one with a scope."""
    queue, seen = collections.deque([instruction]), {instruction.name}
    while queue and len(seen) < _MAX_VISITS:
        for other in neighbours(queue.popleft()):
            name = _own_name(module, other)
            if part(name) != OTHER:
                return name
            if other.name not in seen and _moves(other, name) and other.opcode not in _BORDERS:
                seen.add(other.name)
                queue.append(other)
    return ""


def _moves(instruction: Instruction, name: str) -> bool:
    return not name or instruction.operation in _MOVES or bool(_LOOP.search(name))
