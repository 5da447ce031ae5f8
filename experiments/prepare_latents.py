"""Encode a set of images into latents to train on.

  python -m experiments.prepare_latents --images=ILSVRC2012_img_train.tar --out=latents/imagenet256 \\
      --autoencoder=checkpoints/imagenet --class_names=LOC_synset_mapping.txt

--images is a folder with a folder for each class, a tar file (the original ones of ImageNet are read
without unpacking), several separated by commas, a folder of them, or tfds:NAME:SPLIT. Killed and started
again, the same command goes on where it stopped. To share the work, start it on every host with
--num_processes and --process_id, into one folder; the last to end completes it.
"""

import time

from absl import flags

from experiments.common import cli
from experiments.tasks.latents import load_autoencoder
from gmflow_jax import data
from gmflow_jax.data._files import local_path
from gmflow_jax.data._write import check_image_size

_IMAGES = flags.DEFINE_string("images", None, "Images: a folder, tar files, or tfds:NAME:SPLIT.")
_AUTOENCODER = flags.DEFINE_string("autoencoder", None, "Diffusers folder with vae/, or that folder alone.")
_OUT = flags.DEFINE_string("out", None, "Folder of the latents.")
_SIZE = flags.DEFINE_integer("image_size", 256, "Pixels along the side of the centre crop.")
_FORMAT = flags.DEFINE_string(
    "format", "moments", "moments: mean and deviation, also mirrored; sample: one draw, as the authors."
)
_CONTAINER = flags.DEFINE_string("container", "array_record", "array_record, or npy to be memory-mapped.")
_PER_SHARD = flags.DEFINE_integer("images_per_shard", 4096, "Images in a file.")
_BATCH = flags.DEFINE_integer("batch_size", None, "Images at a time on all devices; by default 16 on each.")
_BROKEN = flags.DEFINE_string("broken", "skip", "skip images that cannot be read and list them, or stop.")
_NAMES = flags.DEFINE_string("class_names", None, "File with a line of folder and words for each class.")
_SEED = flags.DEFINE_integer("seed", 0, "Of --format=sample.")
_THREADS = flags.DEFINE_integer("num_threads", None, "Threads that decode; by default one for each core.", 1)
_PROCESSES = flags.DEFINE_integer("num_processes", 1, "Processes that share the work.", 1)
_PROCESS = flags.DEFINE_integer("process_id", 0, "Which of them this is, from 0.", 0)


def main() -> None:
    with cli.report_user_errors():
        for flag in (_IMAGES, _AUTOENCODER, _OUT):
            if not flag.value:
                raise ValueError(f"--{flag.name} is needed; see --help.")
        class_names = data.read_class_names(_NAMES.value) if _NAMES.value else None
        out = local_path(_OUT.value)
        autoencoder = load_autoencoder(str(local_path(_AUTOENCODER.value)))
        check_image_size(_SIZE.value, autoencoder.config.downscale)
        source = data.open_images(_IMAGES.value)
        start = time.perf_counter()
        print(f"{len(source):,} images of {len(source.class_folders):,} classes.", flush=True)
        metadata = data.write_latents(
            source,
            autoencoder,
            out,
            image_size=_SIZE.value,
            format=_FORMAT.value,
            container=_CONTAINER.value,
            images_per_shard=_PER_SHARD.value,
            batch_size=_BATCH.value,
            broken=_BROKEN.value,
            class_names=class_names,
            seed=_SEED.value,
            process_index=_PROCESS.value,
            num_processes=_PROCESSES.value,
            num_threads=_THREADS.value,
        )
    seconds = time.perf_counter() - start
    if metadata is None:
        print(f"The shards of this process are done in {seconds:.1f} s; others are still missing.")
        return
    size = sum(shard.num_bytes for shard in metadata.shards)
    print(
        f"{_OUT.value} holds {metadata.num_images:,} latents {metadata.latent_shape} in "
        f"{len(metadata.shards):,} files, {size / 1e6:,.1f} MB; {len(metadata.broken):,} broken images were "
        f"left out ({seconds:.1f} s)."
    )


if __name__ == "__main__":
    cli.run(main)
