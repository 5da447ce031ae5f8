"""Encode images to latents to train on.

  python -m experiments.prepare_latents --images=ILSVRC2012_img_train.tar --out=latents/imagenet256 \\
      --autoencoder=checkpoints/imagenet --class_names=LOC_synset_mapping.txt

--images is a folder with a subfolder for each class, a tar file (ImageNet's are read without unpacking),
several of them separated by commas, a folder of them, or tfds:NAME:SPLIT.

All of them, --out and --autoencoder may be addresses of a bucket, such as gs://BUCKET/FOLDER.

The command can be stopped and started again; it continues where it stopped. To share the work, start it on
every host with --num_processes, --process_id and the same --out; the last process completes the folder.
"""

import time

from absl import flags

from experiments.common import cli
from experiments.tasks.latents import load_autoencoder
from gmflow_jax import data
from gmflow_jax._files import check_writable, to_path
from gmflow_jax.data._write import check_image_size

_IMAGES = cli.define_path("images", None, "The images: a folder, tar files, or tfds:NAME:SPLIT.")
_AUTOENCODER = cli.define_path("autoencoder", None, "Diffusers folder with vae/, or vae/ itself.")
_OUT = cli.define_path("out", None, "Folder to write the latents to.")
_SIZE = flags.DEFINE_integer("image_size", 256, "Pixels along each side of the centre crop.")
_FORMAT = flags.DEFINE_string(
    "format",
    "moments",
    "moments: mean and standard deviation, also of the mirror image; sample: one draw, as the authors.",
)
_CONTAINER = flags.DEFINE_string("container", "array_record", "array_record, or npy (memory-mapped).")
_PER_SHARD = flags.DEFINE_integer("images_per_shard", 4096, "Images in each file.")
_BATCH = flags.DEFINE_integer("batch_size", None, "Images encoded at a time; by default 16 on each device.")
_BROKEN = flags.DEFINE_string("broken", "skip", "For unreadable images: skip (and list them) or stop.")
_NAMES = cli.define_path("class_names", None, "File with a line for each class: its folder and its name.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the draws of --format=sample.")
_EXIF = flags.DEFINE_bool(
    "exif_orientation",
    False,
    "Whether to turn images upright by their EXIF orientation. Photographs need it; the usual recipe for "
    "ImageNet (ADM) ignores it.",
)
_THREADS = flags.DEFINE_integer("num_threads", None, "Threads that read images; by default one a core.", 1)
_PROCESSES = flags.DEFINE_integer("num_processes", 1, "Number of processes that share the work.", 1)
_PROCESS = flags.DEFINE_integer("process_id", 0, "Index of this process, from 0.", 0)


def main() -> None:
    with cli.report_user_errors():
        for flag in (_IMAGES, _AUTOENCODER, _OUT):
            if not flag.value:
                raise ValueError(f"--{flag.name} is needed; see --help.")
        class_names = data.read_class_names(_NAMES.value) if _NAMES.value else None
        out = to_path(_OUT.value)
        check_writable(out)  # before the images are listed
        autoencoder = load_autoencoder(_AUTOENCODER.value)
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
            exif_orientation=_EXIF.value,
            process_index=_PROCESS.value,
            num_processes=_PROCESSES.value,
            num_threads=_THREADS.value,
        )
    seconds = time.perf_counter() - start
    if metadata is None:
        print(
            f"The shards of this process are done ({seconds:.1f} s); shards of other processes are still "
            "missing."
        )
        return
    size = sum(shard.num_bytes for shard in metadata.shards)
    print(
        f"{_OUT.value} holds {metadata.num_images:,} latents {metadata.latent_shape} in "
        f"{len(metadata.shards):,} files, {size / 1e6:,.1f} MB; {len(metadata.broken):,} broken images were "
        f"left out ({seconds:.1f} s)."
    )


if __name__ == "__main__":
    cli.run(main)
