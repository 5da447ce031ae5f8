"""What is reported of a compiled program, as values for JSON and as lines of text."""

from collections import Counter
from typing import Any

import jax

from experiments.compiler import collectives, cycles, flops, hlo, loops, memory
from experiments.compiler.memory import gib
from experiments.compiler.program import Program
from experiments.compiler.targets import Target

_MAX_LINES = 12
_ADVICE = {
    "train": "--config.network.remat=full, --config.num_microbatches, --config.mesh.fsdp (for large "
    "networks) or a smaller --batch_size saves memory; --batch_size=auto finds the largest that fits.",
    "other": "A smaller --batch_size saves memory; --batch_size=auto finds the largest that fits.",
}


def describe(target: Target, program: Program, size: int, compiled: jax.stages.Compiled) -> dict[str, Any]:
    """Return the report of a compiled program as values that JSON can hold.

    Args:
      target: the devices.
      program: the program.
      size: its batch size.
      compiled: the compiled program.
    """
    module = hlo.parse(compiled.as_text())
    used = memory.of(compiled, program.held)
    found = collectives.find(module, program.mesh)
    count = flops.count(module)
    return _start(target, program, size) | {
        "fits": target.platform == "tpu" or used.total <= target.usable,  # TPUs' compiler would refuse it
        "memory_per_device": {
            "device": target.memory,
            "usable": target.usable,
            "total": used.total,
            **{f"held_{name}": value for name, value in used.held.items()},
            "arguments": used.arguments,
            "outputs": used.outputs,
            "working": used.working,
            "code": used.code,
        },
        "largest_arrays": memory.largest_arrays(module),
        "flops_per_device": count,
        "model_flops": program.model_flops,
        "seconds_at_peak": count / target.peak_flops,
        "loops_of_unknown_length": loops.of_unknown_length(module),
        "collectives": _grouped(found),
        "sent_per_device": collectives.totals(found),
        "ideal_per_device": program.ideal,
        **_kernels(target, module),
        **_estimate(target, program, module),
    }


def describe_refusal(
    target: Target, program: Program, size: int, refusal: memory.Refusal
) -> dict[str, Any]:
    """Return the report of a program that the compiler refuses for its memory, see `describe`."""
    return _start(target, program, size) | {
        "fits": False,
        "memory_per_device": {
            "device": target.memory,
            "usable": refusal.available,
            "total": refusal.needed,
            **{f"held_{name}": memory.stored_bytes(tree) for name, tree in program.held.items()},
        },
        "compiler_message": refusal.message,
    }


def _start(target: Target, program: Program, size: int) -> dict[str, Any]:
    return {
        "target": target.name,
        "device_kind": target.device_kind,
        "num_devices": target.num_devices,
        "mesh": dict(program.mesh.shape),
        "batch_size": size,
    }


def _grouped(found: list[collectives.Collective]) -> list[dict[str, Any]]:
    """Add up collectives that differ in nothing but their bytes; the largest come first."""
    sent: Counter[tuple] = Counter()
    count: Counter[tuple] = Counter()
    for c in found:
        key = (c.kind, c.dtype, c.axes, c.part, c.phase, c.times)
        sent[key] += c.total_sent
        count[key] += 1
    names = ("kind", "dtype", "axes", "part", "phase", "times")
    return [
        dict(zip(names, key, strict=True)) | {"axes": list(key[2]), "instructions": count[key], "sent": total}
        for key, total in sent.most_common()
    ]


def _kernels(target: Target, module: hlo.Module) -> dict[str, Any]:
    if target.platform != "cuda":
        return {}
    calls = Counter(
        x.attributes.split('custom_call_target="', 1)[1].split('"', 1)[0]
        for x, _, _ in module.walk()
        if 'custom_call_target="__cudnn' in x.attributes
    )
    return {"cudnn_calls": dict(calls)}


def _estimate(target: Target, program: Program, module: hlo.Module) -> dict[str, Any]:
    """Return the TPU compiler's estimate of the time, which is no measurement."""
    total = cycles.total(module)
    if target.clock is None or not total:
        return {"estimated_by_the_compiler": None}
    seconds = total / target.clock
    peak = target.peak_flops * target.num_devices
    share = program.model_flops / (seconds * peak) if program.model_flops else None
    return {
        "estimated_by_the_compiler": {
            "clock": target.clock,
            "cycles": total,
            "seconds": seconds,
            "share_of_peak": share,
            "cycles_by_part": cycles.by_part(module),
            "cycles_by_phase": cycles.by_phase(module),
        }
    }


def text(report: dict[str, Any]) -> str:
    """Format a report as lines of text."""
    mesh = " x ".join(f"{name} {size}" for name, size in report["mesh"].items())
    many = f"{report['num_devices']} devices" if report["num_devices"] > 1 else "1 device"
    lines = [
        f"{report['program']} with a batch of {report['batch_size']:,} on {report['target']}: {many} "
        f"({report['device_kind']}), mesh {mesh}; {report['compilations']} compilation"
        f"{'s'[: report['compilations'] > 1]}, {report['seconds_to_compile']:.0f} s.",
        *_memory_lines(report),
    ]
    if "flops_per_device" in report:
        lines += _flops_lines(report) + _collective_lines(report) + _estimate_lines(report)
    return "\n".join(lines)


def _memory_lines(report: dict[str, Any]) -> list[str]:
    m = report["memory_per_device"]
    held = ", ".join(
        f"{name.removeprefix('held_')} {gib(value)}" for name, value in m.items() if name.startswith("held_")
    )
    if not report["fits"]:
        advice = _ADVICE.get(report["program"], _ADVICE["other"])
        if m["total"] is None:
            reason = f"The compiler refuses it: {report['compiler_message'].splitlines()[0].rstrip('.')}"
        else:
            who = "The compiler refuses it, because it" if "compiler_message" in report else "It"
            reason = f"{who} needs {gib(m['total'])} on each device, where {gib(m['usable'])} can be used"
        return [f"Does not fit. {reason} ({held}). {advice}"]
    lines = [
        f"Fits: {gib(m['total'])} of the {gib(m['device'])} of a device, by the compiler: arguments "
        f"{gib(m['arguments'])} ({held}), outputs {gib(m['outputs'])}, working memory {gib(m['working'])}, "
        f"code {gib(m['code'])}.",
    ]
    if "cudnn_calls" in report:
        lines.append(
            f"JAX takes {gib(m['usable'])} of it, unless XLA_PYTHON_CLIENT_MEM_FRACTION gives another share."
        )
    lines.append("Largest arrays that it makes, without padding:")
    for array in report["largest_arrays"]:
        shape = ", ".join(map(str, array["shape"]))
        name = _tail(array.get("op_name", ""))
        lines.append(f"  {gib(array['bytes']):>10}  {array['dtype']}[{shape}]  {name}")
    return lines


def _tail(name: str) -> str:
    return name if len(name) <= 60 else f"...{name[-60:]}"


def _flops_lines(report: dict[str, Any]) -> list[str]:
    count, devices = report["flops_per_device"], report["num_devices"]
    seconds = _seconds(report["seconds_at_peak"])
    line = f"Products: {_operations(count)} on each device, which takes {seconds} at the bfloat16 peak"
    if report["model_flops"]:
        line += f"; model FLOPs, without recomputation: {_operations(report['model_flops'] / devices)}"
    lines = [line + "."]
    if many := len(report["loops_of_unknown_length"]):
        loop = "1 loop of unknown length counts" if many == 1 else f"{many} loops of unknown length count"
        lines.append(f"{loop} once, here and below; such are the transport's, which run until they converge.")
    if "cudnn_calls" in report:
        calls = ", ".join(f"{name} x{n}" for name, n in report["cudnn_calls"].items())
        lines.append(f"cuDNN's kernels in the program: {calls or 'none'}.")
    return lines


def _collective_lines(report: dict[str, Any]) -> list[str]:
    found = report["collectives"]
    if not found:
        return ["Collectives: none."]
    lines = ["Collectives (bytes that each device sends in one run):"]
    for c in found[:_MAX_LINES]:
        axes = ", ".join(c["axes"]) or "unknown axes"
        place = f"{c['part']}, {c['phase']}"
        often = f"{c['instructions']}" + (f", {c['times']} times in a loop" if c["times"] > 1 else "")
        lines.append(
            f"  {gib(c['sent']):>10}  {c['kind']} {c['dtype']} over {axes}; {place}; number: {often}"
        )
    if len(found) > _MAX_LINES:
        rest = sum(c["sent"] for c in found[_MAX_LINES:])
        lines.append(f"  {gib(rest):>10}  {len(found) - _MAX_LINES} more kinds and places")
    sent = report["sent_per_device"]
    if report["ideal_per_device"] is None:
        lines.append(f"  {gib(sum(sent.values()))} in all.")
        return lines
    ideal = report["ideal_per_device"]
    kinds = dict.fromkeys((*sent, *ideal))
    lines.append("  In all, and the least that the layout of the state needs: " + "; ".join(
        f"{kind} {gib(sent.get(kind, 0))}, {gib(ideal.get(kind, 0))}" for kind in kinds
    ) + ".")  # fmt: skip
    return lines


def _estimate_lines(report: dict[str, Any]) -> list[str]:
    estimate = report["estimated_by_the_compiler"]
    if estimate is None:
        return ["The compiler gives no estimate of the time for this target."]
    share = estimate["share_of_peak"]
    line = f"Estimated by the compiler, not measured: {_seconds(estimate['seconds'])}"
    line += f", model FLOPs at {share:.1%} of the peak" if share else ""
    line += f" ({estimate['cycles'] / 1e6:,.4g} M cycles at {estimate['clock'] / 1e9:g} GHz)."
    lines = [f"{line} Waiting for other devices is not in it. By part of the model, estimated likewise:"]
    for name, value in estimate["cycles_by_part"].items():
        seconds = value / estimate["clock"]
        lines.append(f"  {value / estimate['cycles']:6.1%}  {_seconds(seconds)}  {name}")
    return lines


def _seconds(value: float) -> str:
    return f"{value:,.3g} s" if value >= 1 else f"{value * 1e3:,.3g} ms"


def _operations(count: float) -> str:
    return f"{count / 1e12:,.4g} TFLOP" if count >= 1e11 else f"{count / 1e9:,.4g} GFLOP"
