"""Run the server until it is stopped."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from anchorsr.errors import OutputError, needs
from anchorsr.serve.limits import Limits
from anchorsr.utils.cache import cache_folder
from anchorsr.utils.files import reason
from anchorsr.utils.locks import FileLocks
from anchorsr.utils.temporary import temporary_folder

_STOP_SECONDS = 10


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    names: Collection[str] = (),
    token: str | None = None,
    limits: Limits = Limits(),
    workers: int = 2,
    browse: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve the page and the REST interface until Ctrl-C or SIGTERM.

    Args:
        host: The address to listen on.
        port: The port; 0 for any that is free.
        names: More names that the server is asked under, as behind a proxy.
        token: What clients need beyond loopback; by default a random one.
        limits: What is accepted.
        workers: How many jobs run at a time.
        browse: Whether to open the page in a browser.
        say: Takes lines for the person at the terminal.

    Raises:
        OutputError: If the address is taken, or is none.
        MissingDependencyError: If the extra `anchorsr[web]` is not installed.
    """
    with needs("starlette", "web"):
        import python_multipart  # noqa: F401  # which Starlette imports when a form comes
        import uvicorn

        from anchorsr.serve.app import make_app
        from anchorsr.serve.guard import is_loopback
    token = None if is_loopback(host) else token or secrets.token_urlsafe(24)
    with _listening(host, port) as listener, _state_folder() as folder:
        app = make_app(folder, host=host, names=names, token=token, limits=limits, workers=workers)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_STOP_SECONDS,
            proxy_headers=False,
        )
        named = host if ":" not in host else f"[{host}]"
        if host in ("0.0.0.0", "::"):
            named = socket.gethostname()
        address = f"http://{named}:{listener.getsockname()[1]}/"
        if token:
            say(f"token for the REST interface: {token}")
            address += f"#token={token}"
        say(f"{address}  (Ctrl-C stops)")
        if browse:
            threading.Timer(0.3, webbrowser.open, [address]).start()
        server = uvicorn.Server(config)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OutputError(f"{host} is no address of this machine ({reason(error)})") from error
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(128)  # so that who comes before the server is ready waits
        except OSError as error:
            words = reason(error)
            raise OutputError(
                f"{host}:{port} cannot be used ({words}); --port takes another"
            ) from error
        yield listener


@contextlib.contextmanager
def _state_folder() -> Iterator[Path]:
    """The folder of the jobs: always the same one, unless another server uses it."""
    with contextlib.ExitStack() as stack:
        folder = cache_folder() / "serve"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            ours = stack.enter_context(FileLocks()).acquire(folder / "server")
        except (OSError, RuntimeError, OutputError):
            ours = False
        if not ours:
            folder = Path(stack.enter_context(temporary_folder()))
        yield folder
