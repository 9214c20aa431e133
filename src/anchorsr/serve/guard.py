"""Who may ask a server, and how much it reads: a wrapper around the application.

A page of another site that is open in the same browser can send requests to this server, and with
DNS rebinding even under a name that it owns. So the Host header has to be one of this server's, the
Origin its own, and requests that a browser makes for other sites are refused. Beyond the machine
itself a token is needed as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from anchorsr.errors import RequestError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_PRIVATE = ("/api/", "/metrics")
_DRAIN_SECONDS = 10
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:;"
        " media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether a host is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuses what the application should not see, and adds the headers of every answer.

    Args:
        application: What answers the rest.
        host: What the server listens on.
        names: More names that it is asked under, as behind a proxy.
        token: Needed for everything but the page itself; None for loopback.
        most_bytes: The largest body of a request.
        refuse: Makes the answer for an error.
        on_answer: Called with the method and status of each answer.
    """

    def __init__(
        self,
        application: Application,
        *,
        host: str,
        names: Collection[str],
        token: str | None,
        most_bytes: int,
        refuse: Callable[[RequestError], Application],
        on_answer: Callable[[str, int], None],
    ) -> None:
        self._application = application
        self._loopback = is_loopback(host)
        own = [] if self._loopback else [socket.gethostname()]
        self._names = {name.lower() for name in (host, "localhost", *own, *names)}
        self._token = token
        self._most_bytes = most_bytes
        self._refuse = refuse
        self._on_answer = on_answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI says."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return

        body = _Body(receive, self._most_bytes)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] >= 400:
                    await body.drain()
                self._on_answer(scope["method"], message["status"])
                given = {name for name, _ in message["headers"]}
                more = [(name.encode(), text.encode()) for name, text in HEADERS.items()]
                message["headers"] = [
                    *message["headers"], *((n, t) for n, t in more if n not in given)
                ]  # fmt: skip
            await send(message)

        headers = {
            name.decode("latin-1"): text.decode("latin-1") for name, text in scope["headers"]
        }
        try:
            self._check(scope["path"], headers)
            length = headers.get("content-length", "0")
            if length.isdecimal() and int(length) > self._most_bytes:
                raise _too_long(self._most_bytes)
        except RequestError as error:
            await self._refuse(error)(scope, receive, answer)
            return
        await self._application(scope, body.receive, answer)

    def _check(self, path: str, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise RequestError(
                421, f"this server is not {host[:100]!r}: serve --allow-host NAME adds a name"
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise RequestError(403, "pages of other sites may not use this server")
        if not path.startswith(_PRIVATE):
            return
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise RequestError(403, "pages of other sites may not use this server")
        if self._token is not None:
            kind, _, given = headers.get("authorization", "").partition(" ")
            right = secrets.compare_digest(given.strip().encode(), self._token.encode())
            if kind.lower() != "bearer" or not right:
                raise RequestError(401, "this needs the header: Authorization: Bearer TOKEN")

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        name = name.removeprefix("[").removesuffix("]").lower()
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # Nobody can make another address out of an address, as is possible with names.
        return address.is_loopback or not self._loopback


class _Body:
    """The body of a request: counted, and read to its end before an error is answered.

    A client that is still sending when the connection ends would not see the answer.
    """

    def __init__(self, receive: Receive, most_bytes: int) -> None:
        self._receive = receive
        self._most_bytes = most_bytes
        self._received = 0
        self._ended = False

    async def receive(self) -> Message:
        """Receive a message, as ASGI says.

        Raises:
            RequestError: With 413, if there are too many bytes.
        """
        message = await self._next()
        if self._received > self._most_bytes:
            raise _too_long(self._most_bytes)
        return message

    async def _next(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read and drop what is left, as far as that is reasonable."""
        most = self._received + self._most_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._ended and self._received < most:
                    await self._next()


def _too_long(most_bytes: int) -> RequestError:
    return RequestError(413, f"this server takes files of up to {most_bytes:,} bytes")
