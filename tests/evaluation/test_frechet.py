"""The Frechet distance against golden values, closed forms and invariances."""

from pathlib import Path

import numpy as np
import pytest

from gmflow_jax.evaluation import feature_statistics, frechet_distance

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"


def distance(a, b):
    return frechet_distance(*feature_statistics(a), *feature_statistics(b))


def test_statistics_equal_golden(features):
    stats = np.load(GOLDEN / "stats.npz")
    for rows, name in zip(features, ("ref", "gen"), strict=True):
        mean, cov = feature_statistics(rows)
        np.testing.assert_allclose(mean, stats[f"mu_{name}"], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(cov, stats[f"sigma_{name}"], rtol=1e-12, atol=1e-13)


def test_distance_equals_golden(features, expected):
    ref, gen = features
    np.testing.assert_allclose(distance(ref, gen), expected["fid"], rtol=1e-12)
    assert distance(ref, ref) < 1e-11


def test_rank_deficient_covariances_equal_golden(features, expected):
    # The golden values carry rounding of 3e-6 here: their eigenvalues of 1e-16 have roots of 1e-8.
    ref, gen = features
    np.testing.assert_allclose(
        distance(ref, gen[:30]), expected["fid_gen30_rank_deficient"], rtol=1e-7
    )
    np.testing.assert_allclose(
        distance(ref[:25], gen[:30]), expected["fid_gen30_both_rank_deficient"], rtol=1e-7
    )


def test_rank_deficient_distance_is_exact_in_the_span_of_the_samples(features):
    # 25 + 30 rows span at most 55 dimensions; the distance within them, where the 30-row
    # covariance still has rank 29, must be that in all 96.
    ref, gen = (rows.astype(np.float64) for rows in features)
    ref, gen = ref[:25], gen[:30]
    basis = np.linalg.qr(np.concatenate([ref, gen]).T)[0]
    np.testing.assert_allclose(distance(ref, gen), distance(ref @ basis, gen @ basis), rtol=1e-11)
    # and, the trace term being a nuclear norm, that of the centred samples' cross products
    a, b = ref - ref.mean(0), gen - gen.mean(0)
    cross = np.linalg.norm(a @ b.T, "nuc") / np.sqrt(24 * 29)
    exact = (
        ((ref.mean(0) - gen.mean(0)) ** 2).sum() + (a**2).sum() / 24 + (b**2).sum() / 29 - 2 * cross
    )
    np.testing.assert_allclose(distance(ref, gen), exact, rtol=1e-11)


def test_diagonal_covariances_have_the_closed_form(expected):
    exact = expected["tiny"]["diag_fid_var_1_4_9_vs_4_1_16_mean_shift_1_2_2"]
    value = frechet_distance(np.zeros(3), np.diag([1, 4, 9]), [1, 2, 2], np.diag([4, 1, 16]))
    np.testing.assert_allclose(value, exact, rtol=1e-14)


def test_degenerate_gaussians_have_the_closed_form():
    zero, one = np.zeros((2, 2)), np.eye(2)
    assert frechet_distance([0, 0], zero, [3, 4], zero) == 25
    assert frechet_distance([0, 0], one, [0, 0], zero) == 2
    assert frechet_distance([0], [[4.0]], [1], [[9.0]]) == pytest.approx(2, rel=1e-14)


def test_symmetric_and_invariant_to_rotation(features):
    ref, gen = features
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((96, 96)))[0]
    np.testing.assert_allclose(distance(gen, ref), distance(ref, gen), rtol=1e-11)
    np.testing.assert_allclose(
        distance(ref @ rotation + 1, gen @ rotation + 1), distance(ref, gen), rtol=1e-10
    )


def test_invariant_to_order_and_rising_with_noise(features):
    real, fake = features
    np.testing.assert_allclose(distance(real[::-1], fake[::-1]), distance(real, fake), rtol=1e-11)
    noise = np.random.default_rng(0).standard_normal(real.shape)
    values = [distance(real, real + scale * noise) for scale in (0, 0.1, 0.3, 1, 3)]
    assert values == sorted(values) and len(set(values)) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, np.nan], np.eye(2), [0, 0], np.eye(2)), "mean_1: 1 of 2 values"),
        (([0, 0], np.eye(2), [0, 0, 0], np.eye(3)), "widths 2 and 3"),
        (([0, 0], np.eye(3), [0, 0], np.eye(2)), r"must be \[D\]"),
        (([0, 0], np.array([[1, 2], [0, 1]]), [0, 0], np.eye(2)), "not symmetric"),
        (([0, 0], np.diag([1, -1]), [0, 0], np.eye(2)), "eigenvalue -1"),
    ],
)
def test_bad_statistics_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(*arguments)


@pytest.mark.parametrize("features", [np.zeros((1, 4)), np.zeros(4), np.full((3, 2), np.inf)])
def test_bad_features_are_refused(features):
    with pytest.raises(ValueError, match=r"; .*\.$"):
        feature_statistics(features)
