"""Where sweeps start: the paper's grids of guidance, 50,000 samples, the authors' labels.

A row has fields of experiments/scoring/cells.py's Cell, and may bring its own num_steps and guidance_scales.
"""

import ml_collections

from experiments.scoring.cells import CFG_SCALES, GUIDANCE_SCALES


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.rows = ()
    config.num_steps = (8,)
    config.guidance_scales = GUIDANCE_SCALES
    config.cfg_scales = CFG_SCALES  # of rows with guidance="cfg"
    config.num_samples = 50_000  # runs on digits draw as many as there are real ones
    config.labels = "random"  # the authors' rule, or "balanced"
    config.seed = 0
    return config
