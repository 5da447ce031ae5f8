"""The parallelisms that the tests compare, and a toy network for them."""

import jax

from gmflow_jax import sharding, training

BATCH_SIZE = 16


def jit_parallelism(data, fsdp, devices=None, **options):
    # The toy's arrays are small: the limit is lowered, so that most are split.
    return sharding.JitParallelism(sharding.make_mesh(data, fsdp, devices), min_sharded_size=8, **options)


PARALLELISMS = {
    "one device": lambda: jit_parallelism(1, 1, jax.devices()[:1]),
    "(2, 2)": lambda: jit_parallelism(2, 2),
    "(4, 1)": lambda: jit_parallelism(4, 1),
    "(1, 4)": lambda: jit_parallelism(1, 4),
    "groups of 2": lambda: jit_parallelism(4, 1, max_shards=2),
    "pmap": sharding.PmapParallelism,
}
PARALLEL = list(PARALLELISMS)[1:]


class BlockToy:
    """The toy network with one layer named `blocks`, so that it is stored and gathered as blocks are."""

    def __init__(self, toy):
        self._toy = toy
        self._schedule = training.warm_up_schedule(1e-2, 2)
        self.optimizer = training.make_optimizer(self._schedule, clip_norm=1.0)
        self.batch = toy.make_batch(batch_size=BATCH_SIZE)

    @property
    def apply(self):
        return lambda params, *inputs: self._toy.apply(params | params["blocks"], *inputs)

    def init(self):
        params = self._toy.init_params()
        params["blocks"] = {"hidden": params.pop("hidden")}
        return training.init_state(params, self.optimizer, num_power_averages=1)

    def make_step(self, parallelism):
        return training.make_train_step(
            self.apply,
            self.optimizer,
            training.ramp_up_decay(1e4, BATCH_SIZE),
            num_classes=self._toy.num_classes,
            power_stds=(0.1,),
            learning_rate=self._schedule,
            axis_name=parallelism.axis_name,
            working_copy=parallelism.working_copy,
        )


def assert_lies_as(tree, abstract):
    def check(x, wanted):
        assert x.sharding.mesh == wanted.sharding.mesh
        assert x.sharding.is_equivalent_to(wanted.sharding, x.ndim), (x.sharding, wanted.sharding)

    jax.tree.map(check, tree, abstract)
