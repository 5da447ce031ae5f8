"""Part (c): how well GM-ODE's sub-steps are integrated, and what they cost."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study import problems, tables
from experiments.study.base import Record, Settings, Study
from experiments.study.scores import endpoint_error
from experiments.study.sweep import Network, start_noise
from gmflow_jax import flow, gm, solvers

PART = "sub-steps"
SWEEPS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}  # over the mixture, in a sub-step
_NETWORKS = {"2-D": problems.plane, "16-D": problems.space}
_TOTAL_SWEEPS = (8, 16, 32, 64, 128)  # summed over the steps
_NFES = (1,)  # as many sweeps in more steps give the same, for an exact network
_LATENTS = (4, 32, 32, 8, 4)  # [B, H, W, K, D] of the timed run, as in ImageNet sampling
_UNITS = 30


def units(settings: Settings, contenders) -> int:
    return _UNITS * len(_NETWORKS) * len(_NFES) * len(SWEEPS) + _UNITS


def run(study: Study) -> str:
    sections = [_INTRODUCTION]
    for name, make in _NETWORKS.items():
        network = make()
        x_1 = start_noise(study.settings.num_reference_samples, network.num_dims, seed=0)
        params = network.variants[problems.EXACT]
        known = problems.flow_endpoint(params, x_1, study.settings.num_reference_steps)
        for nfe in _NFES:
            found = {}
            for integrator in SWEEPS:
                found[integrator] = _errors(network, params, x_1, known, integrator, nfe)
                study.records += [
                    Record(PART, f"{name} exact", integrator, nfe, nfe, f"endpoint_error_{sweeps}_sweeps", e)
                    for sweeps, e in found[integrator].items()
                ]
                study.advance(f"sub-steps by {integrator}", _UNITS)
            sections.append(_section(name, nfe, found))
    sections.append(_timing(study))
    return "\n\n".join(sections)


def _errors(network: Network, params, x_1, known, integrator: str, nfe: int) -> dict[int, float]:
    """{sweeps in all steps: endpoint error} of first-order GM-ODE in nfe steps."""
    errors = {}
    denoise = flow.denoiser(lambda x, t: network.velocity(params, x, t))
    for sweeps in _TOTAL_SWEEPS:
        num_substeps, rest = divmod(sweeps, nfe * SWEEPS[integrator])
        if num_substeps and not rest:
            solver = solvers.gm_ode(1, num_substeps, integrator=integrator)
            found = jax.jit(lambda x, s=solver: solvers.sample(None, denoise, x, s, flow.time_grid(nfe)))(x_1)
            errors[sweeps] = endpoint_error(np.asarray(found), known)
    return errors


def _section(name: str, nfe: int, found: dict[str, dict[int, float]]) -> str:
    target = found["euler"][max(_TOTAL_SWEEPS)]
    reach = {
        integrator: min((sweeps for sweeps, e in errors.items() if e <= target), default=None)
        for integrator, errors in found.items()
    }
    rows = [
        [i, *(f"{errors[s]:.2g}" if s in errors else "" for s in _TOTAL_SWEEPS), str(reach[i] or "more")]
        for i, errors in found.items()
    ]
    header = ["integrator", *map(str, _TOTAL_SWEEPS), f"sweeps to Euler's {target:.2g}"]
    return f"{name}, {nfe} network call{'s' * (nfe > 1)}:\n\n{tables.markdown(header, rows)}"


def _timing(study: Study) -> str:
    """Time of the sub-steps alone, on latents of ImageNet's size: Euler's 128 against fewer by midpoint."""
    seconds = {}
    keys = jax.random.split(jax.random.key(0), 2)
    means = jax.random.normal(keys[0], _LATENTS)
    q = gm.GaussianMixture(means, jnp.full(_LATENTS[:-1], -np.log(_LATENTS[-2])), jnp.float32(-1))
    x = jax.random.normal(keys[1], _LATENTS[:3] + _LATENTS[4:])
    for name, solver in (
        ("Euler, 16 sub-steps", solvers.gm_ode(1, 16)),
        ("midpoint, 2 sub-steps", solvers.gm_ode(1, 2, integrator="midpoint")),
        ("GM-PC, 2 midpoint sub-steps, twice", solvers.gm_pc(2)),
        ("GM-PC, 8 midpoint sub-steps, twice", solvers.gm_pc(8)),
    ):
        run = jax.jit(lambda x, q, s=solver: solvers.sample(None, lambda *_: q, x, s, flow.time_grid(8)))
        run(x, q).block_until_ready()
        seconds[name] = min(_seconds(lambda run=run: run(x, q).block_until_ready()) for _ in range(5)) / 8
        study.records.append(Record(PART, "timing", name, 8, 8, "seconds_a_step", seconds[name]))
    study.advance("sub-steps: timing", _UNITS)
    reference = seconds["Euler, 16 sub-steps"]
    rows = [[name, f"{1e3 * s:.1f}", f"{s / reference:.2f}"] for name, s in seconds.items()]
    size = 4 * np.prod(_LATENTS) / 2**20
    return (
        f"Time of a step of 8 without the network (best of 5), for mixtures {list(_LATENTS)} "
        f"([B, H, W, K, D], {size:.1f} MiB of means; the floor is one pass over them a sweep):\n\n"
        + tables.markdown(["sub-steps", "ms", "of Euler's"], rows)
    )


def _seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


_INTRODUCTION = """## GM-ODE's sub-steps

Endpoint error of GM-ODE 1 on exact networks, where nothing but the sub-steps is inexact, against the \
sweeps over the mixture in all steps together: Euler makes one in a sub-step, midpoint and Heun two, \
Runge-Kutta four. 128 Euler sub-steps in all are the paper's."""
