"""A lock on a folder that one program at a time may write to, such as that of a run.

The lock is the file lock.json in the folder. It names its holder, who touches it every few seconds. The lock
of a dead process is taken over: at once if it ran on this machine, or else after a time without a touch.
Nothing depends on file locks or on the clocks of two machines, so it also works on network file systems.

It also works in a bucket, whose files can only be created, replaced and removed as a whole:
- A touch would replace lock.json, also that of a process that has just taken it over. So the holder replaces
  lock.json.alive instead, and then reads lock.json. That file holds the token of the lock: what another
  process wrote there late is no sign of life.
- A lock is taken over in three steps: a guard is created, lock.json is replaced if it is still that of the
  dead process, and the guard is removed. A process that is killed in between leaves a guard that nobody waits
  for, because its name comes from the text of the dead lock. A process that stops for longer than the time
  of silence within the second step may write over the lock of the next one, which then ends, like one whose
  lock was taken over: each touch shows whose lock it is.
- The holder removes lock.json.alive first, so that it cannot be that of the next one.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from experiments.common import files
from gmflow_jax._files import create, is_address, naming

NAME = "lock.json"

_TOUCH_SECONDS = 10.0  # between two touches
_SILENCE_SECONDS = 60.0  # without a touch, after which a holder on another machine counts as dead


class _Sight(NamedTuple):
    """A lock file as it was read: its text, and a value that its holder changes; None for no sign of life."""

    text: str
    touched: int | str | None


@contextlib.contextmanager
def hold(
    folder: pathlib.Path,
    flag: str = "--workdir",
    touch_seconds: float = _TOUCH_SECONDS,
    silence_seconds: float = _SILENCE_SECONDS,
) -> Iterator[None]:
    """Hold the lock of a folder in the context.

    If another process takes the lock over, because this one was suspended for too long, this process ends at
    once with exit code 2, so that it cannot damage what the other one writes.

    Args:
      folder: the folder, which must exist.
      flag: flag that names the folder, for the message.
      touch_seconds: seconds between two touches.
      silence_seconds: seconds without a touch after which a holder on another machine counts as dead.

    Raises:
      ValueError: if a living process holds the lock.
    """
    path, own = folder / NAME, json.dumps(_describe_process(), indent=2) + "\n"
    _acquire(path, own, flag, silence_seconds)
    released = threading.Event()
    toucher = threading.Thread(target=_keep, args=(path, own, released, touch_seconds), daemon=True)
    toucher.start()
    try:
        yield
    finally:
        released.set()
        toucher.join()
        with contextlib.suppress(OSError), naming(path):  # what remains is taken over by the next program
            seen = _look(path)
            if seen and seen.text == own:
                if is_address(path):
                    _alive(path).unlink(missing_ok=True)
                path.unlink()


def _acquire(path: pathlib.Path, own: str, flag: str, silence_seconds: float) -> None:
    while not _create(path, own):
        seen = _look(path)
        if seen is None:
            continue
        alive = _is_alive(path, seen, silence_seconds)
        if alive:
            raise ValueError(
                f"{path.parent} is in use by {_name(seen)}. Two programs would damage it. Wait until that "
                f"process ends, stop it, or give another {flag}."
            )
        if alive is False and _take_over(path, seen.text, own, silence_seconds):
            return


def _take_over(path: pathlib.Path, dead: str, own: str, silence_seconds: float) -> bool:
    """Replace the lock whose text is `dead`, unless another process does; return whether it is replaced.

    A second lock, for the time of this call, keeps two processes from doing so one after the other. The lock
    file is there all the time, so that a third one cannot create it.
    """
    guard = path.with_name(f".{path.name}.{hashlib.sha256(dead.encode()).hexdigest()[:16]}")
    if not _create(guard, own):
        seen = _look(guard)
        if seen and _is_alive(guard, seen, silence_seconds) is False:
            guard.unlink(missing_ok=True)
        time.sleep(0.01)
        return False
    seen = _look(path)
    taken = seen is not None and seen.text == dead
    if taken and not is_address(path):
        guard.replace(path)
        return True
    if taken:
        files.write_text(path, own)
    guard.unlink(missing_ok=True)
    return taken


def _create(path: pathlib.Path, own: str) -> bool:
    """Create a lock file; return whether it is this process's, which is also so if an answer was lost."""
    return create(path, own) or (is_address(path) and _read(path) == own)


def _look(path: pathlib.Path) -> _Sight | None:
    """Read a lock file; return None if there is none."""
    if is_address(path):
        text = _read(path)
        return None if text is None else _Sight(text, _sign_of_life(path, text))
    try:
        with path.open(errors="replace") as file:  # network file systems check an open file for changes
            return _Sight(file.read(), os.fstat(file.fileno()).st_mtime_ns)
    except FileNotFoundError:
        return None


def _read(path: Any) -> str | None:
    """Read a file in a bucket; return None if there is none."""
    with naming(path):
        try:
            return path.fs.cat_file(path.path).decode(errors="replace")
        except FileNotFoundError:
            return None


def _alive(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.alive")


def _sign_of_life(path: pathlib.Path, text: str) -> str | None:
    """Return what the holder of a lock in a bucket wrote last to show that it lives, or None."""
    token, sign = (_parse(text) or {}).get("token"), _read(_alive(path))
    return sign if token and sign and sign.startswith(f"{token} ") else None


def _touch(path: pathlib.Path, own: str) -> None:
    if is_address(path):
        files.write_text(_alive(path), f"{json.loads(own)['token']} {secrets.token_hex(8)}\n")
    else:
        os.utime(path)


def _keep(path: pathlib.Path, own: str, released: threading.Event, touch_seconds: float) -> None:
    """Touch the lock file until it is released."""
    while not released.wait(touch_seconds):
        with contextlib.suppress(OSError):  # the server may be away for a while
            _touch(path, own)
            seen = _look(path)
            if seen and seen.text != own and _parse(seen.text) and not released.is_set():
                print(
                    f"error: {path.parent} is now in use by {_name(seen)}, because this process gave no sign "
                    "of life for too long, or its lock was removed. This process ends.",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                os._exit(2)


def _is_alive(path: pathlib.Path, seen: _Sight, silence_seconds: float) -> bool | None:
    """Return whether the holder lives; None if the file changed in the meantime."""
    alive = _is_alive_here(seen)
    return _shows_life(path, seen, silence_seconds) if alive is None else alive


def _is_alive_here(seen: _Sight) -> bool | None:
    """Return whether the holder lives; None if this machine cannot tell."""
    holder = _parse(seen.text)
    if holder is None or holder.get("machine") != _machine():
        return None
    pid = holder["pid"]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # a process of another user
    started = _start_of(pid)
    return None if started is None else started == holder["started"]


def _shows_life(path: pathlib.Path, seen: _Sight, seconds: float) -> bool | None:
    """Watch a lock file for some time; return whether its holder touches it, or None if its text changes."""
    start, announced = time.monotonic(), False
    while time.monotonic() < start + seconds:
        time.sleep(min(0.5, seconds / 10))
        now = _look(path)
        if now is None or now.text != seen.text:
            return None
        if now.touched not in (None, seen.touched):
            return True
        if not announced:
            announced = True
            print(
                f"{path.parent} is or was in use by {_name(seen)}. Waiting up to {seconds:.0f} s for a sign "
                "of life.", file=sys.stderr, flush=True,
            )  # fmt: skip
    return False


def _describe_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": " ".join(sys.argv),
        "machine": _machine(),
        "started": _start_of(os.getpid()),
        "token": secrets.token_hex(8),  # no two locks have the same text
    }


def _machine() -> str:
    """Identify what a process number refers to: the host, its boot, and the container."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _start_of(pid: int) -> str | None:
    """Return when a process started, which tells it from an earlier one of the same number; "" if it ended.

    None if the system does not say.
    """
    try:
        state, *fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if state in "ZX" else fields[18]  # a killed process stays as a zombie until its parent asks


def _parse(text: str) -> dict[str, Any] | None:
    """Return the holder's description, or None if its process was killed before it had written all."""
    try:
        holder = json.loads(text)
    except ValueError:
        return None
    return holder if isinstance(holder, dict) and isinstance(holder.get("pid"), int) else None


def _name(seen: _Sight) -> str:
    holder = _parse(seen.text)
    if holder is None:
        return "an unknown process"
    program = pathlib.Path(str(holder.get("command")).split(" ")[0]).name
    return f"process {holder['pid']} on {holder.get('host')} ({program}) since {holder.get('since')}"
