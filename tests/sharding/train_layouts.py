"""Train the S-size network, reduced in width, on each layout of 8 devices, and print the losses as JSON.

It also distils the toy network in each. Run as a program: it needs more simulated devices than the tests
have. Arguments: the number of steps, and for one process of several the address of the first, their number
and this one's.
"""

import json
import os
import sys

os.environ.pop("XLA_FLAGS", None)  # an inherited device count would override ours

import jax

from experiments.configs import imagenet256_gmdit_s_k8
from experiments.runs import networks
from experiments.tasks.fake import FakeTask
from experiments.training import steps
from gmflow_jax import sharding, training
from tests import toy_network

LAYOUTS = {
    "one device": None,
    "(8, 1)": dict(data=8, fsdp=1),
    "(4, 2)": dict(data=4, fsdp=2),
    "(1, 8)": dict(data=1, fsdp=8),
    "pmap": dict(parallel="pmap"),
}
GROUPS = "(8, 1) in groups of 4"  # the state has four parts, and two devices hold each


def shrunk_config(dtype):
    config = imagenet256_gmdit_s_k8.get_config()
    config.task = "fake"
    config.batch_size = 32
    config.network.update(dict(
        input_size=8, hidden_size=48, num_heads=6, log_std_dim=16, num_classes=10, dtype=dtype,
    ))
    config.spectrum.base_size = 8
    config.optimizer.update(dict(learning_rate=1e-2, warm_up_steps=5))
    return config


def make_parallelism(layout):
    if layout is None:
        return sharding.JitParallelism(sharding.make_mesh(1, 1, jax.devices()[:1]))
    if "parallel" in layout:
        return sharding.make_parallelism(**layout)
    # A small network has small leaves: the limit is lowered, so that they are sharded.
    mesh, groups = sharding.make_mesh(layout["data"], layout["fsdp"]), layout.get("groups", 8)
    return sharding.JitParallelism(mesh, min_sharded_size=1024, max_shards=groups)


def losses(layout, num_steps, dtype="float32"):
    config = shrunk_config(dtype)
    parallelism = make_parallelism(layout)
    optimizer = steps.make_optimizer(config)
    train_step = steps.make_train_step(config, optimizer, parallelism)
    init = steps.make_init(config, optimizer)
    task = FakeTask(config, networks.network_config(config))
    batches = task.batches(config.batch_size, config.seed)
    rows = parallelism.rows(config.batch_size)
    state, key = parallelism.init(init), parallelism.replicate(jax.random.key(0))
    whole = jax.eval_shape(lambda: batches(0))
    step = parallelism.compile(train_step, parallelism.abstract(init), whole)
    result = []
    for i in range(num_steps):
        state, metrics = step(state, parallelism.put(batches(i, rows), config.batch_size), key)
        result.append(float(metrics["loss"]))
    return result


def distillation_losses(layout, num_steps):
    parallelism, optimizer = make_parallelism(layout), training.make_optimizer(1e-2)

    def init():
        return training.init_state(toy_network.init_params(), optimizer)

    train_step = training.make_distillation_step(
        toy_network.apply, training.make_teacher(toy_network.apply), optimizer, training.constant_decay(0.9),
        num_calls=2, num_substeps=4, data_free=True, num_microbatches=2, axis_name=parallelism.axis_name,
        working_copy=parallelism.working_copy,
    )  # fmt: skip
    batch = toy_network.make_batch(batch_size=32)
    rows = parallelism.rows(32)
    batch = {name: column[rows] for name, column in batch.items()}
    teacher_params = parallelism.place(jax.device_get(toy_network.init_params(1)))
    whole = jax.eval_shape(lambda: toy_network.make_batch(batch_size=32))
    step = parallelism.compile(train_step, parallelism.abstract(init), whole, teacher_params)
    state, key = parallelism.init(init), parallelism.replicate(jax.random.key(0))
    result = []
    for _ in range(num_steps):
        state, metrics = step(state, parallelism.put(batch, 32), key, teacher_params)
        result.append(float(metrics["loss"]))
    return result


def main():
    num_steps, *cluster = sys.argv[1:]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4 if cluster else 8)
    jax.config.update("jax_disable_most_optimizations", True)
    if cluster:
        address, count, index = cluster
        jax.distributed.initialize(address, int(count), int(index))
    found = {}
    for name, layout in LAYOUTS.items():
        if layout is None and cluster:
            continue
        found[name] = losses(layout, int(num_steps))
        found[f"distillation, {name}"] = distillation_losses(layout, int(num_steps))
    if not cluster:
        layouts = {"one device": None, GROUPS: dict(data=8, fsdp=1, groups=4), "(4, 2)": LAYOUTS["(4, 2)"]}
        for name, layout in layouts.items():
            found[f"bfloat16, {name}"] = losses(layout, int(num_steps), "bfloat16")
    if jax.process_index() == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
