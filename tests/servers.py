"""A real web server on loopback that serves chosen contents, well or badly."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving(
    answers: dict[str, Answer], certificate: Path | None = None
) -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """The server's URL, and the list of requests that it has had: path and headers."""
    asked: list[tuple[str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server calls
            asked.append((self.path, dict(self.headers)))
            answers.get(self.path.partition("?")[0], missing)(self)

        do_POST = do_GET  # noqa: N815  # as above

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def missing(request: BaseHTTPRequestHandler) -> None:
    request.send_error(404)


def whole(
    content: bytes,
    *,
    tag: str = '"v1"',
    ranges: bool = True,
    careless: bool = False,
    stop_after: int | None = None,
    until: Event | None = None,
) -> Answer:
    """Serves `content`, or the part asked for if the tag fits, or whatever the tag if `careless`.

    Once, the connection ends after `stop_after` bytes, after a silence `until` an event.
    """
    cuts = [] if stop_after is None else [stop_after]

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range", "")
        fits = ranges and asked and (careless or request.headers.get("If-Range") == tag)
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if fits else 0
        request.send_response(206 if fits else 200)
        if fits:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("ETag", tag)
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        stop = cuts.pop() if cuts else None
        request.wfile.write(content[start:stop])
        if stop and until:
            until.wait(30)

    return answer


def failing(times: int, code: int, then: Answer) -> Answer:
    """Answers with an error so many times, and then as `then`."""
    left = [code] * times

    def answer(request: BaseHTTPRequestHandler) -> None:
        if left:
            request.send_error(left.pop())
        else:
            then(request)

    return answer


def leading_to(url: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", url)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer
