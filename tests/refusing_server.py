"""A server on loopback that refuses every request to a bucket, with the answers of Google's."""

import contextlib
import http.server
import json
import threading

from tests import bucket_server

_MESSAGES = {
    401: "Anonymous caller does not have storage.objects.get access to the Google Cloud Storage object.",
    403: "someone@example.com does not have storage.objects.get access to the Google Cloud Storage object.",
    404: "The specified bucket does not exist.",
}
SENTENCES = {
    401: "this machine has no valid credentials for it. On Google Cloud, give the service account",
    403: "the credentials of this machine do not allow this. Give its account the right",
    404: "there is no such bucket or file. Check the name",
}


class _Handler(http.server.BaseHTTPRequestHandler):
    def _refuse(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, message = self.server.status, _MESSAGES[self.server.status]
        body = json.dumps({"error": {"code": status, "message": message}}).encode()
        with contextlib.suppress(OSError):  # clients close connections whose answers they do not need
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _refuse

    def log_message(self, *arguments):
        """Print nothing."""


@contextlib.contextmanager
def refusing(status):
    """Answer every request of this process to a bucket by 401, 403 or 404, and yield the server's URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.status = status
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with bucket_server.using(f"http://127.0.0.1:{server.server_port}") as url:
                yield url
        finally:
            server.shutdown()
