"""Collectives in the forms that compilers give them, in short texts with counts that are known by hand."""

import numpy as np

from experiments.compiler import collectives, groups
from tests.experiments import hlo_texts as texts


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
    module = texts.program(
        f"""
  %x = f32[1152,64]{{1,0}} parameter(0)
  %y = f32[128,64]{{1,0}} parameter(1)
  %fusion.1 = (f32[320,64]{{1,0:T(8,128)}}, f32[32,64]{{1,0}}) fusion(%x, %y), kind=kCustom, calls=%all-reduce-scatter.1, {texts.OP}
  %part = f32[320,64]{{1,0:T(8,128)}} get-tuple-element(%fusion.1), index=0
  %rows = f32[40,64]{{1,0:T(8,128)}} slice(%part), slice={{[40:80], [0:64]}}
  %collective-permute-start.8 = (f32[40,64]{{1,0:T(8,128)}}, f32[40,64]{{1,0}}, u32[]{{:S(2)}}, u32[]{{:S(2)}}) collective-permute-start(%rows), source_target_pairs={{{{0,2}},{{1,3}}}}
  ROOT %r = f32[40,64]{{1,0}} collective-permute-done(%collective-permute-start.8)""",  # noqa: E501
        fused,
    )
    (found,) = collectives.find(module, texts.mesh(replica=2, data=4))
    assert found.sent == (1280 + 128) * 64 * 4 * 3 // 4 + 40 * 64 * 4
    assert (found.kind, found.arrays, found.payload) == ("reduce-scatter", 2, (1152 + 128) * 64 * 4)
    assert (found.axes, found.group_size, found.part, found.phase) == (("data",), 4, "mlp", "backward")


def test_gathers_that_are_written_as_sums_of_zero_padded_arrays():
    fused = """
%write (into: f32[64,16], part: f32[8,16], at: s32[]) -> f32[64,16] {
  %into = f32[64,16]{1,0} parameter(0)
  %part = f32[8,16]{1,0} parameter(1)
  %at = s32[] parameter(2)
  ROOT %dynamic-update-slice.2 = f32[64,16]{1,0} dynamic-update-slice(%into, %part, %at, %at)
}
"""
    module = texts.program(
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
    found = collectives.find(texts.program(entry, piece.format("one") + piece.format("two")))
    assert [(c.name, c.sent) for c in found] == [("async-collective-start", 72 * 15 * 128 * 4)]


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
