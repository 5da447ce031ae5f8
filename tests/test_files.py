"""Files in a bucket, on a real server on loopback; local files are tested where they are used."""

import functools
import pathlib
import pickle
import threading
import time

import pytest

from gmflow_jax._files import (
    BucketError,
    bucket_problem,
    create,
    describe_bucket_error,
    is_address,
    local_copy,
    read_bytes,
    remove_tree,
    to_path,
    write_bytes,
    write_whole,
)
from tests import bucket_server
from tests.helpers import in_threads
from tests.refusing_server import SENTENCES, refusing

pytest.importorskip("gcsfs")


@pytest.mark.parametrize("path", ["gs://a/b", "s3://a", pathlib.Path("gs://a/b"), "GS://a/b"])
def test_addresses_are_known_by_their_scheme(path):
    assert is_address(path)


@pytest.mark.parametrize("path", ["a/b", "/a", "C:/a", "a:b", "tfds:mnist:train", pathlib.Path("x")])
def test_other_paths_are_local(path):
    assert not is_address(path) and isinstance(to_path(path), pathlib.Path)


def test_an_address_keeps_its_slashes():
    assert str(to_path(pathlib.Path("gs://a/b"))) == "gs://a/b" == str(to_path(to_path("gs://a/b")))


@pytest.mark.parametrize(("path", "said"), [("nowhere://a", "nowhere"), ("abfs://a/b", "adlfs")])
def test_a_scheme_that_cannot_be_opened_is_refused(path, said):
    with pytest.raises(ValueError, match=said):
        to_path(path)


def test_a_file_is_written_and_read(bucket):
    assert not bucket.exists() and not bucket.is_dir()
    path = bucket / "folder" / "file.bin"
    write_whole(path, lambda temporary: temporary.write_bytes(b"old"))
    write_whole(path, lambda temporary: temporary.write_bytes(b"content"))
    assert path.read_bytes() == read_bytes(path) == b"content" and read_bytes(path, 1, 2) == b"on"
    assert [str(child) for child in bucket.iterdir()] == [f"{bucket}/folder"] and bucket.is_dir()
    with local_copy(path) as copy:
        assert isinstance(copy, pathlib.Path) and copy.read_bytes() == b"content" and copy.name == path.name
    assert not copy.exists()
    remove_tree(bucket)
    remove_tree(bucket)
    assert not bucket.exists()


def test_names_are_no_patterns(bucket):
    first, second = bucket / "run1" / "5" / "a", bucket / "run[1]" / "5" / "a"
    for path in (first, second, bucket / "run[1]" / "lock", bucket / "run1" / "lock"):
        write_bytes(path, b"1")
    remove_tree(bucket / "run[1]" / "5")
    (bucket / "run[1]" / "lock").unlink()
    (bucket / "run[1]" / "lock").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (bucket / "run[1]" / "lock").unlink()
    assert first.exists() and (bucket / "run1" / "lock").exists() and not (bucket / "run[1]").exists()


@pytest.mark.parametrize("path", ["file:///a/b", "local:///a/b", pathlib.Path("file:///a/b")])
def test_addresses_of_local_files_are_paths(path):
    assert to_path(path) == pathlib.Path("/a/b")


def test_a_number_in_a_name_is_no_status():
    error = BucketError("UNAVAILABLE: writing gs://b/run/checkpoints/404/params/d")
    assert "could not be reached" in describe_bucket_error(error, "gs://b")
    error = BucketError("gs://b/1 PERMISSION_DENIED: 403")
    assert "do not allow" in describe_bucket_error(error, "gs://b")


def test_a_write_that_fails_leaves_the_old_file(bucket):
    path = bucket / "file"
    write_whole(path, lambda temporary: temporary.write_bytes(b"old"))

    def fail(temporary):
        temporary.write_bytes(b"half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_whole(path, fail)
    assert path.read_bytes() == b"old" and len(list(bucket.iterdir())) == 1


@pytest.mark.parametrize("where", ["local", "bucket"])
def test_one_of_several_creates_a_file(where, bucket, tmp_path):
    path = (tmp_path if where == "local" else bucket) / "lock"
    made = in_threads([functools.partial(create, path, f"{i}") for i in range(8)])
    (winner,) = [i for i, won in enumerate(made) if won]
    assert path.read_text() == f"{winner}" and len(made) == 8


def test_what_another_process_writes_is_seen_at_once(bucket):
    first, second = bucket / "a", to_path(str(bucket))
    assert not second.exists()
    write_whole(first, lambda temporary: temporary.write_bytes(b"1"))
    assert [path.name for path in second.iterdir()] == ["a"]


def test_a_bucket_that_is_missing_is_named(bucket_url):
    path = to_path("gs://missing/file")
    with pytest.raises(OSError, match="gs://missing/file: there is no such bucket"):
        write_whole(path, lambda temporary: temporary.write_bytes(b"1"))
    with pytest.raises(OSError, match="there is no such bucket or file"):
        read_bytes(path)


@pytest.mark.parametrize("path", ["gs://a/b/", "gs://a//b", "gs:/a/./b", "gs://a/c/../b"])
def test_addresses_are_normalised(path):
    assert str(to_path(path)) == "gs://a/b" and pickle.loads(pickle.dumps(to_path(path))) == to_path(path)


def test_no_bucket_is_created(bucket_url):
    with pytest.raises(ValueError, match="names no bucket"):
        to_path("gs://")
    path = to_path("gs://missing/folder")
    path.mkdir(parents=True, exist_ok=True)
    assert not path.is_dir() and not path.parent.exists()


@pytest.mark.parametrize("status", [401, 403])
def test_questions_to_a_bucket_without_access_are_not_answered_by_no(status):
    with refusing(status):
        path = to_path("gs://bucket/file")
        for ask in (path.exists, path.is_file, path.is_dir, path.iterdir, lambda: read_bytes(path)):
            with pytest.raises(BucketError, match=SENTENCES[status]):
                ask()


@pytest.mark.slow
def test_a_large_upload_survives_an_outage_in_its_midst():
    content = bytes(range(256)) * (600 << 10)  # 150 MB: three requests
    with bucket_server.serve_behind_proxy() as proxy, bucket_server.using(proxy.url):
        path = to_path(f"gs://{bucket_server.BUCKET}/file")

        def fail_for_a_while():
            time.sleep(0.2)
            proxy.mode = "drop"
            time.sleep(3)
            proxy.mode = "pass"

        threading.Thread(target=fail_for_a_while).start()
        write_whole(path, lambda temporary: temporary.write_bytes(content))
        assert proxy.num_failed and path.read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["refuse", "drop"])
def test_a_server_that_fails_for_a_while_is_asked_again(mode):
    with bucket_server.serve_behind_proxy() as proxy, bucket_server.using(proxy.url):
        path = to_path(f"gs://{bucket_server.BUCKET}/file")
        proxy.mode = mode
        threading.Thread(target=lambda: (time.sleep(4), setattr(proxy, "mode", "pass"))).start()
        write_whole(path, lambda temporary: temporary.write_bytes(b"1"))
        assert path.read_bytes() == b"1" and proxy.num_failed > 1


def test_other_errors_are_not_of_a_bucket():
    assert bucket_problem(ValueError("no")) is None and bucket_problem(FileNotFoundError("no")) is None
