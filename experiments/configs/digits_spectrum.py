"""digits.py with a learned power spectrum, with which GM-SDE draws correlated noise.

Paper: appendix A.3 of Gaussian Mixture Flow Matching Models, arXiv 2504.05304.
Command: python -m experiments.train --config=experiments/configs/digits_spectrum.py --workdir=runs/spectrum
"""

import ml_collections

from experiments.configs import digits


def get_config() -> ml_collections.ConfigDict:
    config = digits.get_config()
    config.spectrum = ml_collections.ConfigDict(dict(
        base_size=4,
        num_channels=4,
        widths=(64, 8),
        loss_weight=1.0,
    ))
    config.report.rows = (
        dict(name="GM-SDE 2", solver="gm_sde", order=2),
        dict(name="GM-SDE 2, spectrum", solver="gm_sde", order=2, spectrum=True),
    )
    return config
