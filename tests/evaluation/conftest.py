"""The golden features that several metrics are tested on."""

import json
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"


@pytest.fixture(scope="session")
def expected():
    """What the metrics of the golden features are, by name."""
    return json.loads((GOLDEN / "expected.json").read_text())


@pytest.fixture(scope="session")
def features():
    """Real [420, 96] and fake [360, 96] features, float32."""
    with np.load(GOLDEN / "features.npz") as arrays:
        return arrays["ref"], arrays["gen"]


@pytest.fixture(scope="session")
def logits():
    """Logits [360, 40], float32."""
    with np.load(GOLDEN / "features.npz") as arrays:
        return arrays["logits"]
