"""What is read from compiled programs, with counts that are known by hand."""

import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.compiler import collectives, cycles, flops, groups, hlo, loops, places

_TPU = Path(__file__).parents[1] / "golden" / "compiler" / "tpu_v5e_2x4.hlo"
_OP = 'metadata={op_name="jit(f)/transpose(jvp(mlp))/dot_general"}'


def _mesh(**sizes):
    return types.SimpleNamespace(shape=sizes)


def _program(entry, computations=""):
    return hlo.parse(
        f"HloModule f, num_partitions=8\n\n{computations}\nENTRY %main () -> f32[] {{\n{entry}\n}}\n"
    )


def _summary(found):
    return [(c.kind, c.dtype, c.sent, c.axes, c.times) for c in found]


@pytest.fixture(scope="module")
def tpu():
    return hlo.parse(_TPU.read_text())


def test_collectives_of_a_tpus_training_step(tpu):
    size = 3 * 1152**2
    mesh = AbstractMesh((2, 4), ("replica", "data"))
    found = collectives.find(tpu, mesh)
    assert tpu.num_partitions == 8
    assert _summary(found) == [
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
    assert {c for c in _summary(found) if c[2] > 6} == {
        ("all-gather", "f32", 64 * 64 * 4 // 2, ("fsdp",), 3),
        ("all-reduce", "f32", 64 * 64 * 4 * 2 * 3 // 4, ("data", "fsdp"), 3),
    }
    assert flops.count(module) == 3 * 3 * 2 * 2 * 64 * 64
    assert cycles.by_part(module) == {}


def test_a_scattered_sum_includes_padding_and_the_permutations_that_align_its_parts():
    fused = """
%all-reduce-scatter.1 (a: f32[1152,64], b: f32[128,64]) -> (f32[80,64], f32[8,64]) {
  %a = f32[1152,64]{1,0:T(8,128)S(3)} parameter(0)
  %zero = f32[] constant(0)
  %pad = f32[1280,64]{1,0:T(8,128)} pad(%a, %zero), padding=0_128x0_0
  %b = f32[128,64]{1,0:T(8,128)S(3)} parameter(1)
  %all-reduce.1 = (f32[1280,64]{1,0:T(8,128)}, f32[128,64]{1,0}) all-reduce(%pad, %b), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %t = (f32[80,64]{1,0}, f32[8,64]{1,0}) tuple(%a, %b)
}
"""  # noqa: E501
    module = _program(
        f"""
  %x = f32[1152,64]{{1,0}} parameter(0)
  %y = f32[128,64]{{1,0}} parameter(1)
  %fusion.1 = (f32[320,64]{{1,0:T(8,128)}}, f32[32,64]{{1,0}}) fusion(%x, %y), kind=kCustom, calls=%all-reduce-scatter.1, {_OP}
  %part = f32[320,64]{{1,0:T(8,128)}} get-tuple-element(%fusion.1), index=0
  %rows = f32[40,64]{{1,0:T(8,128)}} slice(%part), slice={{[40:80], [0:64]}}
  %collective-permute-start.8 = (f32[40,64]{{1,0:T(8,128)}}, f32[40,64]{{1,0}}, u32[]{{:S(2)}}, u32[]{{:S(2)}}) collective-permute-start(%rows), source_target_pairs={{{{0,2}},{{1,3}}}}
  ROOT %r = f32[40,64]{{1,0}} collective-permute-done(%collective-permute-start.8)""",  # noqa: E501
        fused,
    )
    (found,) = collectives.find(module, _mesh(replica=2, data=4))
    assert found.sent == (1280 + 128) * 64 * 4 * 3 // 4 + 40 * 64 * 4
    assert (found.kind, found.arrays, found.payload) == ("reduce-scatter", 2, (1152 + 128) * 64 * 4)
    assert (found.axes, found.group_size, found.part, found.phase) == (("data",), 4, "mlp", "backward")


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
    (found,) = collectives.find(_program(_WHILE, _LOOP), _mesh(replica=1, data=8))
    assert _summary([found]) == [("collective-permute", "f32", 144 * 64 * 4, ("data",), 2)]
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
    module = _program(_WHILE.replace(old, new), _LOOP.replace(old, new))
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
    module = _program(
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


def test_gathers_that_are_written_as_sums_of_zero_padded_arrays():
    fused = """
%write (into: f32[64,16], part: f32[8,16], at: s32[]) -> f32[64,16] {
  %into = f32[64,16]{1,0} parameter(0)
  %part = f32[8,16]{1,0} parameter(1)
  %at = s32[] parameter(2)
  ROOT %dynamic-update-slice.2 = f32[64,16]{1,0} dynamic-update-slice(%into, %part, %at, %at)
}
"""
    module = _program(
        """
  %part = f32[8,16]{1,0} parameter(0)
  %at = s32[] parameter(1)
  %c = f32[] constant(0)
  %zeros = f32[64,16]{1,0} broadcast(%c), dimensions={}
  %first = f32[64,16]{1,0} dynamic-update-slice(%zeros, %part, %at, %at)
  %second = f32[64,16]{1,0} fusion(%zeros, %part, %at), kind=kLoop, calls=%write
  %third = f32[64,16]{1,0} dynamic-update-slice(%second, %part, %at, %at)
  ROOT %all-reduce.110 = (bf16[64,16]{1,0}, f32[64,16]{1,0}, f32[64,16]{1,0}) all-reduce(%first, %second, %third), replica_groups={}, to_apply=%add""",  # noqa: E501
        fused,
    )
    padded, summed = collectives.ZERO_PADDED, "all-reduce"
    assert [(c.kind, c.dtype, c.payload, c.sent) for c in collectives.find(module)] == [
        (padded, "bf16", 64 * 16 * 2, 64 * 16 * 2 * 2 * 7 // 8),
        (padded, "f32", 64 * 16 * 4, 64 * 16 * 4 * 2 * 7 // 8),
        (summed, "f32", 64 * 16 * 4, 64 * 16 * 4 * 2 * 7 // 8),
    ]


def test_a_collective_that_is_cut_up_and_fused_with_products_counts_once():
    piece = """
%{0} (a: f32[72,128]) -> f32[1152,128] {{
  %a = f32[72,128]{{1,0}} parameter(0)
  ROOT %all-gather.{0} = f32[1152,128]{{1,0}} all-gather(%a), channel_id=50, replica_groups=[4,16]<=[64], dimensions={{0}}, frontend_attributes={{chain_id="0"}}
}}
"""  # noqa: E501
    entry = """
  %x = f32[72,128]{1,0} parameter(0)
  %async-collective-start = f32[1152,128]{1,0} fusion(%x), kind=kCustom, calls=%one
  ROOT %async-collective-done = f32[1152,128]{1,0} fusion(%x), kind=kCustom, calls=%two"""
    found = collectives.find(_program(entry, piece.format("one") + piece.format("two")))
    assert [(c.name, c.sent) for c in found] == [("async-collective-start", 72 * 15 * 128 * 4)]


def test_spellings_of_gpus():
    """A text written by hand, in the form that XLA for GPUs prints."""
    module = _program(
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
    assert _summary(collectives.find(module, _mesh(data=2, fsdp=4))) == [
        ("all-gather", "bf16", 3 * 8 * 64 * 2, ("fsdp",), 1),
        ("reduce-scatter", "bf16", 8 * 64 * 2 * 3 // 4, ("fsdp",), 1),
        ("all-reduce", "bf16", 8 * 64 * 2 * 2 * 3 // 4, ("data", "part of fsdp"), 1),
    ]
    assert flops.count(module) == 2 * 8 * 8 * 64 + 2 * 2 * 4 * 16 * 256 * 256 * 72


def test_groups_of_devices():
    columns = np.arange(8).reshape(2, 4).T
    for text in (
        "{{0,4},{1,5},{2,6},{3,7}}",
        "[4,2]<=[2,4]T(1,0)",
        "mesh['axis_0'=2,'axis_1'=4] {'axis_0'}",
        "mesh['axis_0'=1,'axis_1'=4,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_2'}",
        "mesh['axis_0'=8] {'axis_0':(1)2}",
    ):
        members = groups.members(text, 8)
        assert members.tolist() == columns.tolist(), text
        assert groups.axes(members, {"data": 2, "fsdp": 4}) == ("data",)
    assert groups.size(groups.members("{{0,1},{1,2},{3,3}}", 4), "collective-permute") == 3
    assert groups.size(groups.members("{}", 4), "collective-permute") == 0
    assert groups.members("", 4).tolist() == groups.members("{}", 4).tolist() == [[0, 1, 2, 3]]


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
    assert flops.count(_program(text.format(*shapes) + attributes)) == 2 * count


def test_places():
    name = "jit(step)/transpose(jvp(gm_loss))/while/body/attention/rematted_computation/dot_general"
    assert (places.part(name), places.phase(name)) == ("attention", "recomputed")
    assert (places.part("jit(f)/ema/mul"), places.phase("jit(f)/ema/mul")) == ("ema", "optimizer")
    assert (places.part("jit(f)/headless/mul"), places.phase("")) == ("other", "other")


def test_text_that_is_no_module():
    with pytest.raises(ValueError, match="no line that starts with 'ENTRY'"):
        hlo.parse("module @jit_f {}")
