"""Floating point operations of a compiled program on one device: its products and convolutions.

A multiplication and an addition are two operations. Elementwise operations are not counted.
"""

import functools
import json
import math
import re

from experiments.compiler.hlo import Computation, Instruction, Module


def count(module: Module) -> int:
    """Return the operations of all products that one run of a program computes on each device.

    Products along padded or dilated axes count only where the operands have entries: compilers for TPUs write
    products with batch axes as such convolutions. Of a conditional, the most expensive branch counts. Kernels
    of Pallas are not counted.
    """
    fused: dict[str, int] = {}

    def inside(name: str) -> int:
        if name not in fused:
            computation = module.computations[name]
            fused[name] = sum(_of(computation, x, inside) for x in computation.instructions.values())
        return fused[name]

    def cost(instruction: Instruction) -> int:
        return _of(module.of(instruction), instruction, inside)

    return sum(times * cost(x) for x, times, _ in module.walk(cost))


def _of(computation: Computation, instruction: Instruction, inside) -> int:
    if instruction.operation == "fusion":
        return inside(instruction.called[0])
    if instruction.operation == "dot":
        return _dot(computation, instruction, _axes(instruction.attributes, "lhs_contracting_dims"))
    if instruction.operation == "convolution":
        return _convolution(computation, instruction)
    return _library(computation, instruction) if instruction.operation == "custom-call" else 0


def _axes(attributes: str, name: str) -> list[int]:
    match = re.search(rf"{name}=\{{([\d,]*)\}}", attributes)
    return [int(n) for n in match[1].split(",") if n] if match else []


def _dot(computation: Computation, dot: Instruction, contracted: list[int]) -> int:
    left = computation.operand(dot, 0).shapes[0]
    return 2 * dot.shapes[0].size * math.prod(left.dims[axis] for axis in contracted)


def _convolution(computation: Computation, convolution: Instruction) -> int:
    """Count from the kernel's input channels, which are those of one group, and the positions it covers."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.attributes)
    if not labels:
        return 0
    input_labels, kernel_labels, output_labels = labels.groups()
    input_dims, kernel_dims = (computation.operand(convolution, i).shapes[0].dims for i in (0, 1))
    output_dims = convolution.shapes[0].dims
    window = _window(convolution.attributes)
    pairs = 1
    for axis in sorted(label for label in output_labels if label.isdigit()):
        sizes = (
            dims[names.index(axis)]
            for dims, names in (
                (input_dims, input_labels), (kernel_dims, kernel_labels), (output_dims, output_labels)
            )
        )  # fmt: skip
        pairs *= _pairs(*sizes, *(window.get(name, {}).get(int(axis)) for name in _WINDOW))
    batch, features = (output_dims[output_labels.index(name)] for name in "bf")
    return 2 * batch * features * kernel_dims[kernel_labels.index("i")] * pairs


_WINDOW = ("pad", "stride", "lhs_dilate", "rhs_dilate")


def _window(attributes: str) -> dict[str, dict[int, str]]:
    """Return the settings of window={size=1x16 pad=0_0x15_15} by name and axis."""
    match = re.search(r"window=\{([^}]*)\}", attributes)
    settings = (word.split("=") for word in match[1].split()) if match else ()
    return {name: dict(enumerate(values.split("x"))) for name, values in settings}


@functools.cache
def _pairs(inputs: int, kernel: int, outputs: int, pad, stride, lhs_dilate, rhs_dilate) -> int:
    """Count the pairs of an output position and a kernel position that meet an entry of the input."""
    low = int(pad.split("_")[0]) if pad else 0
    stride, lhs_dilate, rhs_dilate = (int(n or 1) for n in (stride, lhs_dilate, rhs_dilate))
    found = 0
    for position in range(kernel):
        offsets = (o * stride + position * rhs_dilate - low for o in range(outputs))
        found += sum(0 <= x <= (inputs - 1) * lhs_dilate and x % lhs_dilate == 0 for x in offsets)
    return found


def _library(computation: Computation, call: Instruction) -> int:
    """Count a call of cuBLAS or cuDNN on a GPU: products, convolutions, and fused attention."""
    target = re.search(r'custom_call_target="([^"]*)"', call.attributes)
    name = target[1] if target else ""
    if name.startswith("__cudnn$conv"):
        return 0 if "Backward" in name else _convolution(computation, call)
    config = _config(call.attributes) if name.startswith(("__cublas", "__cudnn$fmha")) else {}
    if name.startswith("__cublas"):
        numbers = config.get("gemm_backend_config", config).get("dot_dimension_numbers", {})
        return _dot(computation, call, [int(n) for n in numbers.get("lhs_contracting_dimensions", ())])
    for part in ("cudnn_fmha_backend_config", "intermediate_tensor_shape"):
        config = config.get(part, {})
    # Attention is two products of this shape and the size of a head; its gradient has five.
    products = 5 if "Backward" in name else 2
    weights = math.prod(int(n) for n in config["dimensions"]) if "dimensions" in config else 0
    return 2 * products * weights * computation.operand(call, 0).shapes[0].dims[-1] if weights else 0


def _config(attributes: str) -> dict:
    start = attributes.find("backend_config={")
    if start < 0:
        return {}
    return json.JSONDecoder().raw_decode(attributes, start + len("backend_config="))[0]
