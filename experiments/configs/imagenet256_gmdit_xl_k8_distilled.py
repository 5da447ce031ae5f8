"""Few-step distillation of a GM-DiT-XL/2 on ImageNet 256 x 256, with the published recipe of pi-Flow.

Method: pi-Flow, arXiv 2510.14974, section on ImageNet.
Command, on every host: python -m experiments.train
  --config=experiments/configs/imagenet256_gmdit_xl_k8_distilled.py --workdir=DIR --config.data.folder=LATENTS
  --config.teacher=TEACHER --config.num_calls=1, where TEACHER is checkpoints/imagenet, the published network
  (python -m experiments.download), or the folder of a run of imagenet256_gmdit_xl_k8.py.
For 2 calls: --config.num_calls=2 --config.num_steps=24000.
Cost, estimated: 7 forward passes of 0.237 TFLOP an image with the guided teacher; at the 41 % of the peak of
  a TPU v4-128 that its compiler estimates for usual training 0.94 s a step, 37 hours for 1 call and 6 for 2.
Scores that pi-Flow publishes for a plain flow teacher: FID 3.34 with 1 call, 1.97 with 2. The teacher here is
  another network, with another guidance scale, so expect other numbers. It has not been run at this size.
"""

import ml_collections

from experiments.configs import distillation, imagenet256_gmdit_xl_k8


def get_config() -> ml_collections.ConfigDict:
    config = imagenet256_gmdit_xl_k8.get_config()
    del config.spectrum
    distillation.add_to(config)
    config.network.time_scale = 1000.0  # 1.0 for a student that starts from a SiT
    config.num_steps = 140_000
    config.distillation.update(dict(guidance="cfg", guidance_scale=2.7, interval=(0.0, 0.6)))
    config.optimizer.update(dict(
        learning_rate=5e-5,
        warm_up_steps=400,
        b1=0.9,
        b2=0.95,
        weight_decay=0.0,
        clip_norm=50.0,
        clip_begin_step=400,
    ))
    config.ema = ml_collections.ConfigDict(dict(kind="karras", gamma=7.0))  # decay (1 - 1/n)^8
    return config
