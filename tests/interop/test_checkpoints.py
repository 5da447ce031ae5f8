"""Plain DiT and SiT checkpoints against a forward pass in numpy, and the authors' training checkpoints."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import gm, interop, models

TRAIN = Path(__file__).parents[1] / "golden" / "train"
SIZE, DEPTH, HEADS, PATCH, CHANNELS, CLASSES, GRID = 16, 2, 2, 2, 3, 5, 4


def state_dict(out_channels=CHANNELS, seed=0):
    """Return random tensors with the names and shapes of the original code."""
    random = np.random.default_rng(seed)
    shapes = {"x_embedder.proj": (SIZE, CHANNELS, PATCH, PATCH), "t_embedder.mlp.0": (SIZE, 256)}
    shapes |= {"t_embedder.mlp.2": (SIZE, SIZE), "final_layer.adaLN_modulation.1": (2 * SIZE, SIZE)}
    shapes["final_layer.linear"] = (PATCH**2 * out_channels, SIZE)
    for i in range(DEPTH):
        block = {"attn.qkv": (3 * SIZE, SIZE), "attn.proj": (SIZE, SIZE), "mlp.fc1": (4 * SIZE, SIZE)}
        block |= {"mlp.fc2": (SIZE, 4 * SIZE), "adaLN_modulation.1": (6 * SIZE, SIZE)}
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = random.normal(size=shape, scale=0.3).astype(np.float32)
        state[f"{name}.bias"] = random.normal(size=shape[:1], scale=0.3).astype(np.float32)
    table = random.normal(size=(CLASSES + 1, SIZE))
    return state | {"y_embedder.embedding_table.weight": table.astype(np.float32)}


def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def original(state, x, t, label):
    """Return the original code's prediction [C_out, H, W] for one image [C, H, W], in float64 by numpy."""

    def linear(name, x):
        return x @ state[f"{name}.weight"].astype(float).T + state[f"{name}.bias"]

    def positions():
        freqs = 10000.0 ** -(np.arange(SIZE // 4) / (SIZE // 4))
        def encode(p):
            return np.concatenate([np.sin(p * freqs), np.cos(p * freqs)])
        return np.stack([np.concatenate([encode(c), encode(r)]) for r in range(GRID) for c in range(GRID)])

    freqs = 10000.0 ** -(np.arange(128) / 128)
    time = np.concatenate([np.cos(t * freqs), np.sin(t * freqs)])
    condition = linear("t_embedder.mlp.2", silu(linear("t_embedder.mlp.0", time)))
    condition = silu(condition + state["y_embedder.embedding_table.weight"][label])
    kernel = state["x_embedder.proj.weight"].astype(float)
    patches = x.reshape(CHANNELS, GRID, PATCH, GRID, PATCH)
    tokens = np.einsum("crpsq,dcpq->rsd", patches, kernel).reshape(-1, SIZE)
    tokens = tokens + state["x_embedder.proj.bias"] + positions()
    for i in range(DEPTH):
        parts = np.split(linear(f"blocks.{i}.adaLN_modulation.1", condition), 6)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        qkv = linear(f"blocks.{i}.attn.qkv", norm(tokens) * (1 + scale_1) + shift_1)
        q, k, v = qkv.reshape(-1, 3, HEADS, SIZE // HEADS).transpose(1, 2, 0, 3)
        logits = q @ k.transpose(0, 2, 1) / np.sqrt(SIZE // HEADS)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        attended = (weights @ v).transpose(1, 0, 2).reshape(-1, SIZE)
        tokens = tokens + gate_1 * linear(f"blocks.{i}.attn.proj", attended)
        hidden = gelu(linear(f"blocks.{i}.mlp.fc1", norm(tokens) * (1 + scale_2) + shift_2))
        tokens = tokens + gate_2 * linear(f"blocks.{i}.mlp.fc2", hidden)
    shift, scale = np.split(linear("final_layer.adaLN_modulation.1", condition), 2)
    out = linear("final_layer.linear", norm(tokens) * (1 + scale) + shift)
    return np.einsum("rspqc->crpsq", out.reshape(GRID, GRID, PATCH, PATCH, -1)).reshape(-1, 8, 8)


def inputs(seed=1):
    random = np.random.default_rng(seed)
    x = random.normal(size=(3, 8, 8, CHANNELS)).astype(np.float32)
    return x, np.float32([0.05, 0.4, 0.9]), np.int32([0, 4, CLASSES])


def expected(state, times):
    x, _, labels = inputs()
    found = [
        original(state, image.transpose(2, 0, 1).astype(float), float(t), label)[:CHANNELS]
        for image, t, label in zip(x, times, labels, strict=True)
    ]
    return np.stack(found).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("out_channels", [CHANNELS, 2 * CHANNELS])
def test_dit_predictions_are_kept_for_any_number_of_components(out_channels):
    """Within 2e-4, as the epsilon of the normalisation differs; with and without learned variance."""
    state = state_dict(out_channels)
    x, t, labels = inputs()
    reference = expected(state, 1000 * t)
    for num_components in (1, 3):
        bundle = interop.load_dit(
            state, "dit", num_components=num_components, num_heads=HEADS, input_size=8
        )
        q = bundle.model(x, t, labels)
        assert q.means.shape == (3, 8, 8, num_components, CHANNELS)
        np.testing.assert_allclose(gm.mean(q), reference, atol=2e-4 * np.abs(reference).max())


def test_sit_becomes_a_velocity_towards_noise_at_our_times():
    """SiT's time runs from noise to data and its velocity points towards the data; within 2e-4 as above."""
    state = state_dict(seed=3)
    x, t, labels = inputs()
    reference = -expected(state, 1 - t)
    bundle = interop.load_dit(state, "sit", num_components=4, num_heads=HEADS, input_size=8)
    found = gm.mean(bundle.model(x, t, labels))
    np.testing.assert_allclose(found, reference, atol=2e-4 * np.abs(reference).max())


def test_components_are_spread_with_uniform_weights_and_unit_std():
    x, t, labels = inputs()
    params = {"offset_std": 0.1, "num_components": 8, "num_heads": HEADS, "input_size": 8}
    first, other = (
        interop.load_dit(state_dict(), key=jax.random.key(seed), **params).model(x, t, labels)
        for seed in range(2)
    )
    offsets = np.asarray(first.means - gm.mean(first)[..., None, :])
    assert offsets.std() == pytest.approx(0.1, rel=0.25)
    assert np.abs(offsets - (other.means - gm.mean(other)[..., None, :])).max() > 0.05
    np.testing.assert_allclose(first.log_weights, -np.log(8), rtol=1e-6)
    np.testing.assert_array_equal(first.log_std, 0)
    assert interop.load_dit(state_dict(), param_dtype="bfloat16", **params).config.param_dtype == "bfloat16"


def test_dit_from_a_file_with_its_positions(tmp_path):
    state = state_dict()
    table = np.asarray(models._embeddings.position_table((GRID, GRID), (GRID, GRID), SIZE))[None]
    path = tmp_path / "dit.safetensors"
    interop.save_safetensors(path, state | {"pos_embed": table})
    bundle = interop.load_dit(path, num_heads=HEADS)
    assert bundle.config.input_size == 8 and bundle.config.num_classes == CLASSES
    rounded = np.asarray(jnp.asarray(table, jnp.bfloat16))
    interop.load_dit(state | {"pos_embed": rounded}, num_heads=HEADS)
    with pytest.raises(ValueError, match="positions cannot be loaded"):
        interop.load_dit(state | {"pos_embed": table + 0.1}, num_heads=HEADS)
    with pytest.raises(ValueError, match="for input_size 8, but 32 was given"):
        interop.load_dit(path, num_heads=HEADS, input_size=32)


def test_other_checkpoints_are_refused(tmp_path):
    state = state_dict()
    with pytest.raises(ValueError, match="give num_heads"):
        interop.load_dit(state)
    with pytest.raises(ValueError, match="kind is 'flow'"):
        interop.load_dit(state, "flow")
    with pytest.raises(ValueError, match=r"no final_layer\.linear\.weight"):
        interop.load_dit({n: t for n, t in state.items() if n != "final_layer.linear.weight"})
    with pytest.raises(ValueError, match=r"left over are extra \(1,\)"):
        interop.load_dit(state | {"extra": np.zeros(1, np.float32)}, num_heads=HEADS, input_size=8)
    with pytest.raises(ValueError, match="not those of a DiT or SiT"):
        interop.load_dit({n: t for n, t in state.items() if "blocks" not in n}, num_heads=HEADS)
    with pytest.raises(ValueError, match="patches need four axes"):
        interop.load_dit(state | {"x_embedder.proj.weight": np.zeros((2, 2), np.float32)})
    path = tmp_path / "DiT-XL-2-256x256.pt"
    path.write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=r"is a pickle.*safetensors\.torch\.save_file"):
        interop.load_dit(path)


def test_the_authors_training_checkpoint(tmp_path):
    tensors = interop.load_safetensors(TRAIN / "ema_final.safetensors")
    path = tmp_path / "latest.safetensors"
    other = {f"diffusion.{name}": np.zeros_like(tensor) for name, tensor in tensors.items()}
    named = {f"diffusion_ema.{name}": tensor for name, tensor in tensors.items()}
    interop.save_safetensors(path, other | named)
    sizes = {"input_size": 8, "hidden_size": 16, "depth": 2, "num_heads": 2, "num_classes": 10}
    config = models.GMDiTConfig(**sizes, num_components=3, log_std_dim=16)
    spectrum = models.SpectrumMLPConfig(8, 4, (6, 5))
    averaged = interop.load_training(path, config, spectrum)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(averaged.params))
    written = interop.gm_dit_to_torch(averaged.params, config)
    written |= {
        f"spectrum_net.{name}": tensor
        for name, tensor in interop.spectrum_mlp_to_torch(
            models.functional(averaged.spectrum)[1], spectrum
        ).items()
    }
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(written[name.removeprefix("denoising.")], tensor)
    last = interop.load_training(path, config, prefix="diffusion.")
    assert last.spectrum is None and all(not jnp.any(leaf) for leaf in jax.tree.leaves(last.params))
    with pytest.raises(ValueError, match=r"no names that start with ema\.denoising"):
        interop.load_training(path, config, prefix="ema.")
    interop.save_safetensors(path, named | {"diffusion_ema.other.weight": np.zeros(1, np.float32)})
    with pytest.raises(ValueError, match=r"holds diffusion_ema\.other\.weight"):
        interop.load_training(path, config)
