"""The lock of a folder: who holds it, and when it is taken over."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from experiments.common import lock

_HOLD = """
import sys, time
from experiments.common import lock
from gmflow_jax._files import to_path
with lock.hold(to_path(sys.argv[1]), touch_seconds=0.02):
    print("holds", flush=True)
    time.sleep(60)
"""


def _holder(folder):
    """Start a process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "holds\n"
    return process


def _rewrite(folder, **changes):
    """Change the lock file as if another process had written it."""
    path = folder / lock.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def abandoned(tmp_path):
    """A folder with the lock file of a process that still runs."""
    with lock.hold(tmp_path):
        text = (tmp_path / lock.NAME).read_text()
    (tmp_path / lock.NAME).write_text(text)
    return tmp_path


def test_the_second_start_is_refused_and_learns_who_holds_the_folder(tmp_path):
    said = rf"in use by process {os.getpid()} on \S+ \(.+\) since 2\d\d\d-.+ give another --out\."
    with lock.hold(tmp_path):
        before = (tmp_path / lock.NAME).read_bytes()
        with pytest.raises(ValueError, match=said), lock.hold(tmp_path, "--out"):
            pass
        assert (tmp_path / lock.NAME).read_bytes() == before


def test_the_lock_is_released_at_the_end_and_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), lock.hold(tmp_path):
        1 / 0  # noqa: B018
    with lock.hold(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path):
    process = _holder(tmp_path)
    with pytest.raises(ValueError, match=f"process {process.pid} on"), lock.hold(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays as a zombie
    with lock.hold(tmp_path):
        pass
    process.communicate()
    assert not list(tmp_path.iterdir())


def test_another_process_of_the_same_number_holds_nothing(abandoned):
    with pytest.raises(ValueError, match="in use"), lock.hold(abandoned):
        pass
    _rewrite(abandoned, started="1")
    with lock.hold(abandoned):
        pass


@pytest.mark.parametrize("text", ["", '{"pid": ', "[1]", None])
def test_a_silent_holder_on_another_machine_is_dead(abandoned, text, capsys):
    """Whatever the clocks say; and so is one that was killed before it had written its name."""
    _rewrite(abandoned, host="elsewhere", machine="elsewhere")
    if text is not None:
        (abandoned / lock.NAME).write_text(text)
    os.utime(abandoned / lock.NAME, (2e9, 2e9))
    with lock.hold(abandoned, silence_seconds=0.1):
        assert "elsewhere" not in (abandoned / lock.NAME).read_text()
    assert ("unknown process" if text is not None else "on elsewhere") in capsys.readouterr().err


def test_a_holder_on_another_machine_that_touches_its_lock_is_alive(abandoned):
    _rewrite(abandoned, host="elsewhere", machine="elsewhere")
    touch = threading.Timer(0.05, os.utime, [abandoned / lock.NAME])
    touch.start()
    with pytest.raises(ValueError, match="on elsewhere"), lock.hold(abandoned, silence_seconds=5):
        pass
    touch.join()


@pytest.mark.parametrize("where", ["local", "bucket"])
def test_one_of_many_takes_a_stale_lock_over(where, abandoned, request):
    if where == "bucket":
        text = (abandoned / lock.NAME).read_text()
        abandoned = request.getfixturevalue("bucket")
        (abandoned / lock.NAME).write_text(text)
    _rewrite(abandoned, started="1")
    holders, refused, start = [], [], threading.Barrier(8)

    def compete():
        start.wait()
        try:
            with lock.hold(abandoned):
                holders.append(1)
                done.wait()
        except ValueError:
            refused.append(1)
            if len(refused) == 7:
                done.set()

    done = threading.Event()
    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert (len(holders), len(refused)) == (1, 7)
    assert not abandoned.exists() or not list(abandoned.iterdir())


def test_a_process_whose_lock_was_taken_over_ends(tmp_path):
    process = _holder(tmp_path)
    _rewrite(tmp_path, host="elsewhere", pid=7, token="another")
    _, said = process.communicate(timeout=10)
    assert process.returncode == 2
    assert "now in use by process 7 on elsewhere" in said
    assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == 7


@pytest.fixture
def another_machine(bucket, monkeypatch):
    """A folder in a bucket with the lock of a process of another machine, whose token is "other"."""
    with lock.hold(bucket):
        text = (bucket / lock.NAME).read_text()
    assert not bucket.exists()
    (bucket / lock.NAME).write_text(text)
    _rewrite(bucket, host="elsewhere", machine="elsewhere", token="other")
    return bucket


def test_a_lock_in_a_bucket_refuses_the_second_start_and_is_taken_over_from_the_dead(bucket):
    process = _holder(bucket)
    said = rf"{bucket} is in use by process {process.pid} on"
    with pytest.raises(ValueError, match=said), lock.hold(bucket):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with lock.hold(bucket, touch_seconds=0.01):
        alive = bucket / f"{lock.NAME}.alive"
        while not alive.exists() or alive.read_text() == (before := alive.read_text()):
            pass
        assert before.startswith(json.loads((bucket / lock.NAME).read_text())["token"])
    assert not bucket.exists()


def test_a_silent_holder_on_another_machine_is_dead_in_a_bucket(another_machine):
    """Also if a process that lost the lock earlier shows life."""
    late = threading.Timer(0.1, (another_machine / f"{lock.NAME}.alive").write_text, ["lost 1"])
    late.start()
    with lock.hold(another_machine, silence_seconds=0.5):
        assert "elsewhere" not in (another_machine / lock.NAME).read_text()
    late.join()
    assert not (another_machine / lock.NAME).exists()


def test_a_holder_on_another_machine_that_shows_life_in_a_bucket_is_alive(another_machine):
    touch = threading.Timer(0.1, (another_machine / f"{lock.NAME}.alive").write_text, ["other 1"])
    touch.start()
    with pytest.raises(ValueError, match="on elsewhere"), lock.hold(another_machine, silence_seconds=5):
        pass
    touch.join()


def test_a_process_whose_lock_in_a_bucket_was_taken_over_ends(bucket):
    process = _holder(bucket)
    _rewrite(bucket, host="elsewhere", pid=7, token="another")
    _, said = process.communicate(timeout=10)
    assert process.returncode == 2 and "now in use by process 7 on elsewhere" in said
    assert json.loads((bucket / lock.NAME).read_text())["pid"] == 7
