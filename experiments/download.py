"""Download a published network from the Hugging Face hub.

  python -m experiments.download --out=checkpoints/imagenet
  python -m experiments.sample --checkpoint=checkpoints/imagenet --classes=jay,magpie
"""

from absl import flags

from experiments.common import cli
from gmflow_jax import interop

_REPO = flags.DEFINE_string("repo_id", "Lakonik/gmflow_imagenet_k8_ema", "Name of the repository on the hub.")
_REVISION = flags.DEFINE_string("revision", None, "Branch, tag or commit; by default the main branch.")
_DTYPE = flags.DEFINE_string(
    "dtype", None, "Variant of the weights to download: float32, bfloat16 or float16; by default all."
)
_OUT = cli.define_path("out", None, "Folder to download to; by default in the cache of huggingface-hub.")


def main() -> None:
    with cli.report_user_errors():
        path = interop.download(_REPO.value, _OUT.value, _REVISION.value, _DTYPE.value)
    print(f"Downloaded to {path}. To sample: python -m experiments.sample --checkpoint={path} --classes=jay")


if __name__ == "__main__":
    cli.run(main, devices=False)
