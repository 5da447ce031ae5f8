"""How programs choose solvers: sub-steps, and the network calls that steps take."""

from collections.abc import Callable

from gmflow_jax import solvers


def make_solver(
    name: str,
    num_steps: int,
    order: int = 2,
    num_substeps: int | None = None,
    shift: float = 1.0,
    spectrum: Callable | None = None,
) -> solvers.Solver:
    """The solver called `name`.

    gm_ode and gm_pc make midpoint sub-steps, 16 in all and at least 2 in a step unless num_substeps is
    given: no worse than the paper's 128 of Euler, for a quarter of the sweeps (`experiments.solver_study`).
    `spectrum` is for gm_sde, see `TrainedRun.spectrum`.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, but {num_steps} was given.")
    num_substeps = default_substeps(num_steps) if num_substeps is None else num_substeps
    return solvers.by_name(name, order, num_substeps, shift, integrator="midpoint", spectrum=spectrum)


def default_substeps(num_steps: int) -> int:
    """Return the number of sub-steps in a step where the user asks for none."""
    return max(16 // num_steps, 2)


def paper_substeps(num_steps: int, imagenet: bool) -> int:
    """Return the number of Euler sub-steps in a step of GM-ODE in the paper's experiments.

    About 128 in all; on ImageNet 8 in a step where there are 4 or 6 steps (section 4.2).
    """
    return 8 if imagenet and num_steps in (4, 6) else max(128 // num_steps, 2)


def calls_per_step(solver: str) -> int:
    """Return the network calls of a step without guidance; Heun's last step wastes its second call."""
    return 2 if solver == "heun" else 1


def num_calls(solver: str, num_steps: int) -> int:
    """Return the network calls that affect the result of `num_steps` steps to t = 0."""
    wasted = 1 if solver == "heun" else 0  # Heun's last step is Euler's
    return calls_per_step(solver) * num_steps - wasted
