"""The solvers that programs use: their sub-steps, and the network calls that their steps take."""

from collections.abc import Callable

from gmflow_jax import solvers


def make_solver(
    name: str,
    num_steps: int,
    order: int = 2,
    num_substeps: int | None = None,
    shift: float = 1.0,
    spectrum: Callable | None = None,
    integrator: str = "midpoint",
) -> solvers.Solver:
    """Make a solver by its name.

    Args:
      name: one of `solvers.NAMES`.
      num_steps: steps of the time grid, at least 1.
      order: 1 or 2, for gm_ode and gm_sde.
      num_substeps: sub-steps in each step, for gm_ode and gm_pc; None takes `default_substeps`.
      shift: shift of the sub-steps' times, for gm_ode and gm_pc.
      spectrum: the function that `TrainedRun.spectrum` returns, for gm_sde.
      integrator: method of the sub-steps, for gm_ode and gm_pc.

    Raises:
      ValueError: if num_steps is below 1, the name is unknown, or the solver does not take the options.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, but {num_steps} was given.")
    num_substeps = default_substeps(num_steps) if num_substeps is None else num_substeps
    return solvers.by_name(name, order, num_substeps, shift, integrator=integrator, spectrum=spectrum)


def default_substeps(num_steps: int) -> int:
    """Return the default number of midpoint sub-steps in each step: 16 in all, and at least 2.

    By `experiments.solver_study` this is no worse than the paper's 128 Euler sub-steps, and evaluates the
    mixture a quarter as often.
    """
    return max(16 // num_steps, 2)


def paper_substeps(num_steps: int, imagenet: bool) -> int:
    """Return the number of Euler sub-steps in each step of GM-ODE in the paper's experiments.

    These are about 128 in all, but on ImageNet 8 in each of 4 or 6 steps (section 4.2).
    """
    return 8 if imagenet and num_steps in (4, 6) else max(128 // num_steps, 2)


def calls_per_step(solver: str) -> int:
    """Return the network calls of a step without guidance."""
    return 2 if solver == "heun" else 1


def num_calls(solver: str, num_steps: int) -> int:
    """Return the network calls that affect the result of `num_steps` steps to t = 0."""
    wasted = 1 if solver == "heun" else 0  # the last step of Heun to t = 0 is an Euler step
    return calls_per_step(solver) * num_steps - wasted
