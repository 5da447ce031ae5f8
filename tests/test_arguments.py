"""Promotion, expansion of times, and checks that run only if the values are not traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import _arguments


def test_promote_gives_one_dtype():
    bf16, wide = jnp.ones(2, jnp.bfloat16), np.ones(2)
    assert all(v.dtype == jnp.float32 for v in _arguments.promote(bf16, 0.5, 1, wide, np.float64(2.0)))
    with jax.enable_x64(True):
        # A Python number takes the others' dtype, and so does np.float64, which is one.
        assert all(v.dtype == jnp.float32 for v in _arguments.promote(bf16, 0.5, np.float64(2.0)))
        assert all(v.dtype == jnp.float64 for v in _arguments.promote(bf16, 0.5, {"x": wide})[:2])


def test_expand_time_gives_the_rank_of_the_batch():
    assert _arguments.expand_time(jnp.ones(()), (3, 2)).shape == ()
    assert _arguments.expand_time(jnp.ones(3), (3, 2, 5)).shape == (3, 1, 1)
    for shape in ((2,), (3, 1), (3, 2, 5)):
        with pytest.raises(ValueError, match=r"s has shape .* Pass a scalar or shape \(3,\)\."):
            _arguments.expand_time(jnp.ones(shape), (3, 2, 5), "s")
    with pytest.raises(ValueError, match=r"batch axes \(\)"):
        _arguments.expand_time(jnp.ones(3), ())


def test_values_are_checked_only_where_they_are_known():
    _arguments.check_times_ordered(0.0, 0.0)
    _arguments.check_times_ordered(0.5, 0.5, allow_equal=True)
    with pytest.raises(ValueError, match=r"s = 0\.5 and t = 0\.5"):
        _arguments.check_times_ordered(0.5, 0.5)
    jax.jit(lambda t: _arguments.check_times_ordered(t, 2.0))(1.0)
    # 0.7 is float32(0.7) beside float32 times, where it is cast to float32.
    _arguments.check_times_ordered(jnp.float32(0.7), 0.7, allow_equal=True)
    _arguments.check_times_ordered(jnp.ones(3), jnp.ones(2))  # `expand_time` refuses one of them


@pytest.mark.parametrize("value", ["0.5", None, np.nan, -1, [0.5, 2.0]])
def test_what_is_not_within_an_interval_is_refused(value):
    with pytest.raises(ValueError, match=r"rate is .*, but must be in \[0, 1\); give a number"):
        _arguments.check_number("rate", value, "[0, 1)")
    assert _arguments.is_within(jnp.bfloat16(0.5), "(0, 1)")
