"""What is read from compiled programs, with counts that are known by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.compiler import collectives, cycles, flops, hlo, loops, places
from tests.experiments import hlo_texts as texts

_TPU = Path(__file__).parents[1] / "golden" / "compiler" / "tpu_v5e_2x4.hlo"
@pytest.fixture(scope="module")
def tpu():
    return hlo.parse(_TPU.read_text())


def test_collectives_of_a_tpus_training_step(tpu):
    size = 3 * 1152**2
    mesh = AbstractMesh((2, 4), ("replica", "data"))
    found = collectives.find(tpu, mesh)
    assert tpu.num_partitions == 8
    assert texts.summary(found) == [
        ("all-gather", "bf16", size * 2 * 3 // 4, ("data",), 1),
        ("reduce-scatter", "f32", size // 3 * 4 * 3 // 4, ("data",), 3),
        # The compiler sums the parts over the replicas in the type of the computation.
        ("all-reduce", "bf16", size // 3 // 4 * 2, ("replica",), 3),
    ]
    assert [(c.part, c.phase) for c in found] == [
        ("other", "forward"), ("mlp", "backward"), ("mlp", "backward")
    ]  # fmt: skip
    stored = jax.ShapeDtypeStruct((3, 1152, 1152), jnp.float32, sharding=NamedSharding(mesh, P(None, "data")))
    ideal = collectives.ideal_bytes({"blocks": stored}, mesh, jnp.bfloat16)
    totals = collectives.totals(found)
    assert ideal["all-gather"] == totals["all-gather"]
    assert ideal["reduce-scatter"] == totals["reduce-scatter"]
    assert ideal["all-reduce"] == 2 * totals["all-reduce"]


def test_products_and_estimated_cycles_of_a_tpus_training_step(tpu):
    assert flops.count(tpu) == 3 * 3 * 2 * (16 * 256) * 1152**2
    parts = cycles.by_part(tpu)
    assert parts == {"mlp": 1815018, "other": 363057, "optimizer": 24476}
    assert cycles.total(tpu) == sum(parts.values()) == sum(cycles.by_phase(tpu).values())
    assert cycles.by_phase(tpu)["optimizer"] == 24476
    assert cycles.table(tpu)["mlp", "forward"] + cycles.table(tpu)["mlp", "backward"] == parts["mlp"]


def test_collectives_and_products_of_a_cpu_program():
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "fsdp"))

    def loss(weights, x):
        def layer(x, w):
            w = jax.lax.with_sharding_constraint(w, NamedSharding(mesh, P()))
            with jax.named_scope("mlp"):
                return jnp.tanh(x @ w), None

        return jnp.sum(jax.lax.scan(layer, x, weights)[0] ** 2)

    stored = NamedSharding(mesh, P(None, "fsdp"))
    weights = jax.ShapeDtypeStruct((3, 64, 64), jnp.float32, sharding=stored)
    x = jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=NamedSharding(mesh, P(("data", "fsdp"))))
    module = hlo.parse(jax.jit(jax.grad(loss), out_shardings=stored).lower(weights, x).compile().as_text())
    found = collectives.find(module, mesh)
    # Each layer is gathered forward, kept for the way back, and its gradient is summed over all devices.
    assert {c for c in texts.summary(found) if c[2] > 6} == {
        ("all-gather", "f32", 64 * 64 * 4 // 2, ("fsdp",), 3),
        ("all-reduce", "f32", 64 * 64 * 4 * 2 * 3 // 4, ("data", "fsdp"), 3),
    }
    assert flops.count(module) == 3 * 3 * 2 * 2 * 64 * 64
    assert cycles.by_part(module) == {}


_LOOP = """
%cond (p: (f32[144,64], u32[])) -> pred[] {
  %p = (f32[144,64]{1,0:T(8,128)S(1)}, u32[]{:T(128)}) parameter(0)
  %limit = u32[]{:T(128)} constant(4)
  %counter = u32[]{:T(128)} get-tuple-element(%p), index=1
  ROOT %compare.4 = pred[]{:T(512)} compare(%counter, %limit), direction=LT
}

%body (q: (f32[144,64], u32[])) -> (f32[144,64], u32[]) {
  %q = (f32[144,64]{1,0:T(8,128)S(1)}, u32[]{:T(128)}) parameter(0)
  %counter = u32[]{:T(128)} get-tuple-element(%q), index=1
  %part = f32[144,64]{1,0} get-tuple-element(%q), index=0
  %start = (f32[144,64]{1,0}, f32[144,64]{1,0}, u32[], u32[]) collective-permute-start(%part), source_target_pairs={{0,1},{1,2},{2,3},{3,4},{4,5},{5,6},{6,7},{7,0}}
  %done = f32[144,64]{1,0} collective-permute-done(%start)
  %two = u32[]{:T(128)} constant(2)
  %next = u32[]{:T(128)} add(%counter, %two)
  ROOT %tuple.1 = (f32[144,64]{1,0}, u32[]{:T(128)}) tuple(%done, %next)
}
"""  # noqa: E501
_WHILE = """
  %x = f32[144,64]{1,0} parameter(0)
  %zero = u32[]{:T(128)} constant(0)
  %tuple = (f32[144,64]{1,0}, u32[]{:T(128)}) tuple(%x, %zero)
  ROOT %while.1 = (f32[144,64]{1,0}, u32[]{:T(128)}) while(%tuple), condition=%cond, body=%body"""


def test_a_product_that_sends_in_a_loop_runs_as_often_as_the_counter_says():
    (found,) = collectives.find(texts.program(_WHILE, _LOOP), texts.mesh(replica=1, data=8))
    assert texts.summary([found]) == [("collective-permute", "f32", 144 * 64 * 4, ("data",), 2)]
    assert (found.group_size, found.total_sent) == (8, 2 * 144 * 64 * 4)


@pytest.mark.parametrize(
    ("old", "new", "times"),
    [
        ("direction=LT", "direction=LE", 3),
        ("%zero = u32[]{:T(128)} constant(0)", "%zero = u32[]{:T(128)} constant(2)", 1),
        ("%two = u32[]{:T(128)} constant(2)", "%two = u32[]{:T(128)} constant(1)", 4),
        ("direction=LT", "direction=NE", None),
        ("constant(4)", "get-tuple-element(%p), index=1", None),
        ("%zero = u32[]{:T(128)} constant(0)", "%zero = u32[]{:T(128)} parameter(1)", None),
        ("%two = u32[]{:T(128)} constant(2)", "%two = u32[]{:T(128)} get-tuple-element(%q), index=1", None),
        ("%next = u32[]{:T(128)} add", "%next = u32[]{:T(128)} multiply", None),
        ("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"28"}}', 28),
    ],
)
def test_trip_counts(old, new, times):
    module = texts.program(_WHILE.replace(old, new), _LOOP.replace(old, new))
    loop = module.entry.instructions["while.1"]
    assert loops.trip_count(module, loop) == times
    assert loops.of_unknown_length(module) == ([] if times else ["while.1"])
    assert [n for _, n, path in module.walk() if path == ("while.1",)] == [times or 1] * 8


def test_of_a_conditional_the_most_expensive_branch_counts():
    branch = """
%{0} (x: f32[8,{1}]) -> f32[8,8] {{
  %x = f32[8,{1}]{{1,0}} parameter(0)
  ROOT %dot = f32[8,8]{{1,0}} dot(%x, %x), lhs_contracting_dims={{1}}, rhs_contracting_dims={{1}}, backend_config={{"estimated_cycles":"{1}"}}
}}
"""  # noqa: E501
    module = texts.program(
        """
  %p = pred[] parameter(0)
  %x = f32[8,4]{1,0} parameter(1)
  %y = f32[8,64]{1,0} parameter(2)
  ROOT %c = f32[8,8]{1,0} conditional(%p, %x, %y), true_computation=%one, false_computation=%two""",
        branch.format("one", 4) + branch.format("two", 64),
    )
    assert flops.count(module) == 2 * 8 * 8 * 64
    assert cycles.total(module) == sum(cycles.by_part(module).values()) == 64
    assert [x.computation for x, _, path in module.walk() if path] == ["one"] * 2 + ["two"] * 2


def test_spellings_of_gpus():
    """A text written by hand, in the form that XLA for GPUs prints."""
    module = texts.program(
        """
  %x = bf16[8,64]{1,0} parameter(0)
  %y = bf16[4,256,16,72]{3,2,1,0} parameter(1)
  %all-gather-start = (bf16[8,64]{1,0}, bf16[32,64]{1,0}) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}
  %reduce-scatter-start = ((bf16[8,64]{1,0}), bf16[2,64]{1,0}) async-start(%x), calls=%wrapped
  %all-reduce-start = bf16[8,64]{1,0} all-reduce-start(%x), replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add
  %gemm = (bf16[8,8]{1,0}, s8[1024]{0}) custom-call(%x, %x), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  ROOT %fmha = (bf16[4,256,16,72]{3,2,1,0}, u8[0]{0}) custom-call(%y, %y, %y), custom_call_target="__cudnn$fmhaSoftmax", backend_config={"cudnn_fmha_backend_config":{"intermediate_tensor_shape":{"dimensions":["4","16","256","256"]}}}""",  # noqa: E501
        """
%wrapped (p: bf16[8,64]) -> bf16[2,64] {
  %p = bf16[8,64]{1,0} parameter(0)
  ROOT %reduce-scatter.1 = bf16[2,64]{1,0} reduce-scatter(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
}
""",  # noqa: E501
    )
    assert texts.summary(collectives.find(module, texts.mesh(data=2, fsdp=4))) == [
        ("all-gather", "bf16", 3 * 8 * 64 * 2, ("fsdp",), 1),
        ("reduce-scatter", "bf16", 8 * 64 * 2 * 3 // 4, ("fsdp",), 1),
        ("all-reduce", "bf16", 8 * 64 * 2 * 2 * 3 // 4, ("data", "part of fsdp"), 1),
    ]
    assert flops.count(module) == 2 * 8 * 8 * 64 + 2 * 2 * 4 * 16 * 256 * 256 * 72


@pytest.mark.parametrize(
    ("output", "left", "right", "attributes", "count"),
    [
        ((64, 1152), (64, 256), (256, 1152), "dim_labels=bf_io->bf", 64 * 256 * 1152),
        (
            (64, 256, 16, 72), (64, 256, 1152, 1), (1152, 16, 72, 1),
            "window={size=1x16 pad=0_0x15_15 rhs_reversal=0x1}, dim_labels=0bf1_i1o0->0b1f",
            64 * 256 * 1152**2,
        ),
        (
            (64, 16, 256, 256), (64, 256, 16, 72), (64, 256, 16, 72),
            "window={size=64x16 stride=63x15 lhs_dilate=64x16}, dim_labels=0b1f_0o1i->01bf",
            64 * 16 * 256 * 256 * 72,
        ),
        (
            (2, 8, 8, 6), (2, 8, 8, 4), (3, 3, 2, 6),
            "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, feature_group_count=2",
            2 * 6 * 2 * (3 * 8 - 2) ** 2,
        ),
        ((1, 4, 3), (1, 9, 5), (3, 5, 3), "window={size=3 stride=2}, dim_labels=b0f_0io->b0f", 4 * 3 * 3 * 5),
    ],
)  # fmt: skip
def test_products_and_convolutions(output, left, right, attributes, count):
    shapes = (",".join(map(str, dims)) for dims in (left, right, output))
    text = (
        "  %a = f32[{}] parameter(0)\n  %b = f32[{}] parameter(1)\n  ROOT %c = f32[{}] convolution(%a, %b), "
    )
    assert flops.count(texts.program(text.format(*shapes) + attributes)) == 2 * count


def test_places():
    name = "jit(step)/transpose(jvp(gm_loss))/while/body/attention/rematted_computation/dot_general"
    assert (places.part(name), places.phase(name)) == ("attention", "recomputed")
    assert (places.part("jit(f)/ema/mul"), places.phase("jit(f)/ema/mul")) == ("ema", "optimizer")
    assert (places.part("jit(f)/headless/mul"), places.phase("")) == ("other", "other")


def test_text_that_is_no_module():
    with pytest.raises(ValueError, match="no line that starts with 'ENTRY'"):
        hlo.parse("module @jit_f {}")
