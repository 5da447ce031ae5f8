"""Files and folders, local or in a bucket. Files appear under their name only when they are complete."""

from gmflow_jax._files._addresses import (
    BucketError,
    bucket_problem,
    causes,
    describe_bucket_error,
    error_number,
    is_address,
    is_outage,
    naming,
    to_path,
)
from gmflow_jax._files._writing import (
    check_writable,
    create,
    download,
    local_copy,
    read_bytes,
    remove_tree,
    upload,
    upload_folder,
    write_arrays,
    write_bytes,
    write_folder,
    write_whole,
)

__all__ = [
    "BucketError", "bucket_problem", "causes", "check_writable", "create", "describe_bucket_error",
    "download", "error_number", "is_address", "is_outage", "local_copy", "naming", "read_bytes",
    "remove_tree", "to_path", "upload", "upload_folder", "write_arrays", "write_bytes", "write_folder",
    "write_whole",
]  # fmt: skip
