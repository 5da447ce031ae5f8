"""Defaults of the configurations that distil a teacher into a network for few calls (pi-Flow).

Source: Chen et al. 2025, pi-Flow (arXiv 2510.14974).
"""

import ml_collections


def add_to(config: ml_collections.ConfigDict) -> None:
    """Turn the configuration of a run into that of a distilled run, which has another loss."""
    del config.loss
    # The folder of a run, a diffusers folder, or a safetensors file of a SiT or DiT.
    config.teacher = ""
    config.num_calls = 1  # network calls that the student is made for
    config.distillation = ml_collections.ConfigDict(dict(
        init="teacher",  # the student's first parameters: 'teacher' or 'scratch'
        kind="sit",  # of a safetensors file: 'sit' predicts velocities, 'dit' the noise of DDPM
        data_free=False,  # True: training points come from noise, by the student, instead of from data
        dropout=0.05,  # probability of dropping a component along the path
        num_substeps=128,  # from t = 1 to 0; those of an interval between two calls are its share
        integrator="euler",
        shift=1.0,  # of the time grid
        guidance="probabilistic",  # of the teacher, or 'cfg'
        guidance_scale=0.0,  # off: 0 for probabilistic, 1 for cfg
        interval=(0.0, 1.0),  # times between which the teacher is guided
    ))


def add_report(
    config: ml_collections.ConfigDict, num_seeds: int, euler_steps: tuple[int, ...]
) -> None:
    """Let the report of a distilled run compare the student with its teacher.

    Args:
      config: the configuration.
      num_seeds: number of seeds of the report.
      euler_steps: numbers of Euler steps of the teacher.
    """
    config.report = ml_collections.ConfigDict(dict(num_seeds=num_seeds))
    config.report.rows = (dict(name="student", solver="gm_ode"),)
    config.report.teacher_rows = (
        dict(name="teacher, GM-ODE 2", solver="gm_ode", order=2, num_steps=(1, 2, 4, 8)),
        dict(name="teacher, Euler", solver="euler", num_steps=euler_steps),
    )
