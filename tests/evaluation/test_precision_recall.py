"""Precision and recall against golden values and cases worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from gmflow_jax.evaluation import _precision_recall, precision_recall

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
TINY = EXPECTED["tiny"]


@pytest.fixture(scope="module")
def features():
    with np.load(GOLDEN / "features.npz") as arrays:
        return arrays["ref"], arrays["gen"]


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block_entries", [1, 5_000, 2**22])
def test_equals_golden_for_every_block_size(features, k, block_entries, monkeypatch):
    monkeypatch.setattr(_precision_recall, "_BLOCK_ENTRIES", block_entries)
    expected = EXPECTED[f"precision_k{k}"], EXPECTED[f"recall_k{k}"]
    assert precision_recall(*features, k=k) == expected


@pytest.mark.parametrize("k", [1, 2, 3])
def test_points_on_a_line_by_hand(k):
    real, fake = np.array(TINY["line_ref"])[:, None], np.array(TINY["line_gen"])[:, None]
    expected = TINY[f"line_precision_k{k}"], TINY[f"line_recall_k{k}"]
    assert precision_recall(real, fake, k=k) == expected


def test_balls_of_radius_zero_hold_copies_only():
    copy, moved = TINY["duplicates_gen"]
    precision, _ = precision_recall(TINY["duplicates_ref"], [copy, moved] * 2)
    assert precision == TINY["duplicates_precision_k3"]


def test_copies_far_from_the_origin_are_found():
    # |a|^2 + |b|^2 - 2 a.b doesn't cancel to exactly 0 for these.
    point = np.random.default_rng(0).uniform(size=64)
    assert precision_recall(np.tile(point, (5, 1)), np.tile(point, (7, 1))) == (1.0, 1.0)


def test_swapping_the_sets_swaps_the_figures(features):
    real, fake = features
    assert precision_recall(fake, real) == precision_recall(real, fake)[::-1]


def test_own_data_and_collapse():
    real = np.random.default_rng(0).standard_normal((200, 5))
    assert precision_recall(real, real) == (1.0, 1.0)
    precision, recall = precision_recall(real, np.tile(real[:1], (50, 1)))
    assert precision == 1.0 and recall == 1 / 200
    assert precision_recall(real, real + 100) == (0.0, 0.0)


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
def test_bad_input_is_a_sentence(shape_real, shape_fake, k, message):
    with pytest.raises(ValueError, match=message):
        precision_recall(np.zeros(shape_real), np.zeros(shape_fake), k=k)


def test_nan_is_a_sentence():
    with pytest.raises(ValueError, match="fake: 36 of 36"):
        precision_recall(np.zeros((9, 4)), np.full((9, 4), np.nan))
