"""Images in another range are refused, and the message says how to convert them."""

import numpy as np
import pytest

from gmflow_jax.evaluation import check_images

UINT8 = np.random.default_rng(0).integers(0, 256, (2, 4, 3, 3), dtype=np.uint8)


def test_uint8_images_are_returned_unchanged():
    assert check_images(UINT8) is UINT8


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (UINT8 / 255, r"float64 from 0\S* to \S+, .* in \[0, 1\]; give np.round\(255 \* images\)"),
        ((UINT8 / 127.5 - 1).astype(np.float32), r"float32 from -\S+ to .* in \[-1, 1\]; give "),
        (UINT8.astype(np.float32), r"in \[0, 255\]; give np.round\(images\)"),
        (UINT8.astype(np.int64), r"int64 .* in \[0, 255\]"),
        (300.0 - UINT8, "the range is unusual"),
        (np.full((1, 2, 2, 3), np.nan), "nan .* sampler diverged"),
        (np.full((1, 2, 2, 3), np.inf), "inf .* sampler diverged"),
        (UINT8.transpose(0, 3, 1, 2)[..., :2], "colours last"),
        (UINT8[0], r"\(4, 3, 3\)"),
        (UINT8[:0], "at least one image"),
    ],
)
def test_messages_say_what_was_given_and_how_to_convert(images, message):
    with pytest.raises(ValueError, match=message):
        check_images(images)


def test_the_advised_conversion_restores_the_images():
    unit, signed = UINT8 / 255, (UINT8 / 127.5 - 1).astype(np.float32)
    np.testing.assert_array_equal(np.round(255 * unit).astype(np.uint8), UINT8)
    np.testing.assert_array_equal(np.round(127.5 * (signed + 1)).astype(np.uint8), UINT8)
