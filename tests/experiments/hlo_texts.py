"""Short texts of compiled programs for the tests, and what is compared of their collectives."""

import types

from experiments.compiler import hlo

OP = 'metadata={op_name="jit(f)/transpose(jvp(mlp))/dot_general"}'


def mesh(**sizes):
    return types.SimpleNamespace(shape=sizes)


def program(entry, computations=""):
    return hlo.parse(
        f"HloModule f, num_partitions=8\n\n{computations}\nENTRY %main () -> f32[] {{\n{entry}\n}}\n"
    )


def summary(found):
    return [(c.kind, c.dtype, c.sent, c.axes, c.times) for c in found]
