"""Compiled programs: the text of an optimised HLO module as computations and instructions.

`jax.stages.Compiled.as_text()` gives such a text on every platform. Compilers for TPUs add their estimate of
cycles to each instruction.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator

from experiments.compiler import loops

_BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16}
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_PARENTHESIS = re.compile(r"[()]")
_OPCODE = re.compile(r" ([a-z][\w\-]*)\(")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) .*-> .*\{\s*$")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
    r"|\b(?:branch_computations|called_computations)=\{([^}]*)\}"
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """Data type, in HLO's spelling, and shape of one array."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        return -(-self.size * bits(self.dtype) // 8)


def bits(dtype: str) -> int:
    """Return the bits of one number; 'f8e4m3fn' is read as f8."""
    if dtype in _BITS:
        return _BITS[dtype]
    width = re.match(r"[a-z]+(\d+)", dtype)
    return int(width[1]) if width else 0


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
    """One instruction of a computation.

    Attributes:
      name: its name, which is unique in its computation.
      opcode: 'fusion', 'all-gather-start', ...
      shapes: the arrays of its result; those of nested tuples in the order of the text.
      operands: names of instructions of the same computation.
      arguments: text between the parentheses.
      attributes: text after them.
      computation: name of the computation that contains it.
      is_root: whether it gives the computation's result.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    computation: str
    is_root: bool

    @property
    def operation(self) -> str:
        """The opcode without '-start', which marks the beginning of an asynchronous operation."""
        return self.opcode.removesuffix("-start")

    @functools.cached_property
    def op_name(self) -> str:
        """JAX's name of the operation with its scopes, or ''."""
        return self._find(r'op_name="((?:[^"\\]|\\.)*)"')

    @functools.cached_property
    def estimated_cycles(self) -> int:
        """The compiler's estimate; 0 if it gives none."""
        return int(self._find(r'"estimated_cycles":"(\d+)"') or 0)

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls, fuses or applies."""
        names = []
        for single, several in _CALLED.findall(self.attributes):
            names += [single] if single else [name.strip().lstrip("%") for name in several.split(",")]
        return tuple(names)

    @functools.cached_property
    def replica_groups(self) -> str:
        """The text of the groups of devices, or of the pairs of a permutation, without its name."""
        named = r"(mesh\[[^\]]*\](?:, device_ids=\([^{]*\))? \{[^}]*\})"
        iota = r"(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)"
        lists = r"(\{(?:\{[\d,]*\},?)*\})"
        match = re.search(
            rf"\b(?:replica_groups|source_target_pairs)=(?:{named}|{iota}|{lists})", self.attributes
        )
        return match[match.lastindex or 0] if match else ""

    @functools.cached_property
    def chain(self) -> str:
        """Number of an asynchronous collective that is cut up and fused with what runs meanwhile, or ''."""
        number = self._find(r'chain_id="(\d+)"')
        return f"{number}/{self._find(r'channel_id=([0-9]+)')}" if number else ""

    def _find(self, pattern: str) -> str:
        match = re.search(pattern, self.attributes)
        return match[1] if match else ""


class Computation:
    """Named instructions in the order of their execution."""

    def __init__(self, name: str):
        self.name = name
        self.instructions: dict[str, Instruction] = {}

    @property
    def root(self) -> Instruction:
        return next(x for x in reversed(self.instructions.values()) if x.is_root)

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Its parameters by number."""
        found = (x for x in self.instructions.values() if x.opcode == "parameter")
        return {int(x.arguments): x for x in found}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that use the result of an instruction."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in instruction.operands:
                users.setdefault(operand, []).append(instruction)
        return users

    def operand(self, instruction: Instruction, index: int) -> Instruction:
        return self.instructions[instruction.operands[index]]


class Module:
    """A compiled program.

    Attributes:
      computations: all computations by name.
      entry: the one that runs first.
      num_partitions: number of devices that run it.
    """

    def __init__(self, computations: dict[str, Computation], entry: str, num_partitions: int):
        self.computations = computations
        self.entry = computations[entry]
        self.num_partitions = num_partitions

    def walk(
        self, cost: Callable[[Instruction], int] | None = None
    ) -> Iterator[tuple[Instruction, int, tuple[str, ...]]]:
        """Yield each instruction that runs, with how often it runs and the names of the enclosing calls.

        Fusions are not entered. Loops of unknown length count once. All branches of a conditional are
        entered, or only the most expensive one if the cost of an instruction is given.
        """
        yield from self._walk(self.entry, 1, (), cost)

    def _walk(self, computation: Computation, times: int, path: tuple[str, ...], cost):
        for instruction in computation.instructions.values():
            yield instruction, times, path
            called = instruction.called
            count = times
            if instruction.opcode == "while":
                count = times * (loops.trip_count(self, instruction) or 1)
                called = (self.attribute(instruction, "body"),)
            elif instruction.operation not in ("conditional", "call", "async"):
                continue
            if instruction.operation == "conditional" and cost is not None and called:
                called = (max(called, key=lambda name: self._cost(name, cost)),)
            for name in called:
                yield from self._walk(self.computations[name], count, (*path, instruction.name), cost)

    def _cost(self, name: str, cost: Callable[[Instruction], int]) -> int:
        """Return the cost of one run of a computation."""
        return sum(n * cost(x) for x, n, _ in self._walk(self.computations[name], 1, (), cost))

    def of(self, instruction: Instruction) -> Computation:
        """Return the computation that contains an instruction."""
        return self.computations[instruction.computation]

    def attribute(self, instruction: Instruction, name: str) -> str:
        match = re.search(rf"\b{name}=%?([\w.\-]+)", instruction.attributes)
        return match[1] if match else ""


def parse(text: str) -> Module:
    """Read the text of an optimised HLO module.

    Raises:
      ValueError: if it has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, computation = "", None
    for line in text.splitlines():
        if line.startswith(" "):
            if computation is not None and (instruction := _instruction(line, computation.name)):
                computation.instructions[instruction.name] = instruction
        elif header := _HEADER.match(line):
            computation = computations.setdefault(header[2], Computation(header[2]))
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            computation = None
    if not entry:
        raise ValueError("The text has no line that starts with 'ENTRY', so it is not an HLO module.")
    devices = re.search(r"^HloModule .*\bnum_partitions=(\d+)", text, re.MULTILINE)
    return Module(computations, entry, int(devices[1]) if devices else 1)


def _instruction(line: str, computation: str) -> Instruction | None:
    match = _INSTRUCTION.match(line)
    opcode = _OPCODE.search(match[3]) if match else None
    if not match or not opcode:
        return None
    rest = match[3]
    end = _closing(rest, opcode.end())
    arguments = rest[opcode.end() : end]
    shapes = tuple(
        Shape(dtype, tuple(int(n.lstrip("<=")) for n in dims.split(",") if n))
        for dtype, dims in _SHAPE.findall(rest[: opcode.start()])
    )
    operands = tuple(re.findall(r"%([\w.\-]+)", arguments))
    return Instruction(
        match[2], opcode[1], shapes, operands, arguments, rest[end + 1 :], computation, bool(match[1])
    )


def _closing(text: str, start: int) -> int:
    """Return the position of the parenthesis that closes the one before `start`."""
    depth = 1
    for match in _PARENTHESIS.finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(text)
