"""An HTTP proxy before a store, that refuses, resets and delays some of the requests.

    python tests/helpers/flaky_proxy.py LISTEN_PORT STORE_PORT REFUSED RESET SLOW

REFUSED, RESET and SLOW are the shares of requests that get a 503, that lose their connection, and
that wait for two seconds. Requests for the same thing are refused at most three times in a row.
"""

from __future__ import annotations

import http.client
import random
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_MOST_IN_A_ROW = 3
_SLOW_SECONDS = 2.0
_HOP = {"connection", "transfer-encoding", "expect", "content-length"}


class Flaky(ThreadingHTTPServer):
    """The proxy.

    Attributes:
        counts: How many requests got which treatment.
    """

    daemon_threads = True

    def __init__(
        self, port: int, store: int, *, refused: float = 0, reset: float = 0, slow: float = 0
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.store, self.shares = store, (refused, reset, slow)
        self.counts: Counter[str] = Counter()
        self._random = random.Random(0)
        self._rows: Counter[str] = Counter()
        self._lock = threading.Lock()

    def treatment(self, request: str) -> str:
        with self._lock:
            drawn = self._random.random()
            chosen = "passed"
            for name, share in zip(("refused", "reset", "slow"), self.shares, strict=True):
                if drawn < share:
                    chosen = name
                    break
                drawn -= share
            if chosen in ("refused", "reset"):
                self._rows[request] += 1
                if self._rows[request] > _MOST_IN_A_ROW:
                    chosen = "passed"
            if chosen == "passed":
                self._rows[request] = 0
            self.counts[chosen] += 1
            return chosen


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Flaky

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        treatment = self.server.treatment(f"{self.command} {self.path}")
        if treatment == "reset":
            self.close_connection = True
            self.connection.close()
            return
        if treatment == "refused":
            text = b"<Error><Code>SlowDown</Code><Message>Wait a moment.</Message></Error>"
            self._answer(503, [("Content-Type", "application/xml")], text)
            return
        if treatment == "slow":
            time.sleep(_SLOW_SECONDS)
        store = http.client.HTTPConnection("127.0.0.1", self.server.store, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        if body or self.command in ("PUT", "POST"):
            headers["Content-Length"] = str(len(body))
        store.request(self.command, self.path, body or None, headers)
        got = store.getresponse()
        data = got.read()
        kept = [(k, v) for k, v in got.getheaders() if k.lower() not in _HOP]
        length = got.getheader("Content-Length") if self.command == "HEAD" else None
        store.close()
        self._answer(got.status, kept, data, length)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass  # noqa: N815

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, length: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


if __name__ == "__main__":
    _port, _store = map(int, sys.argv[1:3])
    _refused, _reset, _slow = map(float, sys.argv[3:])
    with Flaky(_port, _store, refused=_refused, reset=_reset, slow=_slow) as _proxy:
        try:
            _proxy.serve_forever()
        except KeyboardInterrupt:
            print(dict(_proxy.counts))
