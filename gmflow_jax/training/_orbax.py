"""Orbax in a bucket: which addresses it can use, its errors, and how long it tries."""

import contextlib
import pathlib
import re
from typing import Any

from gmflow_jax._files import bucket_problem, causes, is_address, to_path

# In TensorStore's errors, which are ValueErrors.
_OUTAGE = re.compile(r"\b(ABORTED|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE): ")


def snapshot_folder(folder: Any) -> pathlib.Path:
    """Return the absolute path of a folder of snapshots; raise ValueError if Orbax cannot use the address."""
    path = to_path(folder).absolute()  # Orbax needs an absolute path
    scheme, _, rest = str(path).partition("://")
    if not is_address(path) or scheme == "gs":
        return path
    if scheme == "gcs":
        return to_path(f"gs://{rest}")
    raise ValueError(
        f"{path} cannot hold checkpoints: Orbax writes them to file systems and to gs:// only. Give a gs:// "
        "address, or mount the bucket and give a path of the file system."
    )


def is_of_bucket(error: BaseException | None, missing: bool) -> bool:
    """Return whether an error comes from the use of a bucket; missing files count only if `missing`."""
    found = False
    for part in causes(error):
        is_missing = isinstance(part, FileNotFoundError) or "NOT_FOUND: " in str(part)
        if is_missing and not missing:
            return False
        known = isinstance(part, TimeoutError) or _OUTAGE.search(str(part)) or bucket_problem(part)
        found = found or is_missing or bool(known)
    return found


def bound_retries() -> None:
    """Let TensorStore try for about 2 minutes. By default it tries for 15, and the end of a run waits for it.

    The other client of a bucket, gcsfs, gives up after half a minute. Orbax has no option for this; if it
    renames its settings, this does nothing.
    """
    with contextlib.suppress(ImportError):
        from orbax.checkpoint._src.serialization import tensorstore_utils

        for name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT"):
            getattr(tensorstore_utils, name, {}).setdefault("gcs_request_retries", {"max_retries": 8})
