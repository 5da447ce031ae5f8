"""GMDiT against the authors' network, and the properties of its options."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gmflow_jax import interop
from gmflow_jax._arguments import check_labels
from gmflow_jax.models import GMDiT, GMDiTConfig, abstract, functional, init_params
from tests.helpers import assert_leaves_close, relative_error

TOLERANCE = 1e-5  # the references' own float32 error reaches 4.4e-6
FIELDS = ("means", "log_weights", "log_std")
SMALL = GMDiTConfig(
    input_size=4, in_channels=3, hidden_size=16, depth=2, num_heads=2, num_classes=5,
    num_components=2, log_std_dim=8,
)  # fmt: skip

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")


def small_inputs(shape=(2, 4, 4, 3)):
    x_t = jax.random.normal(jax.random.key(3), shape)
    return x_t, jnp.linspace(0.2, 0.9, shape[0]), jnp.arange(shape[0])


@functools.cache
def network(config):
    """Compiled, because a call op by op takes seconds."""
    return jax.jit(abstract(GMDiT, config)[0])


@functools.cache
def initial_params(config):
    return jax.jit(lambda key: init_params(GMDiT, config, key))(jax.random.key(0))


def random_params(config):
    """Parameters without zeros, so that every part of the network matters."""
    rng = np.random.default_rng(0)
    draw = lambda p: (0.3 * rng.normal(size=p.shape)).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, abstract(GMDiT, config)[1])


@pytest.mark.parametrize("case", ["base", "other"])
@pytest.mark.parametrize("suffix", ["", "_f64"])
def test_outputs_match_the_authors(golden, case, suffix):
    if f"{case}_x" not in golden.arrays:
        case = "base"  # the network with a constant log_std has one size only
    q = network(golden.config)(golden.params(), *golden.inputs(case))
    for field in FIELDS:
        reference = golden.arrays[f"{case}_out_{field}{suffix}"]
        assert relative_error(getattr(q, field).reshape(reference.shape), reference) < TOLERANCE, field


def test_weights_rounded_to_bfloat16_match_the_authors(tiny):
    params = tiny.params("transformer/diffusion_pytorch_model.bf16.safetensors")
    q = network(tiny.config)(params, *tiny.inputs("base"))
    for field in FIELDS:
        reference = tiny.arrays[f"base_out_from_bf16_weights_{field}"]
        assert relative_error(getattr(q, field).reshape(reference.shape), reference) < TOLERANCE, field


def test_gradients_match_the_authors(golden):
    apply, _ = abstract(GMDiT, golden.config)
    x_t, t, labels = golden.inputs("base")

    def weighted_sum(params, x_t):
        q = apply(params, x_t, t, labels)
        log_std = q.log_std[:, 0, 0]
        outputs = {"means": q.means, "log_weights": q.log_weights, "log_std": log_std}
        cotangents = {name: golden.arrays[f"base_cotangent_{name}"] for name in FIELDS}
        return sum(jnp.sum(outputs[name] * cotangents[name]) for name in FIELDS)

    grads, grad_x = jax.jit(jax.grad(weighted_sum, argnums=(0, 1)))(golden.params(), x_t)
    assert relative_error(grad_x, golden.arrays["base_grad_x"]) < TOLERANCE
    reference = interop.load_safetensors(golden.folder / "base_param_grads.safetensors")
    grads = interop.gm_dit_to_torch(grads, golden.config)
    assert grads.keys() == reference.keys()
    for name in reference:
        # The authors' float32 angles reach 1000, so that their time features are off by up to 6e-5.
        tolerance = 5 * TOLERANCE if "timestep_embedder" in name else TOLERANCE
        assert relative_error(grads[name], reference[name]) < tolerance, name


def test_scanned_and_unrolled_blocks_agree():
    assert_leaves_close(value_and_grads(True, "none"), value_and_grads(False, "none"), 1e-5)


@pytest.mark.parametrize("remat", ["dots", "full"])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_recomputing_changes_nothing(scan_layers, remat):
    saved = value_and_grads(scan_layers, "none")
    assert_leaves_close(value_and_grads(scan_layers, remat), saved, 1e-6)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_recomputing_more_keeps_less_for_the_backward_pass(scan_layers):
    def kept(remat):
        loss, params = loss_function(scan_layers, remat)
        pullback = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    assert kept("full") < kept("dots") < kept("none")
    assert (kept(True), kept(False)) == (kept("full"), kept("none"))


def loss_function(scan_layers, remat):
    config = dataclasses.replace(SMALL, scan_layers=scan_layers, remat=remat)
    apply, params = abstract(GMDiT, config)

    def loss(params):
        q = apply(params, *small_inputs())
        return q.means.mean() + jnp.square(q.log_weights).mean() + q.log_std.mean()

    return loss, params


@functools.cache
def value_and_grads(scan_layers, remat):
    loss, _ = loss_function(scan_layers, remat)
    return jax.jit(jax.value_and_grad(loss))(random_params(SMALL))


def test_params_do_not_depend_on_options():
    _, shapes = abstract(GMDiT, SMALL)
    options = {"scan_layers": True, "remat": True, "dtype": "bfloat16", "attention": "cudnn"}
    assert abstract(GMDiT, dataclasses.replace(SMALL, **options))[1] == shapes
    assert abstract(GMDiT, dataclasses.replace(SMALL, head="separate"))[1] == shapes
    assert {leaf.shape[0] for leaf in jax.tree.leaves(shapes["blocks"])} == {SMALL.depth}


def test_initial_network_ignores_blocks_labels_and_time():
    """adaLN-Zero: blocks are the identity and the output is not modulated."""
    apply, params = network(SMALL), initial_params(SMALL)
    x_t, _, labels = small_inputs()
    q = apply(params, x_t, 0.1, labels)
    assert_leaves_close(apply(params, x_t, 0.9, labels + 1), q, 0)
    blocks = jax.tree.map(lambda p: p, params["blocks"])
    for name in ("query", "key", "value", "attention_out", "mlp_in", "mlp_out"):
        blocks[name] = jax.tree.map(lambda p: p + 1.0, blocks[name])
    assert_leaves_close(apply(params | {"blocks": blocks}, x_t, 0.1, labels), q, 0)
    np.testing.assert_array_equal(q.log_std, 0.0)


def test_initial_spread_follows_the_head_and_the_bias():
    large = {"input_size": 8, "in_channels": 4, "hidden_size": 256, "num_components": 8}
    joint = initial_params(dataclasses.replace(SMALL, **large))
    config = dataclasses.replace(SMALL, **large, head="separate", means_bias_std=2.0)
    separate = initial_params(config)
    # The limit of Xavier's uniform law: 160 outputs together, 128 for the means alone.
    assert np.abs(joint["means"]["kernel"]).max() == pytest.approx((6 / 416) ** 0.5, rel=1e-3)
    assert np.abs(joint["log_weights"]["kernel"]).max() == pytest.approx((6 / 416) ** 0.5, rel=1e-3)
    assert np.abs(separate["means"]["kernel"]).max() == pytest.approx((6 / 384) ** 0.5, rel=1e-3)
    np.testing.assert_array_equal(separate["log_weights"]["kernel"], 0.0)
    np.testing.assert_array_equal(joint["means"]["bias"], 0.0)
    assert separate["means"]["bias"].std() == pytest.approx(2.0, rel=0.2)


def test_initial_embeddings_have_the_std_of_dit():
    config = dataclasses.replace(SMALL, hidden_size=128, num_classes=100)
    params = initial_params(config)
    for kernel in (
        params["class_embed"]["embedding"],
        params["time_mlp"]["layer_0"]["kernel"],
        params["time_mlp"]["layer_1"]["kernel"],
    ):
        assert kernel.std() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_outputs_are_normalised_float32_whatever_the_compute_dtype(dtype):
    params, inputs = random_params(SMALL), small_inputs()
    config = dataclasses.replace(SMALL, dtype=dtype)
    q = network(config)(params, *inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(q)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(np.exp(q.log_weights).sum(-1), 1.0, atol=1e-6)
    reference = network(SMALL)(params, *inputs)
    assert 0 < np.abs(q.means - reference.means).max() < 0.1 * np.abs(reference.means).max()


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (1, 2, 6, 3), (3, 8, 2, 3)])
def test_any_size_is_accepted(shape):
    q = network(SMALL)(random_params(SMALL), *small_inputs(shape))
    assert q.means.shape == (*shape[:3], SMALL.num_components, shape[3])
    assert q.log_weights.shape == (*shape[:3], SMALL.num_components)
    assert q.log_std.shape == (shape[0], 1, 1)


def test_jitted_and_eager_agree():
    apply, _ = functional(GMDiT(SMALL, nnx.Rngs(0)))
    params, inputs = random_params(SMALL), small_inputs()
    assert_leaves_close(network(SMALL)(params, *inputs), apply(params, *inputs), 1e-5)


def test_samples_do_not_influence_each_other():
    apply = network(SMALL)
    params, (x_t, t, labels) = random_params(SMALL), small_inputs()
    q = apply(params, x_t, t, labels)
    alone = apply(params, x_t[1:], t[1:], labels[1:])
    assert_leaves_close(alone, jax.tree.map(lambda a: a[1:], q), 1e-5)


def test_scalar_time_and_missing_labels_are_shared_by_the_batch():
    apply = network(SMALL)
    params, (x_t, _, _) = random_params(SMALL), small_inputs()
    explicit = apply(params, x_t, jnp.full((2,), 0.3), jnp.full((2,), SMALL.num_classes))
    assert_leaves_close(apply(params, x_t, 0.3), explicit, 0)


def test_without_classes_the_only_label_is_the_null_label():
    model = nnx.eval_shape(lambda: GMDiT(dataclasses.replace(SMALL, num_classes=0), nnx.Rngs(0)))
    check_labels(np.zeros(2, int), num_classes=0)
    with pytest.raises(ValueError, match="a label must be 0 for no class"):
        model(jnp.zeros((2, 4, 4, 3)), jnp.zeros(2), np.ones(2, int))


def test_log_std_gradient_does_not_enter_the_embedding():
    inputs = small_inputs()
    grads = jax.jit(jax.grad(lambda p: network(SMALL)(p, *inputs).log_std.sum()))(
        random_params(SMALL)
    )
    touched = {name for name, g in grads.items() if any(map(np.any, jax.tree.leaves(g)))}
    assert touched == {"log_std"}


def test_one_component_of_constant_std_is_a_plain_velocity():
    config = dataclasses.replace(SMALL, num_components=1, constant_log_std=0.0)
    q = network(config)(random_params(config), *small_inputs())
    np.testing.assert_array_equal(q.log_weights, 0.0)
    np.testing.assert_array_equal(q.log_std, 0.0)


@pytest.mark.parametrize(
    ("x_shape", "t_shape", "labels", "sentence"),
    [
        ((2, 4, 4, 4), (2,), np.zeros(2, int), "channels last"),
        ((4, 4, 3), (2,), np.zeros(2, int), "channels last"),
        ((2, 4, 5, 3), (2,), np.zeros(2, int), "divisible by patch_size"),
        ((2, 4, 4, 3), (3,), np.zeros(2, int), "one time for each sample"),
        ((2, 4, 4, 3), (2,), np.zeros(3, int), "one integer for each"),
        ((2, 4, 4, 3), (2,), np.zeros(2), "one integer for each"),
        ((2, 4, 4, 3), (2,), np.array([-1, 0]), r"labels are from -1 to 0, .* or \d+ for no class"),
        ((2, 4, 4, 3), (2,), np.array([0, SMALL.num_classes + 1]), "Count the classes from 0"),
    ],
)
def test_wrong_inputs_are_refused(x_shape, t_shape, labels, sentence):
    model = nnx.eval_shape(lambda: GMDiT(SMALL, nnx.Rngs(0)))
    with pytest.raises(ValueError, match=sentence):
        model(jnp.zeros(x_shape), jnp.zeros(t_shape), labels)
