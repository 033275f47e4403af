"""Servers that answer as a test says."""

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator

Answer = Callable[[http.server.BaseHTTPRequestHandler, int], object]


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[str | None]]]:
    """A server whose n-th request is answered by `answer(handler, n)`.

    Yields its URL and the list of Range headers that came.
    """
    ranges: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            ranges.append(self.headers["Range"])
            with contextlib.suppress(ConnectionError):
                answer(self, len(ranges))

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/file.gz", ranges
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def redirect(
    handler: http.server.BaseHTTPRequestHandler,
    target: str,
    status: int = 302,
    **headers: str,
) -> None:
    """Sends elsewhere; an underscore in a header's name stands for a hyphen."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Location", target)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def send(
    handler: http.server.BaseHTTPRequestHandler,
    body: bytes,
    status: int = 200,
    length: int | None = None,
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)
