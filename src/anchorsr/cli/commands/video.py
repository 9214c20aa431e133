"""The command `video`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from anchorsr.cli.commands.options import (
    AsJson,
    Engine,
    Force,
    Model,
    OptionalFactor,
    StrengthTexts,
    Threads,
    Verbose,
    complete_from,
)
from anchorsr.cli.pipes import PIPE, is_folder_name
from anchorsr.cli.terminal import complain, complain_of_all, print_json, remark, say, video_bar
from anchorsr.cli.usage import UsageError
from anchorsr.data.strengths import CLEAN, parse_strengths
from anchorsr.engines.selection import AUTO
from anchorsr.errors import StoppedError, unknown_choice
from anchorsr.inference.automatic import film_model
from anchorsr.inference.upscaler import Upscaler
from anchorsr.models.registry import AUTO_MODEL
from anchorsr.utils.files import check_folder, make_folder
from anchorsr.video.batch import VideoJob, VideoOutcome, plan_videos, run_videos
from anchorsr.video.codecs import CODECS, SUFFIXES
from anchorsr.video.deinterlace import MODES
from anchorsr.video.upscale import VideoResult, check_source, default_target, upscale_video


def _known_mode(name: str) -> str:
    if name not in MODES:
        raise UsageError(unknown_choice("deinterlacing", name, MODES))
    return name


def video_command(
    videos: Annotated[
        list[Path], typer.Argument(help="Videos, or folders of videos.", show_default=False)
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help=f"A file for one video ({', '.join(SUFFIXES)}), else a folder, made if need be; "
            "NAME/ is always a folder.",
        ),
    ] = None,
    factor: OptionalFactor = None,
    model: Model = AUTO_MODEL,
    strengths: StrengthTexts = None,
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
            + ", with a limit that follows from the rate of the source.",
        ),
    ] = None,
    deinterlace: Annotated[
        str,
        typer.Option(
            autocompletion=complete_from(MODES),
            callback=_known_mode,
            help="auto for frames that are marked as interlaced, on for all, off for none.",
        ),
    ] = "auto",
    no_sound: Annotated[bool, typer.Option("--no-sound", help="Leave the sound out.")] = False,
    threads: Threads = 0,
    engine: Engine = AUTO,
    force: Force = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Upscale videos.

    Sound, subtitles, chapters, metadata and timestamps are kept; sound that the file cannot hold is
    converted. Interlaced video is deinterlaced. Without -o the output is NAME_x3 beside the input.
    Tiles that do not change from one frame to the next are not computed again.

    The same command goes on where it was interrupted or killed. Until a video is complete,
    NAME_x3.mp4.resume beside it holds the encoded frames, so it needs twice its size on the disk.
    After Ctrl-C, NAME_x3.part.mp4 holds what is done and can be played.

    Folders are searched recursively. Existing results are skipped, and a bad video does not stop
    the others.

    Examples:

        anchorsr video film.mp4

        anchorsr video film.mp4 -o upscaled.mkv --start 60 --duration 10

        anchorsr video lecture.mp4 -o lecture.webm --codec av1 --quality 35

        anchorsr video tapes/ -o tapes-large/ --deinterlace on
    """
    if Path(PIPE) in videos or output == PIPE:
        raise UsageError("videos do not go through pipes: name a file")
    single = videos[0] if len(videos) == 1 and not videos[0].is_dir() else None
    if single is not None:
        check_source(single)
    damage = parse_strengths(strengths or [])
    if model == AUTO_MODEL and damage != CLEAN:
        model = film_model(factor)
    upscaler = Upscaler(model, factor, threads=threads or None, engine=engine, strengths=damage)
    if verbose:
        remark(f"engine {upscaler.engine}: {upscaler.why}")

    def upscale(job: VideoJob, title: str) -> VideoResult:
        with video_bar(title, hidden=as_json) as on_progress:
            return upscale_video(
                job.source,
                job.target,
                upscaler=upscaler,
                start=start,
                duration=duration,
                codec=codec,
                quality=quality,
                deinterlace=deinterlace,
                sound=not no_sound,
                threads=threads or None,
                overwrite=force,
                on_progress=on_progress,
                on_note=remark,
            )

    outcomes: list[VideoOutcome] = []
    if single is not None:
        job = VideoJob(single, _target(single, output, upscaler.factor))
        outcomes.append(VideoOutcome(job, upscale(job, "Upscaling")))
        _show(outcomes[0], as_json=as_json, verbose=verbose)
    else:
        place = None if output is None else Path(output)
        jobs, others = plan_videos(
            videos, place, factor=upscaler.factor, is_folder=is_folder_name(output)
        )
        if others:
            remark(f"{others} other files in folders are left out: their names are not of videos")
        titles = {
            id(job): f"{job.source.name} ({n} of {len(jobs)})" for n, job in enumerate(jobs, 1)
        }
        try:
            for outcome in run_videos(
                jobs, lambda job: upscale(job, titles[id(job)]), overwrite=force
            ):
                outcomes.append(outcome)
                _show(outcome, as_json=as_json, verbose=verbose)
        except KeyboardInterrupt:
            done = sum(outcome.error is None for outcome in outcomes)
            raise StoppedError(
                f"{done} of {len(jobs)} videos are done; the same command goes on with the others"
            ) from None
    _report(outcomes, as_json=as_json)


def _target(video: Path, output: str | None, factor: int) -> Path:
    """The output for a single video; a folder may be named."""
    default = default_target(video, factor)
    if output is None:
        return default
    place = Path(output)
    if not (is_folder_name(output) or place.is_dir() or not place.suffix):
        return place
    check_folder(place)
    make_folder(place)
    return place / f"{video.stem}{default.suffix}"


def _show(outcome: VideoOutcome, *, as_json: bool, verbose: bool) -> None:
    """Print how one video ended."""
    if outcome.error is not None:
        complain(outcome.error)
    if outcome.result is not None:
        for problem in outcome.result.problems:
            complain(problem)
        if verbose:
            remark(f"{outcome.job.source}: {outcome.result.selection.describe()}")
        if not as_json:
            say(outcome.result.target)
            remark(_summary(outcome.result))


def _report(outcomes: list[VideoOutcome], *, as_json: bool) -> None:
    """Print what is left to say at the end; raises typer.Exit if anything failed."""
    if as_json:
        print_json([_as_row(outcome) for outcome in outcomes])
    for words, count in Counter(each.skipped for each in outcomes if each.skipped).items():
        remark(f"{count} skipped: {words}")
    failed = [
        each.job.source
        for each in outcomes
        if each.error is not None or (each.result is not None and each.result.problems)
    ]
    if failed and len(outcomes) > 1:
        complain_of_all(f"{len(failed)} of {len(outcomes)} failed or are damaged", failed)
    if failed:
        raise typer.Exit(1)


def _as_row(outcome: VideoOutcome) -> dict[str, object]:
    result = outcome.result
    row: dict[str, object] = {"input": str(outcome.job.source), "output": str(outcome.job.target)}
    if outcome.error is not None:
        return {**row, "status": "failed", "error": str(outcome.error)}
    if result is None:
        return {**row, "status": "skipped", "reason": outcome.skipped}
    fields = dataclasses.asdict(result)
    fields.update(fields.pop("timings"))
    del fields["target"], fields["selection"]
    return {
        **row,
        "status": "done",
        **result.selection.as_row(),
        **fields,
        "frames_per_second": result.frames_per_second,
        "problems": list(result.problems),
    }


def _summary(result: VideoResult) -> str:
    timings = result.timings
    return (
        f"{result.frames} frames in {result.elapsed_s:.1f} s ({result.frames_per_second:.1f} per "
        f"second); {result.reused:.0%} of the tiles reused; in parallel: decoding "
        f"{timings.decode_s:.1f} s, network {timings.network_s:.1f} s, conversion "
        f"{timings.convert_s:.1f} s, encoding {timings.encode_s:.1f} s"
    )
