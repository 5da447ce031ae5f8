"""A small GM-DiT on latents of your own images, to try every step from images to samples.

Commands: python -m experiments.prepare_latents --images=IMAGES --autoencoder=FOLDER --out=latents/mine
  python -m experiments.train --config=experiments/configs/photographs.py --workdir=runs/mine
    --config.data.folder=latents/mine --config.network.num_classes=NUMBER_OF_FOLDERS
  python -m experiments.sample --workdir=runs/mine --autoencoder=FOLDER --out=mine.png
Cost: 200 steps, about two minutes on two CPU cores, which is too few for good samples. For these, train
imagenet256_gmdit_b_k8.py on an accelerator, with --config.network.num_classes and --config.batch_size.
Images without classes: put them into one sub-folder of IMAGES, train with --config.network.num_classes=1, and
sample with --guidance_scale=0.
"""

import ml_collections

from experiments.configs import imagenet256_gmdit_xl_k8


def get_config() -> ml_collections.ConfigDict:
    config = imagenet256_gmdit_xl_k8.get_config()
    config.num_steps = 200
    config.batch_size = 16
    config.log_every = 20
    config.checkpoint_every = 100
    config.sample_every = 100
    config.eval_every = 100
    config.data.num_threads = 1
    config.network.update(dict(
        hidden_size=128,
        depth=4,
        num_heads=4,
        log_std_dim=128,
        dtype="float32",
        scan_layers=False,
        remat="none",
    ))
    config.optimizer.update(dict(learning_rate=1e-3, warm_up_steps=50, clip_norm=1.0, clip_begin_step=0))
    config.ema = ml_collections.ConfigDict(dict(kind="warm_up", max_decay=0.999))
    return config
