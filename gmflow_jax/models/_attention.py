"""Attention of the networks, by XLA or by a fused kernel."""

import jax
import jax.numpy as jnp


def attention(query: jax.Array, key: jax.Array, value: jax.Array, implementation: str) -> jax.Array:
    """Compute softmax attention over all tokens, with weights computed in float32.

    Args:
      query: [B, T, heads, head_dim].
      key: like `query`.
      value: like `query`.
      implementation: 'xla'; 'cudnn' for the fused kernel, which needs a 16-bit type and an NVIDIA GPU; or
        'auto' for 'cudnn' if JAX's default device supports it, else 'xla'. A program compiled for a
        device other than the default one should not use 'auto'.

    Returns:
      [B, T, heads, head_dim] in the type of `value`.
    """
    if implementation == "cudnn" or (implementation == "auto" and _fits_cudnn(query)):
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    return xla_attention(query, key, value)


def _fits_cudnn(query: jax.Array) -> bool:
    """Whether the default device is an NVIDIA GPU (Ampere or newer) whose cuDNN kernel takes this query."""
    device, head_dim = jax.devices()[0], query.shape[-1]
    capability = getattr(device, "compute_capability", "0") if device.platform == "gpu" else "0"
    is_nvidia = capability.replace(".", "", 1).isdigit()  # AMD's capability is a name, such as gfx90a
    fits = query.dtype.itemsize == 2 and head_dim % 8 == 0 and head_dim <= 128
    return is_nvidia and float(capability) >= 8 and fits


def xla_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Compute `attention` in its form for XLA.

    Args:
      query: [B, T, heads, head_dim].
      key: like `query`.
      value: like `query`.

    Returns:
      [B, T, heads, head_dim] in the type of `value`.
    """
    # Written out because the 'xla' form of jax.nn refuses bfloat16 under strict dtype promotion, and takes
    # three times as long on a CPU. In float32, the query is scaled instead of the logits, and the result is
    # divided instead of the weights, because these are the smaller arrays. In 16 bits, scaling would round
    # the query, and the undivided sum could overflow float16.
    scale, is_narrow = query.shape[-1] ** -0.5, query.dtype.itemsize == 2
    query = query if is_narrow else query * scale
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    logits = jnp.einsum(
        "bhqd,bhdk->bhqk", query, jnp.swapaxes(key, 2, 3), preferred_element_type=jnp.float32
    )
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp((logits - largest) * scale if is_narrow else logits - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    if is_narrow:
        weights, total = (weights / total).astype(value.dtype), 1
    # Computed in the type of the values, so that the products of the backward pass have this type too.
    y = jnp.einsum("bhqk,bhkd->bhqd", weights, value) / total
    return jnp.swapaxes(y, 1, 2)
