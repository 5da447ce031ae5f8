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
        'auto' for 'cudnn' in programs that are compiled for NVIDIA GPUs, if JAX finds cuDNN where the program
        is traced and the kernel accepts the query, else 'xla'. A program that is exported needs 'xla',
        because JAX does not serialise the kernel.

    Returns:
      [B, T, heads, head_dim] in the type of `value`.
    """
    if implementation == "cudnn":
        return _cudnn_attention(query, key, value)
    if implementation == "auto" and _fits_cudnn(query):
        # The conditional keeps the residuals of both forms until the platform is known. Those of 'xla' are
        # large, so that its backward pass computes them again; with cuDNN at hand, other platforms are rare.
        other = jax.checkpoint(xla_attention)
        return jax.lax.platform_dependent(query, key, value, cuda=_cudnn_attention, default=other)
    return xla_attention(query, key, value)


def _cudnn_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def _fits_cudnn(query: jax.Array) -> bool:
    """Whether cuDNN is installed and its kernel takes this query on Ampere, the oldest GPUs that have it."""
    head_dim = query.shape[-1]
    if query.dtype.itemsize != 2 or head_dim % 8 or head_dim > 128 or _is_older_gpu(jax.devices()[0]):
        return False
    shape = jax.ShapeDtypeStruct(query.shape, query.dtype)
    try:
        jax.eval_shape(_cudnn_attention, shape, shape, shape)
    except RuntimeError:  # JAX found no cuDNN, or one without this kernel
        return False
    return True


def _is_older_gpu(device: jax.Device) -> bool:  # pyright: ignore[reportInvalidTypeForm]  # no stubs
    """Whether a device is an NVIDIA GPU from before Ampere."""
    capability = getattr(device, "compute_capability", "") if device.platform == "gpu" else ""
    is_nvidia = capability.replace(".", "", 1).isdigit()  # AMD's capability is a name, such as gfx90a
    return is_nvidia and float(capability) < 8


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
    # the query, and the undivided sum could overflow float16. The axes of query, key and value are not
    # swapped, because XLA for TPUs would copy them instead of choosing their layout.
    scale, is_narrow = query.shape[-1] ** -0.5, query.dtype.itemsize == 2
    query = query if is_narrow else query * scale
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp((logits - largest) * scale if is_narrow else logits - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    if is_narrow:
        weights = (weights / total).astype(value.dtype)
    # Computed in the type of the values, so that the products of the backward pass have this type too.
    y = jnp.einsum("bhqk,bkhd->bhqd", weights, value)
    return jnp.swapaxes(y if is_narrow else y / total, 1, 2)
