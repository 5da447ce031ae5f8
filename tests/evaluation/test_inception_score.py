"""The Inception Score against golden values and its bounds."""

import numpy as np
import pytest

from gmflow_jax.evaluation import inception_score


def test_equals_golden(logits, expected):
    np.testing.assert_allclose(inception_score(logits), expected["is_gmflow_splits10"], rtol=1e-12)
    np.testing.assert_allclose(inception_score(logits, splits=1), expected["is_one_split"], rtol=1e-12)


@pytest.mark.parametrize("split_size", [5000, 100, 70])
def test_parts_of_a_size_equal_golden(logits, expected, split_size):
    score = inception_score(logits, split_size=split_size)
    np.testing.assert_allclose(score, expected[f"is_adm_split{split_size}"], rtol=1e-12)
    np.testing.assert_allclose(score, expected[f"adm_is_split{split_size}"], rtol=1e-6)  # in float32


def test_remaining_rows_are_left_out(logits):
    assert inception_score(logits[:359], splits=10) == inception_score(logits[:350], splits=10)
    assert inception_score(logits[:351], splits=10) != inception_score(logits[:349], splits=10)


def test_scores_lie_between_one_and_the_number_of_classes():
    one_class_each = 1000.0 * np.eye(6)  # probabilities of exactly 0
    assert inception_score(np.repeat(one_class_each, 4, axis=0), splits=1) == pytest.approx(6, rel=1e-12)
    assert inception_score(np.repeat(one_class_each[:1], 8, axis=0), splits=2) == pytest.approx(1, rel=1e-12)


def test_invariant_to_order_within_a_part_and_to_a_shift_of_the_logits(logits):
    shuffled = np.random.default_rng(0).permutation(logits)
    np.testing.assert_allclose(inception_score(shuffled, 1), inception_score(logits, 1), rtol=1e-12)
    shifted = logits.astype(np.float64) + np.arange(len(logits))[:, None]
    np.testing.assert_allclose(inception_score(shifted), inception_score(logits), rtol=1e-11)


@pytest.mark.parametrize(
    ("logits", "options", "message"),
    [
        (np.zeros((9, 4)), {}, "at least 10"),
        (np.zeros((9, 4)), {"splits": 0}, "splits is 0"),
        (np.zeros((9, 4)), {"split_size": 0}, "split_size is 0"),
        (np.full((10, 4), np.nan), {}, "40 of 40 values are NaN"),
        (np.zeros(10), {}, "one row"),
        (np.zeros((0, 4)), {"split_size": 5}, "at least 1"),
    ],
)
def test_bad_input_is_refused(logits, options, message):
    with pytest.raises(ValueError, match=message):
        inception_score(logits, **options)
