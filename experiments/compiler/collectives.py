"""The collectives of a compiled program: what each device sends, beside what the layout of the state needs.

Bytes that a device sends are those of rings of n devices: (n - 1) / n of an array for a gather or a scatter
of a sum, and twice that for a sum.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.compiler import groups, places
from experiments.compiler.hlo import Computation, Instruction, Module, Shape, bits

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
ZERO_PADDED = "gather as all-reduce"
_RING_STEPS = {"all-reduce": 2, ZERO_PADDED: 2, "collective-permute": 0}
# What may lie between a sum into parts and the permutations that move its parts to where they are stored.
_MOVES = {
    "get-tuple-element", "slice", "slice-done", "bitcast", "copy", "copy-done", "collective-permute",
    "collective-permute-done", "concatenate", "dynamic-slice",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Collective:
    """One communication of a program, of all arrays of one type that an instruction sends.

    Attributes:
      name: the instruction's name.
      kind: one of `KINDS`, or `ZERO_PADDED`, a gather that is written as a sum of zero-padded arrays.
      dtype: data type of what is sent, in HLO's spelling.
      arrays: number of arrays.
      payload: bytes of the whole arrays: gathered, or before a sum is split.
      sent: bytes that each device sends each time, with the padding of tiles.
      axes: axes of the mesh that the group spans; 'part of NAME' if it does not span all of one.
      group_size: number of devices that exchange data.
      times: how often it runs.
      part: part of the model, see `places.part`.
      phase: 'forward', 'backward', ..., see `places.phase`.
      op_name: JAX's name of the operation, or ''.
    """

    name: str
    kind: str
    dtype: str
    arrays: int
    payload: int
    sent: int
    axes: tuple[str, ...]
    group_size: int
    times: int
    part: str
    phase: str
    op_name: str

    @property
    def total_sent(self) -> int:
        """Bytes that each device sends in one run of the program."""
        return self.sent * self.times


@dataclasses.dataclass(frozen=True)
class _Array:
    """One array of a collective: its kind, its type, and the bytes of the array and of what is sent of it."""

    kind: str
    dtype: str
    payload: int
    padded: int


def find(module: Module, mesh: Any = None) -> list[Collective]:
    """Find the collectives of a compiled program.

    A sum that is fused with the choice of a part is a reduce-scatter. The permutations that move its parts
    to where they are stored count as a part of it.

    Args:
      module: the compiled program.
      mesh: mesh whose axes are named, in the order of the program's devices; None names no axes.

    Returns:
      The collectives in the order of execution; those within a single device are left out.
    """
    found: dict[tuple[str, str], list[Collective]] = {}
    chains: set[str] = set()
    for outer, times, _ in module.walk():
        for inner in _communications(module, outer):
            if inner.chain in chains:
                continue
            if inner.chain:
                chains.add(inner.chain)
            source = _scattered_by(module, inner) if inner.operation == "collective-permute" else None
            collectives = _describe(module, outer, inner, times, mesh)
            if source and (source.computation, source.name) in found:
                first, *others = found[source.computation, source.name]
                moved = sum(c.sent for c in collectives)
                found[source.computation, source.name] = [
                    dataclasses.replace(first, sent=first.sent + moved), *others
                ]  # fmt: skip
            else:
                found.setdefault((outer.computation, outer.name), []).extend(collectives)
    return [collective for collectives in found.values() for collective in collectives]


def _communications(module: Module, instruction: Instruction) -> Iterator[Instruction]:
    """Yield an instruction that is a collective, or those that a fusion contains."""
    if instruction.operation in KINDS:
        yield instruction
    elif instruction.operation == "fusion":
        fused = module.computations[instruction.called[0]]
        for inner in fused.instructions.values():
            yield from _communications(module, inner)


def _describe(module, outer: Instruction, inner: Instruction, times: int, mesh: Any) -> list[Collective]:
    members = groups.members(inner.replica_groups, module.num_partitions)
    size = groups.size(members, inner.operation)
    if size < 2:
        return []
    name = places.name_of(module, outer)
    is_permutation = inner.operation == "collective-permute"
    axes = groups.axes(members, dict(mesh.shape), is_permutation) if mesh is not None else ()
    arrays: dict[tuple[str, str], list[_Array]] = {}
    for array in _arrays(module, outer, inner, size):
        arrays.setdefault((array.kind, array.dtype), []).append(array)
    return [
        Collective(
            name=outer.name, kind=kind, dtype=dtype, arrays=len(some), payload=sum(x.payload for x in some),
            sent=_sent(kind, sum(x.padded for x in some), size), axes=axes, group_size=size, times=times,
            part=places.part(name), phase=places.phase(name), op_name=name,
        )
        for (kind, dtype), some in arrays.items()
    ]  # fmt: skip


def _sent(kind: str, payload: int, size: int) -> int:
    if kind == "collective-permute":
        return payload
    return round(_RING_STEPS.get(kind, 1) * payload * (size - 1) / size)


def _arrays(module: Module, outer: Instruction, inner: Instruction, size: int) -> Iterator[_Array]:
    """Yield the arrays that a collective sends; one that is combined of several has tuples."""
    computation, kind = module.of(inner), inner.operation
    count = len(inner.operands)
    # An operation that starts gives its operands first, then its results.
    results = inner.shapes[count : 2 * count] if len(inner.shapes) >= 2 * count else inner.shapes
    fused = outer is not inner
    scattered = kind == "all-reduce" and fused and _bytes(outer.shapes) < _bytes(results)
    for index, shape in enumerate(results):
        payload = shape.bytes
        if scattered:
            whole = _behind(computation, computation.operand(inner, index)).shapes[0]
            yield _Array("reduce-scatter", shape.dtype, -(-whole.size * bits(shape.dtype) // 8), payload)
        elif kind == "all-reduce" and _is_zero_padded(module, computation, computation.operand(inner, index)):
            yield _Array(ZERO_PADDED, shape.dtype, payload, payload)
        else:
            payload *= size if kind == "reduce-scatter" else 1
            yield _Array(kind, shape.dtype, payload, payload)


def _bytes(shapes: tuple[Shape, ...]) -> int:
    return sum(shape.bytes for shape in shapes)


def _behind(computation: Computation, instruction: Instruction) -> Instruction:
    """Return the instruction whose result is copied, converted or padded."""
    while instruction.opcode in ("pad", "bitcast", "copy", "convert", "copy-start", "copy-done"):
        instruction = computation.operand(instruction, 0)
    return instruction


def _is_zero_padded(module: Module, computation: Computation, array: Instruction) -> bool:
    """Whether an array is a part of it that was written into zeros."""
    array = _behind(computation, array)
    inside, write = computation, array
    if array.opcode == "fusion":
        inside = module.computations[array.called[0]]
        write = _behind(inside, inside.root)
    if write.opcode != "dynamic-update-slice":
        return False
    zeros = _behind(inside, inside.operand(write, 0))
    if zeros.opcode == "parameter" and inside is not computation:
        inside, zeros = computation, _behind(computation, computation.operand(array, int(zeros.arguments)))
    if zeros.opcode == "broadcast":
        zeros = _behind(inside, inside.operand(zeros, 0))
    return zeros.opcode == "constant" and zeros.arguments in ("0", "-0")


def _scattered_by(module: Module, permutation: Instruction) -> Instruction | None:
    """Return the fused sum into parts whose parts a permutation moves, or None."""
    computation, instruction = module.of(permutation), permutation
    while instruction.operation in _MOVES and instruction.operands:
        instruction = computation.operand(instruction, 0)
    return instruction if instruction.opcode == "fusion" and _is_collective(module, instruction) else None


def _is_collective(module: Module, fusion: Instruction) -> bool:
    return any(True for _ in _communications(module, fusion))


def totals(collectives: list[Collective]) -> dict[str, int]:
    """Return the bytes that each device sends in one run, by kind, largest first."""
    kinds: Counter[str] = Counter()
    for collective in collectives:
        kinds[collective.kind] += collective.total_sent
    return dict(kinds.most_common())


def ideal_bytes(params: Any, mesh: jax.sharding.Mesh, compute_dtype: Any) -> dict[str, int]:
    """Return the bytes that each device must send in a training step, given where its state lies.

    Let a parameter of `size` numbers be split into d parts along 'data' and f along 'fsdp', on N devices:

    - It is gathered once in the compute type, `(d f - 1) / (d f) size`. A parameter of blocks is gathered
      along 'data' once, `(d - 1) / (d f) size`, and along 'fsdp' twice, forward and backward,
      `2 (f - 1) / f size`.
    - Its gradient is summed into the parts in float32, `(d f - 1) / (d f) size`, and each part over its
      N / (d f) copies, `2 (N - d f) / N size / (d f)`. So an array that is not split is summed over all
      devices.

    Args:
      params: stored parameters, a pytree of arrays or `jax.ShapeDtypeStruct`s with `NamedSharding`s. Blocks
        are the leaves below a key 'blocks'.
      mesh: mesh on which they are stored.
      compute_dtype: type in which parameters are gathered.

    Returns:
      Bytes by 'all-gather', 'reduce-scatter' and 'all-reduce'.
    """
    wide = np.dtype(compute_dtype).itemsize
    total = dict.fromkeys(("all-gather", "reduce-scatter", "all-reduce"), 0.0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        d, f = (_parts(leaf.sharding.spec, mesh, fsdp) for fsdp in (False, True))
        in_blocks = any(getattr(entry, "key", None) == "blocks" for entry in path)
        gathered = (d - 1) / (d * f) + 2 * (f - 1) / f if in_blocks else 1 - 1 / (d * f)
        copies = mesh.size // (d * f)
        total["all-gather"] += gathered * leaf.size * wide
        total["reduce-scatter"] += (1 - 1 / (d * f)) * leaf.size * 4
        total["all-reduce"] += 2 * (1 - 1 / copies) * leaf.size / (d * f) * 4
    return {kind: round(value) for kind, value in total.items()}


def _parts(spec: jax.sharding.PartitionSpec, mesh: jax.sharding.Mesh, fsdp: bool) -> int:
    """Return into how many parts an array is split along 'fsdp', or along all other axes."""
    entries = (entry if isinstance(entry, tuple) else (entry,) for entry in spec if entry is not None)
    return math.prod(mesh.shape[name] for entry in entries for name in entry if (name == "fsdp") == fsdp)
