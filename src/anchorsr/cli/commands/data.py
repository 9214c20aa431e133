"""The commands that get or make training images: div2k, synthetic, blurred and films."""

from __future__ import annotations

import contextlib
import io
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from anchorsr.cli.commands.options import Factor, Force
from anchorsr.cli.terminal import bar, byte_bar, say
from anchorsr.data.blur import write_blurred
from anchorsr.data.download import ADDRESS, DIV2K, download
from anchorsr.data.films import FILMS, write_films
from anchorsr.data.synthetic import write_synthetic
from anchorsr.errors import OutputError, unknown_choice
from anchorsr.images.io import find_images

data_app = typer.Typer(help="Get or make training images.", no_args_is_help=True)

_FOLDER = Path("data")


@data_app.command("div2k")
def div2k_command(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to unpack into.")
    ] = _FOLDER,
    only: Annotated[
        Literal["train", "valid"] | None,
        typer.Option(help="Only the training part (3.5 GB) or the validation part (0.4 GB)."),
    ] = None,
    address: Annotated[
        str, typer.Option(help="Base URL of the archives: a mirror, if the official one fails.")
    ] = ADDRESS,
) -> None:
    """Download DIV2K, which is for research only, from its official address.

    An interrupted download is resumed by the same command. Archives are verified by their SHA-256.

    Examples:

        anchorsr data div2k

        anchorsr data div2k --only valid -o ~/sets
    """
    for part, archive in DIV2K.items():
        if only in (None, part):
            with byte_bar(archive.folder) as on_progress:
                folder = download(archive, output, address=address, on_progress=on_progress)
            say(folder)


@data_app.command("drawn", hidden=True)
@data_app.command("synthetic")
def synthetic_command(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write PNG files into.")
    ] = _FOLDER / "drawn",
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many images.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other images.")] = 0,
    force: Force = False,
) -> None:
    """Draw synthetic images of text, lines and shapes, 480x480.

    Train on them beside photographs for networks that upscale screenshots and print. The same
    seed gives the same images; after an interrupt, --force draws all of them again.

    Examples:

        anchorsr data synthetic

        anchorsr data synthetic -o synthetic-test --count 10 --seed 1
    """
    with bar("Drawing", count, hidden=False) as on_image:
        write_synthetic(output, count, seed=seed, overwrite=force, on_image=on_image)
    say(output)


@data_app.command("soft", hidden=True)
@data_app.command("blurred")
def blurred_command(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of images, searched recursively.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write PNG files into.")
    ] = _FOLDER / "soft",
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other crops.")] = 0,
    force: Force = False,
) -> None:
    """Make a blurred crop of each image, up to 512x512.

    Train on them beside sharp images for networks that upscale photographs of old cameras,
    scanners and large sensors. The same seed gives the same images.

    Examples:

        anchorsr data blurred photos

        anchorsr data blurred photos more-photos -o blurred --seed 1
    """
    _check_outside(output, folders)
    images = [path for folder in folders for path in find_images(folder, recursive=True)]
    with bar("Blurring", len(images), hidden=False) as on_image:
        write_blurred(images, output, seed=seed, overwrite=force, on_image=on_image)
    say(output)


@data_app.command("films")
def films_command(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of images, searched recursively.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write the pairs into.")
    ] = _FOLDER / "films",
    factor: Factor = 3,
    codecs: Annotated[
        list[str] | None,
        typer.Option(
            "--codec",
            help=f"{', '.join(FILMS)}; by default all in turn. Repeatable.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other films.")] = 0,
    force: Force = False,
) -> None:
    """Make frames of compressed films that pan over images, with the originals as HR images.

    Name the folder in data.pairs of a recipe, for networks that upscale videos. The same seed and
    encoders give the same films.

    Examples:

        anchorsr data films photos

        anchorsr data films photos --factor 2 --codec h264 -o data/films_x2
    """
    for codec in codecs or []:
        if codec not in FILMS:
            raise typer.BadParameter(unknown_choice("codec", codec, FILMS))
    _check_outside(output, folders)
    images = [path for folder in folders for path in find_images(folder, recursive=True)]
    with bar("Filming", len(images), hidden=False) as on_image:
        write_films(
            images,
            output,
            factor,
            codecs=codecs or list(FILMS),
            seed=seed,
            overwrite=force,
            on_image=on_image,
        )
    say(output)


def make_data(folder: Path, arguments: str) -> None:
    """Make a folder of images by a command of this group.

    What an interrupted command wrote is in a folder beside it, and is written again.

    Args:
        folder: The folder to make.
        arguments: The command's arguments but for its output.

    Raises:
        click.UsageError: There is no such command or option.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    words = [*shlex.split(arguments), "--output", str(unfinished), "--force"]
    command = typer.main.get_command(data_app)
    with contextlib.redirect_stdout(io.StringIO()):  # which would name the unfinished folder
        command.main(words, prog_name="anchorsr data", standalone_mode=False)
    unfinished.rename(folder)


def _check_outside(output: Path, folders: list[Path]) -> None:
    """Raise OutputError if a second run would read the output."""
    for folder in folders:
        if output.resolve().is_relative_to(folder.resolve()):
            raise OutputError(
                f"{output} is inside {folder}, so a second run would read its own results: choose"
                " another --output"
            )
