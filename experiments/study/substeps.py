"""Part (c): error and cost of GM-ODE's sub-steps.

The cost is counted in evaluations of the mixture's velocity, each for all components.
"""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study import problems, tables
from experiments.study.base import Record, Settings, Study
from experiments.study.contenders import Contender
from experiments.study.scores import endpoint_error
from experiments.study.sweep import Network, start_noise
from gmflow_jax import flow, gm, solvers

PART = "sub-steps"
EVALUATIONS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}  # of the mixture, in a sub-step
_NETWORKS = {"2-D": problems.plane, "16-D": problems.space}
_TOTAL_EVALUATIONS = (8, 16, 32, 64, 128)  # in all steps together
_NFES = (1,)  # for an exact network, the same number of evaluations in more steps gives the same error
_LATENTS = (4, 32, 32, 8, 4)  # [B, H, W, K, D] of the timed run, as in ImageNet sampling
_UNITS = 30


def units(settings: Settings, contenders: Sequence[Contender]) -> int:
    """Return the length of this part in units of the progress bar."""
    return _UNITS * len(_NETWORKS) * len(_NFES) * len(EVALUATIONS) + _UNITS


def run(study: Study) -> str:
    """Measure errors and times of the integrators, and return the Markdown."""
    sections = [_INTRODUCTION]
    for name, make in _NETWORKS.items():
        network = make()
        x_1 = start_noise(study.settings.num_reference_samples, network.num_dims, seed=0)
        params = network.variants[problems.EXACT]
        endpoint = problems.flow_endpoint(params, x_1, study.settings.num_reference_steps)
        for nfe in _NFES:
            errors = {}
            for integrator in EVALUATIONS:
                errors[integrator] = _errors(network, params, x_1, endpoint, integrator, nfe)
                study.records += [
                    Record(PART, f"{name} exact", integrator, nfe, nfe, f"endpoint_error_{n}_sweeps", e)
                    for n, e in errors[integrator].items()
                ]
                study.advance(f"sub-steps by {integrator}", _UNITS)
            sections.append(_section(name, nfe, errors))
    sections.append(_timing(study))
    return "\n\n".join(sections)


def _errors(network: Network, params, x_1, endpoint, integrator: str, nfe: int) -> dict[int, float]:
    """Return {evaluations in all steps: endpoint error} of first-order GM-ODE in nfe steps."""
    errors = {}
    denoise = flow.denoiser(lambda x, t: network.velocity(params, x, t))
    for evaluations in _TOTAL_EVALUATIONS:
        num_substeps, rest = divmod(evaluations, nfe * EVALUATIONS[integrator])
        if num_substeps and not rest:
            solver = solvers.gm_ode(1, num_substeps, integrator=integrator)
            sample = jax.jit(lambda x, s=solver: solvers.sample(None, denoise, x, s, flow.time_grid(nfe)))
            errors[evaluations] = endpoint_error(np.asarray(sample(x_1)), endpoint)
    return errors


def _section(name: str, nfe: int, errors: dict[str, dict[int, float]]) -> str:
    """Format the errors, {integrator: {evaluations: error}}."""
    target = errors["euler"][max(_TOTAL_EVALUATIONS)]
    reach = {
        name: min((n for n, e in by_evaluations.items() if e <= target), default=None)
        for name, by_evaluations in errors.items()
    }
    rows = [
        [name, *(f"{e[s]:.2g}" if s in e else "" for s in _TOTAL_EVALUATIONS), str(reach[name] or "more")]
        for name, e in errors.items()
    ]
    header = ["integrator", *map(str, _TOTAL_EVALUATIONS), f"evaluations to Euler's {target:.2g}"]
    return f"{name}, {nfe} network call{'s' * (nfe > 1)}:\n\n{tables.markdown(header, rows)}"


def _timing(study: Study) -> str:
    """Compare the times of 128 Euler sub-steps and of fewer midpoint sub-steps on ImageNet-sized latents."""
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
        f"Time of one of 8 steps without the network (best of 5), for mixtures {list(_LATENTS)} "
        f"([B, H, W, K, D], {size:.1f} MiB of means; a lower bound is to read them once per evaluation):\n\n"
        + tables.markdown(["sub-steps", "ms", "of Euler's"], rows)
    )


def _seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


_INTRODUCTION = """## GM-ODE's sub-steps

Endpoint error of GM-ODE 1 on exact networks, where the sub-steps are the only source of error. The columns \
are the evaluations of the mixture in all steps together: a sub-step of Euler takes one, of midpoint and \
Heun two, of Runge-Kutta four. The paper uses 128 Euler sub-steps in all."""
