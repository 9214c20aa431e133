"""The command `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anchorsr.cli.commands.options import Force
from anchorsr.cli.terminal import remark, say
from anchorsr.serve.limits import Limits
from anchorsr.serve.server import serve
from anchorsr.serve.static import write_static

_MB = 1_000_000


def serve_command(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 takes any that is free.")
    ] = 8765,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on. Any but this machine's own, such as 0.0.0.0, lets"
            " others in who know the token."
        ),
    ] = "127.0.0.1",
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Do not open the page in a browser.")
    ] = False,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="ANCHORSR_TOKEN", help="The token with --host; by default a random one."
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name that the server is reached by, as behind a proxy. Repeatable."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="How many images are upscaled at a time.")
    ] = 2,
    max_megabytes: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="The largest file that is accepted.")
    ] = 1000,
    max_megapixels: Annotated[
        int, typer.Option(min=1, max=100, help="The largest image, before it is upscaled.")
    ] = 100,
    max_waiting: Annotated[
        int, typer.Option(min=1, max=100_000, help="How many images may wait at a time.")
    ] = 100,
    max_seconds: Annotated[
        int, typer.Option(min=1, help="How long one image or video may take.")
    ] = 3600,
    max_memory: Annotated[
        int, typer.Option(min=1, help="Gigabytes of memory for each worker (on Linux).")
    ] = 6,
    static: Annotated[
        Path | None,
        typer.Option(
            help="Write the page into this folder instead, for any web host. The visitor's browser"
            " does the work."
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Open a page that upscales images on this machine.

    Images and videos are dropped, compared and saved in the browser; nothing leaves this machine.
    The same server has a REST interface: POST an image to /api/upscale. Needs the extra
    anchorsr[web], except with --static.

    Examples:

        anchorsr serve

        anchorsr serve --host 0.0.0.0 --port 80 --no-open

        anchorsr serve --static page/
    """
    if static is not None:
        files = write_static(static, overwrite=force)
        size = sum(path.stat().st_size for path in files)
        remark(f"{len(files)} files, {size // 1000} kB: put them on any web host")
        say(static / "index.html")
        return
    limits = Limits(
        bytes=max_megabytes * _MB,
        pixels=max_megapixels * _MB,
        queue=max_waiting,
        seconds=max_seconds,
        memory=max_memory << 30,
    )
    serve(
        host=host,
        port=port,
        names=allow_host or [],
        token=token,
        limits=limits,
        workers=workers,
        browse=not no_open,
        say=say,
    )
