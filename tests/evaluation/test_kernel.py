"""The kernel distance against golden values and its properties."""

import numpy as np
import pytest

from gmflow_jax.evaluation import _kernel, kernel_distance


@pytest.mark.parametrize("block_rows", [64, 4096])
def test_equals_golden_for_every_block_size(features, expected, block_rows, monkeypatch):
    monkeypatch.setattr(_kernel, "_BLOCK_ROWS", block_rows)
    np.testing.assert_allclose(kernel_distance(*features), expected["kid_full_unbiased"], rtol=1e-11)


def test_known_values():
    # Kernels: 1 of the pair within real, 8 within fake, 1 across.
    assert kernel_distance([[0.0], [0.0]], [[1.0], [1.0]]) == 1 + 8 - 2 * 1


def test_unbiased_on_equal_distributions():
    draw = np.random.default_rng(0).standard_normal
    values = [kernel_distance(draw((20, 4)), draw((30, 4))) for _ in range(300)]
    assert min(values) < 0
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(300)


def test_symmetric_invariant_to_order_and_rising_with_noise(features):
    real, fake = features
    value = kernel_distance(real, fake)
    np.testing.assert_allclose(kernel_distance(fake, real), value, rtol=1e-11)
    np.testing.assert_allclose(kernel_distance(real[::-1], fake[::-1]), value, rtol=1e-11)
    noise = np.random.default_rng(0).standard_normal(real.shape)
    values = [kernel_distance(real, real + scale * noise) for scale in (0, 0.5, 1, 2)]
    assert values == sorted(values) and len(set(values)) == 4


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (np.zeros((5, 4)), np.zeros((5, 3)), "widths 4 and 3"),
        (np.zeros((1, 4)), np.zeros((5, 4)), "real: .* at least 2"),
        (np.zeros((5, 4)), np.full((5, 4), np.inf), "fake: 20 of 20"),
    ],
)
def test_bad_input_is_refused(real, fake, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(real, fake)
