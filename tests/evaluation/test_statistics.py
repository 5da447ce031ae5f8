"""Streamed statistics against those computed from all samples at once."""

import jax
import numpy as np
import pytest

from gmflow_jax.evaluation import FeatureStatistics, feature_statistics


def streamed(rows, batch_size, order=slice(None)):
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    statistics = FeatureStatistics.empty(rows.shape[1])
    for batch in batches[order]:
        statistics = statistics.merge(FeatureStatistics.of(batch))
    return statistics


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("batch_size", [1, 7, 100, 600])
def test_streamed_statistics_equal_two_passes_for_every_batch_size(offset, batch_size):
    rows = np.random.default_rng(0).standard_normal((600, 12)) + offset
    exact = rows.astype(np.longdouble)
    mean, covariance = exact.mean(0).astype(float), np.cov(exact, rowvar=False).astype(float)
    for order in (slice(None), slice(None, None, -1)):
        statistics = streamed(rows, batch_size, order)
        assert statistics.num_samples == 600
        np.testing.assert_allclose(statistics.mean, mean, rtol=1e-15, atol=1e-15)
        np.testing.assert_allclose(statistics.covariance, covariance, rtol=1e-12, atol=1e-13)


def test_merging_is_associative(features):
    real, _ = features
    parts = [FeatureStatistics.of(part) for part in np.array_split(real, [10, 200, 203])]
    left = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    right = parts[3].merge(parts[2].merge(parts[1].merge(parts[0])))
    mean, covariance = feature_statistics(real)
    for statistics in (left, right):
        np.testing.assert_allclose(statistics.mean, mean, rtol=1e-14)
        np.testing.assert_allclose(statistics.covariance, covariance, rtol=1e-12, atol=1e-13)


def test_merging_no_rows_changes_nothing_and_one_row_has_no_covariance():
    nothing, row = FeatureStatistics.empty(3), FeatureStatistics.of([[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(row.scatter, np.zeros((3, 3)))
    for merged in (nothing.merge(row), row.merge(nothing)):
        assert merged.num_samples == 1
        np.testing.assert_array_equal(merged.mean, [1, 2, 3])
        np.testing.assert_array_equal(merged.scatter, np.zeros((3, 3)))
    assert nothing.merge(nothing).num_samples == 0


def test_image_features_are_a_pytree_of_arrays():
    statistics = FeatureStatistics.of(np.eye(3))
    leaves, treedef = jax.tree.flatten(statistics)
    np.testing.assert_array_equal(jax.tree.unflatten(treedef, leaves).covariance, statistics.covariance)


def test_bad_input_is_refused():
    for few in (FeatureStatistics.empty(2), FeatureStatistics.of(np.ones((1, 2)))):
        with pytest.raises(ValueError, match="too few samples"):
            _ = few.covariance
    with pytest.raises(ValueError, match="widths 2 and 3"):
        FeatureStatistics.empty(2).merge(FeatureStatistics.empty(3))
    with pytest.raises(ValueError, match="1 of 4 values are NaN"):
        FeatureStatistics.of([[1, 2], [3, np.nan]])
    with pytest.raises(ValueError, match="at least 1"):
        FeatureStatistics.of(np.zeros((0, 2)))
