"""Configurations of the authors' tiny networks; see tests/golden/networks."""

from pathlib import Path

from gmflow_jax.models import GMDiTConfig, GMMLPConfig

FOLDER = Path(__file__).parent / "golden" / "networks"
SIZES = {
    "input_size": 8,
    "hidden_size": 16,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 10,
    "num_components": 3,
    "log_std_dim": 16,
}
TRANSFORMERS = {
    "tiny_gmdit": GMDiTConfig(**SIZES),
    "tiny_gmdit_v2": GMDiTConfig(**SIZES, head="separate"),
    "tiny_gmdit_const_logstd": GMDiTConfig(**SIZES | {"depth": 1}, constant_log_std=-0.7),
}
MLP = GMMLPConfig(num_components=4, embed_dim=16, width=24, depth=3)
