"""The start of every program, and how it reports input that cannot work."""

import contextlib
import ctypes
import errno
import logging as stdlib_logging
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, TypeGuard

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from experiments.common import files
from gmflow_jax._files import bucket_problem, is_outage

_NO_MEMORY = (
    "A device ran out of memory ({}). Make the batch smaller; in training, --config.num_microbatches, "
    "--config.network.remat=full and --config.mesh.fsdp also save memory."
)


# absl lists flags that are defined here in the --help of the program that defines them.
flags.disclaim_key_flags()


class _PathParser(flags.ArgumentParser):
    """Reads paths, in which ~ is the home folder."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        return files.expand_home(argument)


def define_path(name: str, default: str | None, help: str) -> flags.FlagHolder:
    """Define a flag for a path, or for several separated by commas."""
    return flags.DEFINE(_PathParser(), name, default, help)


def define_paths(name: str, help: str) -> flags.FlagHolder:
    """Define a flag for paths that can be repeated."""
    return flags.DEFINE_multi(_PathParser(), None, name, [], help)


class UserError(Exception):
    """Input of the user that cannot work; the message says what to do.

    Programs then end with exit code 2, or with 75 if the same command may work later (`later`, or a bucket is
    out of reach).
    """

    def __init__(self, message: str, later: bool = False):
        super().__init__(message)
        self.exit_code = 75 if later or is_outage(self) else 2


@contextlib.contextmanager
def report_user_errors():
    """Turn errors of input, files and buckets in the block into `UserError`: a message, no traceback."""
    try:
        yield
    except Exception as error:
        if not is_reported(error):
            raise
        raise UserError(describe(error)) from error


def is_reported(error: Exception) -> bool:
    """Return whether users are told an error as a sentence: a ValueError, an OSError, or one of a bucket."""
    return isinstance(error, (ValueError, OSError)) or bucket_problem(error) is not None


def describe(error: Exception) -> str:
    """Return the message of an error; if a disk is full or a bucket cannot be used, with what to do."""
    problem = bucket_problem(error)
    if problem is not None or not isinstance(error, OSError) or error.strerror is None:
        return problem or str(error)
    reason = (f"{error.filename}: " if error.filename else "") + error.strerror.rstrip(".") + "."
    if not is_full(error):
        return reason
    return f"{reason} Complete files are unchanged. Free some space, and give the same command again."


def is_full(error: Exception) -> TypeGuard[OSError]:
    """Return whether an error means that a disk is full, or a limit of the user or of a file is reached."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def out_of_memory(error: jax.errors.JaxRuntimeError) -> bool:
    """Return whether a device ran out of memory."""
    return "RESOURCE_EXHAUSTED" in str(error)


def name_devices() -> None:
    """Print the devices of this process; raise `UserError` if JAX cannot start them."""
    try:
        devices = jax.local_devices()
    except (RuntimeError, AssertionError) as error:
        reason = f" ({str(error).splitlines()[0].split(' (set ')[0]})" if str(error) else ""
        platforms = jax.config.jax_platforms
        given = f"JAX_PLATFORMS is {platforms!r}, but " if platforms else ""
        raise UserError(
            f"{given}JAX cannot start such a device here{reason}. Unset JAX_PLATFORMS to use the best device "
            "that JAX finds, or set JAX_PLATFORMS=cpu. For GPUs and TPUs, install this package with its "
            "extra cuda13, cuda12 or tpu."
        ) from error
    total = f", {jax.device_count()} devices in all" if jax.process_count() > 1 else ""
    print(
        f"Running on {len(devices)} {devices[0].platform.upper()} device{'s'[: len(devices) > 1]} "
        f"({devices[0].device_kind}), process {jax.process_index()} of {jax.process_count()}{total}.",
        flush=True,
    )  # fmt: skip


def run(main: Callable[[], None], devices: bool = True) -> None:
    """Parse the flags and call main(); exit with the code of `UserError` after an error of the user.

    If `devices`, the first line of output names them. Programs that connect several processes do so first.
    """
    _keep_freed_memory()
    signal.signal(signal.SIGTERM, _exit_in_order)
    _expand_home_of_config()

    def guarded(argv):
        if not flags.FLAGS["verbosity"].present:
            _leave_out_what_savers_print()
        try:
            if len(argv) > 1:
                raise UserError(f"{argv[1]!r} is not a flag. Flags are --name=value; see --help.")
            if devices and "coordinator_address" not in flags.FLAGS:
                name_devices()
            main()
        except UserError as error:
            _end(error)
        except jax.errors.JaxRuntimeError as error:
            if not out_of_memory(error):
                raise
            _end(UserError(_NO_MEMORY.format(str(error).splitlines()[0])))
        except Exception as error:
            if not is_full(error) and bucket_problem(error) is None:
                raise
            _end(UserError(describe(error)))

    def parse(argv):
        try:
            arguments = flags.FLAGS(argv)
            _check_config_file()
            return arguments
        except (flags.Error, ValueError, TypeError, OSError) as error:
            message = str(error)
        except (AttributeError, KeyError) as error:  # from ml_collections, if --config.x names no field
            message = f"The configuration has no field {_field_and_hint(error)}"
        message = message.rstrip(".")
        print(f"error: {message}{'' if message.endswith('?') else '.'} See --help.", file=sys.stderr)
        sys.exit(2)

    app.run(guarded, flags_parser=parse)


def _end(error: UserError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def _exit_in_order(number: int, frame) -> None:
    """Handle SIGTERM as an exception, so that locks are released and temporary files removed."""
    del frame
    sys.exit(128 + number)


def _expand_home_of_config() -> None:
    """Replace ~ in --config=~/FILE, which ml_collections reads itself."""
    prefix = "--config="
    for index, argument in enumerate(sys.argv):
        if argument.startswith(prefix):
            sys.argv[index] = prefix + os.path.expanduser(argument.removeprefix(prefix))


def _leave_out_what_savers_print() -> None:
    """Leave out each step of a checkpoint, and pages about errors that Orbax and TensorStore also raise."""
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)
    for name in ("asyncio", "gcsfs", "google"):
        stdlib_logging.getLogger(name).setLevel(stdlib_logging.CRITICAL)

    def report(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":  # the end of a write that was abandoned
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = report


def _check_config_file() -> None:
    """Raise if --config names no file. ml_collections raises only when the value is read, in four lines."""
    if "config" not in flags.FLAGS or not flags.FLAGS["config"].present:
        return
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    if not os.path.exists(path):
        raise OSError(f"There is no configuration file {path}; experiments/configs holds some.")


def _field_and_hint(error: AttributeError | KeyError) -> str:
    """Format an error of ml_collections, "'nmu_steps'\\nDid you mean ...?", as one line."""
    cause = error.args[0] if error.args else error
    text = str(cause.args[0]) if isinstance(cause, KeyError) and cause.args else str(cause)
    return ". ".join(text.split("\n"))


def _keep_freed_memory() -> None:
    """Stop glibc from returning large blocks to the kernel; do nothing elsewhere.

    XLA on CPU allocates its working memory anew for each call. The page faults of getting it back took
    30 % of a digits training step (54.7 against 38.2 ms, two cores).
    """
    if sys.platform != "linux":
        return
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    with contextlib.suppress(AttributeError, OSError):  # another C library has no mallopt
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 2**28)
