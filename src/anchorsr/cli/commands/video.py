"""The command `video`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from anchorsr.cli.commands.options import (
    AsJson,
    Engine,
    Force,
    Model,
    OptionalFactor,
    Threads,
    Verbose,
    complete_from,
)
from anchorsr.cli.terminal import complain, print_json, remark, say, video_bar
from anchorsr.engines.selection import AUTO
from anchorsr.inference.upscaler import Upscaler
from anchorsr.models.registry import DEFAULT
from anchorsr.video.codecs import CODECS
from anchorsr.video.upscale import VideoResult, upscale_video


def video_command(
    video: Annotated[Path, typer.Argument(help="A video.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .mp4, .m4v, .mov, .mkv or .webm file."),
    ] = None,
    factor: OptionalFactor = None,
    model: Model = DEFAULT,
    start: Annotated[
        float | None, typer.Option(min=0, help="Start at this second of the video.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(min=0, help="Stop after this many seconds.")
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete_from(CODECS),
            help=f"{', '.join(CODECS)}; h264 by default, vp9 in a .webm file.",
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=63,
            help="CRF of the codec: lower is better and larger. By default "
            + ", ".join(f"{codec.quality} for {name}" for name, codec in CODECS.items())
            + ".",
        ),
    ] = None,
    threads: Threads = 0,
    engine: Engine = AUTO,
    force: Force = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Upscale a video.

    Sound, subtitles, chapters, metadata and timestamps are kept. Without -o the output is NAME_x3
    beside the input. Tiles that do not change from one frame to the next are not computed again.
    After Ctrl-C, what is done is in NAME_x3.part.mp4.

    Examples:

        anchorsr video film.mp4

        anchorsr video film.mp4 -o upscaled.mkv --start 60 --duration 10

        anchorsr video lecture.mp4 -o lecture.webm --codec av1 --quality 35
    """
    upscaler = Upscaler(model, factor, threads=threads or None, engine=engine)
    if verbose:
        remark(f"engine {upscaler.engine}: {upscaler.why}")
    with video_bar("Upscaling", hidden=as_json) as on_progress:
        result = upscale_video(
            video,
            output,
            upscaler=upscaler,
            start=start,
            duration=duration,
            codec=codec,
            quality=quality,
            threads=threads or None,
            overwrite=force,
            on_progress=on_progress,
            on_note=remark,
        )
    row = _as_row(video, result)
    summary = _summary(result)
    for problem in result.problems:
        complain(problem)
    if as_json:
        print_json([row])
    else:
        say(result.target)
        remark(summary)
    if result.problems:
        raise typer.Exit(1)


def _as_row(video: Path, result: VideoResult) -> dict[str, object]:
    row = dataclasses.asdict(result)
    row.update(row.pop("timings"))
    row["input"], row["output"] = str(video), str(row.pop("target"))
    row["frames_per_second"] = result.frames_per_second
    row["problems"] = list(result.problems)
    return row


def _summary(result: VideoResult) -> str:
    timings = result.timings
    return (
        f"{result.frames} frames in {result.elapsed_s:.1f} s ({result.frames_per_second:.1f} per "
        f"second); {result.reused:.0%} of the tiles reused; in parallel: decoding "
        f"{timings.decode_s:.1f} s, network {timings.network_s:.1f} s, conversion "
        f"{timings.convert_s:.1f} s, encoding {timings.encode_s:.1f} s"
    )
