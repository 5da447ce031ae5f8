"""Devices to compile for, shapes on them, and what is read from compiled programs."""

import contextlib

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.compiler import collectives, hlo, places


@contextlib.contextmanager
def settings(**values):
    """Set options of jax within a context."""
    before = {name: getattr(jax.config, name) for name in values}
    try:
        for name, value in values.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def devices(target):
    """Return the devices of a target, such as 'v5e-8'."""
    from experiments.compiler import targets  # only where the compiler is installed

    return targets.find(target).devices()


def mesh_of(devices):
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def shapes(tree, mesh, *axes):
    """Return the shapes of a tree of arrays, split along `axes` of a mesh."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def products(compiled):
    """Count the products of a program, and list the parts of the model in which float32 is rounded.

    Without operand_precision=highest, TPUs round the factors of a product to bfloat16 even if its result is
    float32.
    """
    count, rounded = 0, []
    for computation in hlo.parse(compiled.as_text()).computations.values():
        for x in computation.instructions.values():
            if x.opcode in ("dot", "convolution"):
                count += 1
                if "operand_precision={highest,highest}" not in x.attributes:
                    rounded.append(places.part(x.op_name))
    return count, rounded


def collectives_of(compiled):
    return collectives.find(hlo.parse(compiled.as_text()))
