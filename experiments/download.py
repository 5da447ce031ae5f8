"""Download a published network from the Hugging Face hub, to sample from.

  python -m experiments.download --out=checkpoints/imagenet
  python -m experiments.sample --checkpoint=checkpoints/imagenet --classes=jay,magpie
"""

from absl import flags

from experiments.common import cli
from gmflow_jax import interop

_REPO = flags.DEFINE_string("repo_id", "Lakonik/gmflow_imagenet_k8_ema", "Repository on the hub.")
_REVISION = flags.DEFINE_string("revision", None, "Branch, tag or commit; the newest by default.")
_DTYPE = flags.DEFINE_string(
    "dtype", None, "Only this variant of the weights: float32, bfloat16 or float16; all by default."
)
_OUT = flags.DEFINE_string("out", None, "Folder; by default in the cache of huggingface-hub.")


def main() -> None:
    with cli.report_user_errors():
        path = interop.download(_REPO.value, _OUT.value, _REVISION.value, _DTYPE.value)
    print(f"Downloaded to {path}. Sample: python -m experiments.sample --checkpoint={path} --classes=jay")


if __name__ == "__main__":
    cli.run(main)
