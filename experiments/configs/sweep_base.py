"""Defaults of sweeps: the paper's guidance scales, 50,000 samples, the authors' labels.

A row has fields of `Cell` in experiments/scoring/cells.py, and may set num_steps and guidance_scales.
"""

import ml_collections

from experiments.scoring.cells import CFG_SCALES, GUIDANCE_SCALES


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.rows = ()
    config.num_steps = (8,)
    config.guidance_scales = GUIDANCE_SCALES
    config.cfg_scales = CFG_SCALES  # for rows with guidance="cfg"
    config.num_samples = 50_000  # runs on digits draw 1,797, as many as there are real digits
    config.labels = "random"  # the authors' rule; or "balanced"
    config.seed = 0
    return config
