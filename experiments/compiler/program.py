"""What a program to compile is, the options of a sampler, and what is said when a compiler fails."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from experiments.common import cli
from experiments.compiler import memory, targets


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Options of the program 'sample'; None is the usual value of the network.

    Attributes:
      solver: a name in `solvers.NAMES`.
      num_steps: steps of the solver.
      order: order of gm_ode and gm_sde.
      num_substeps: sub-steps in each step, for gm_ode and gm_pc.
      guided: whether guidance is used.
    """

    solver: str = "gm_ode"
    num_steps: int | None = None
    order: int | None = None
    num_substeps: int | None = None
    guided: bool | None = None


@dataclasses.dataclass(frozen=True)
class Program:
    """A program for a batch size, ready to be compiled.

    Attributes:
      mesh: its devices.
      held: the arguments by name, as trees of shapes with shardings.
      compile: compiles it.
      model_flops: operations of the networks for the whole batch, without recomputation; None if unknown.
      ideal: bytes that each device must send, by kind of collective; None if the layout needs none.
    """

    mesh: Mesh
    held: dict[str, Any]
    compile: Callable[[], jax.stages.Compiled]
    model_flops: float | None = None
    ideal: dict[str, int] | None = None


def compile_program(program: Program) -> jax.stages.Compiled | memory.Refusal:
    """Compile a program; return it, or why the compiler refuses it for its memory.

    Raises:
      ValueError: if the compiler fails for another reason, or cuDNN is missing.
    """
    try:
        return program.compile()
    except jax.errors.JaxRuntimeError as error:
        if cli.out_of_memory(error):
            return memory.refusal(error)
        raise ValueError(f"The compiler fails: {targets.first_line(error)}") from error
    except RuntimeError as error:
        if "cuDNN" not in str(error):
            raise
        raise ValueError(
            f"{targets.first_line(error)} network.attention is 'cudnn', which needs cuDNN here too; install "
            "the extra cuda12, or give --config.network.attention=xla."
        ) from error
