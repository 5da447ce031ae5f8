"""Precision and recall against golden values and known values."""

import numpy as np
import pytest

from gmflow_jax.evaluation import _neighbours, density_coverage, precision_recall

EXACT = ("float32", "float64")


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("block_entries", [1, 5_000, 2**24])
def test_equal_golden_for_every_block_size(features, expected, k, dtype, block_entries, monkeypatch):
    monkeypatch.setattr(_neighbours, "_BLOCK_ENTRIES", block_entries)
    exact = expected[f"precision_k{k}"], expected[f"recall_k{k}"]
    assert precision_recall(*features, k=k, dtype=dtype) == exact
    density, coverage = density_coverage(*features, k=k, dtype=dtype)
    assert density == pytest.approx(expected[f"density_k{k}"], rel=1e-14)
    assert coverage == expected[f"coverage_k{k}"]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_float16_equals_the_rule_of_adm(features, expected, k):
    values = precision_recall(*features, k=k, dtype="float16")
    exact = expected[f"fp16sq_numpy_precision_k{k}"], expected[f"fp16sq_numpy_recall_k{k}"]
    assert values == exact
    # The evaluator itself sums in float16: precision is equal, and recall differs by one point.
    assert values[0] == expected[f"adm_fp16_precision_k{k}"]
    assert values[1] == pytest.approx(expected[f"adm_fp16_recall_k{k}"], abs=1.001 / 420)


def test_float16_radii_equal_the_rule_of_the_authors(features, expected):
    values = precision_recall(*features, dtype="float16_radii")
    exact = expected["gmflow_precision_k3"], expected["gmflow_recall_k3"]
    np.testing.assert_allclose(values, exact, rtol=1e-7)  # stored as float32
    assert values != precision_recall(*features)


@pytest.mark.parametrize("dtype", [*EXACT, "float16"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_points_on_a_line_have_known_scores(expected, k, dtype):
    tiny = expected["tiny"]
    real, fake = np.array(tiny["line_ref"])[:, None], np.array(tiny["line_gen"])[:, None]
    exact = tiny[f"line_precision_k{k}"], tiny[f"line_recall_k{k}"]
    assert precision_recall(real, fake, k=k, dtype=dtype) == exact


def test_known_density_and_coverage():
    # Balls reach from -1 to 1, 0 to 2, 1 to 3, and 2 to 10.
    real, fake = np.array([[0.0], [1], [2], [6]]), np.array([[1.0], [1.5], [20]])
    assert density_coverage(real, fake, k=1) == ((3 + 2 + 0) / 3, 3 / 4)


@pytest.mark.parametrize("dtype", EXACT)
def test_balls_of_radius_zero_contain_only_copies(expected, dtype):
    tiny = expected["tiny"]
    copy, moved = tiny["duplicates_gen"]
    precision, _ = precision_recall(tiny["duplicates_ref"], [copy, moved] * 2, dtype=dtype)
    assert precision == tiny["duplicates_precision_k3"]


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("width", [64, 2048])
def test_copies_of_many_points_are_found(dtype, width):
    # |a|^2 + |b|^2 - 2 a.b doesn't cancel to exactly 0 for these.
    points = np.random.default_rng(0).uniform(size=(60, width))
    assert precision_recall(np.tile(points, (5, 1)), np.tile(points, (4, 1)), dtype=dtype) == (1.0, 1.0)


def test_float32_tolerates_a_common_offset(features):
    offset = np.float32(4096)  # |a|^2 of 1.6e9 would leave nothing of distances of 70
    moved = [np.round(rows * 64) / 64 for rows in features]  # exact also with the offset
    assert precision_recall(*(rows + offset for rows in moved)) == precision_recall(*moved)


def test_swapping_the_sets_swaps_precision_and_recall(features):
    real, fake = features
    assert precision_recall(fake, real) == precision_recall(real, fake)[::-1]


def test_scores_of_the_data_itself_and_of_collapsed_samples():
    real = np.random.default_rng(0).standard_normal((200, 5))
    assert precision_recall(real, real) == (1.0, 1.0)
    precision, recall = precision_recall(real, np.tile(real[:1], (50, 1)))
    assert precision == 1.0 and recall == 1 / 200
    assert precision_recall(real, real + 100) == (0.0, 0.0)
    assert density_coverage(real, real + 100) == (0.0, 0.0)


def test_precision_falls_with_noise(features):
    real, _ = features
    noise = np.random.default_rng(0).standard_normal(real.shape)
    for measure in (precision_recall, density_coverage):
        values = [measure(real, real + scale * noise)[0] for scale in (0, 0.7, 0.8, 1)]
        assert values == sorted(values, reverse=True) and len(set(values)) == 4


def test_order_does_not_matter(features):
    real, fake = features
    assert precision_recall(real[::-1], fake[::-1]) == precision_recall(real, fake)
    assert density_coverage(real[::-1], fake[::-1]) == density_coverage(real, fake)


def test_progress_wraps_the_blocks_of_three_passes(features, monkeypatch):
    monkeypatch.setattr(_neighbours, "_BLOCK_ENTRIES", 42_000)
    lengths = []
    precision_recall(*features, progress=lambda blocks: lengths.append(len(blocks)) or blocks)
    assert lengths == [5, 4, 4]  # 420 rows of 420, 360 of 360, 420 of 360, in blocks of 42,000 numbers


@pytest.mark.parametrize(
    ("shape_real", "shape_fake", "k", "message"),
    [
        ((9, 4), (9, 5), 3, "widths 4 and 5"),
        ((3, 4), (9, 4), 3, "at least 4"),
        ((9, 4), (3, 4), 3, "at least 4"),
        ((9, 4), (9, 4), 0, "k >= 1"),
        ((9, 2, 2), (9, 4), 3, "one row"),
    ],
)
def test_bad_input_is_refused(shape_real, shape_fake, k, message):
    for measure in (precision_recall, density_coverage):
        with pytest.raises(ValueError, match=message):
            measure(np.zeros(shape_real), np.zeros(shape_fake), k=k)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="fake: 36 of 36"):
        precision_recall(np.zeros((9, 4)), np.full((9, 4), np.nan))


def test_bad_dtypes_are_refused(features):
    with pytest.raises(ValueError, match="dtype is 'half'; give one of 'float32'"):
        precision_recall(*features, dtype="half")
    with pytest.raises(ValueError, match=r"exceeds 65504, .* dtype='float32'"):
        precision_recall(*(100 * rows for rows in features), dtype="float16")
