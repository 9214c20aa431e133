"""Files to arrays and back: PNG, JPEG and WebP, known by their content when read.

This is the picture edge. Inside it a picture is uint8 RGB (H, W, 3), upright; what a file says
besides (alpha, one channel or three, colour profile, EXIF, resolution) travels beside it in a
`Picture`, so that a larger picture can be written as its original was. Orientation follows
EXIF 2.32 (CIPA DC-008), section 4.6.4, profiles ICC.1.

Left out: pictures of more than 8 bits and animations, which are refused; TIFF; XMP, text and
other metadata, which are dropped; the further pictures in a phone's JPEG (depth and gain maps),
which are ignored.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from anchorsr.errors import DataError, OutputError, PictureError
from anchorsr.exif import sized_exif, upright_exif
from anchorsr.files import check_free, publish, reason

Pixels = npt.NDArray[np.uint8]

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
SUFFIXES = tuple(_FORMATS)
MAX_PIXELS = 100_000_000

# Pixels a side. JPEG could say 65,535, but libjpeg (JPEG_MAX_DIMENSION) stops at 65,500.
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
# One JPEG segment, of which Pillow writes one: 65,535 bytes less the two of its length.
_LONGEST_JPEG_EXIF = 65_533

# While it reads a header, Pillow warns about metadata that is ignored here. Warning filters
# belong to the process, so one thread at a time may change them.
_header_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Picture:
    """One upright picture, and what has to be known to write one like it.

    rgb is (H, W, 3) and alpha, if any, (H, W), not premultiplied. A grey picture has three
    equal channels and is written as one. exif starts with `Exif` and two zero bytes, holds no
    thumbnail and says orientation 1; the sizes in it are made true when it is written. dpi is
    (horizontal, vertical).
    """

    rgb: Pixels
    alpha: Pixels | None = None
    grey: bool = False
    icc_profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse arrays of another type or shape."""
        rgb, alpha = self.rgb, self.alpha
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
            raise PictureError(f"rgb is uint8 (H, W, 3), not {rgb.dtype} {rgb.shape}")
        if alpha is not None and (alpha.dtype != np.uint8 or alpha.shape != rgb.shape[:2]):
            raise PictureError(
                f"alpha is uint8 {rgb.shape[:2]} as its picture, not {alpha.dtype} {alpha.shape}"
            )


def read_picture(path: Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a PNG, JPEG or WebP file of 8 bits a channel, turned upright.

    Palettes become RGB, one transparent colour becomes alpha, and CMYK becomes sRGB through the
    file's own profile, which is then dropped. A damaged profile or EXIF block is ignored. Raises
    PictureError, and nothing else, for a file that is missing, damaged, of another kind, of 16
    bits, animated, or of more than `max_pixels` pixels, which is checked before they are decoded.
    """
    try:
        if path.exists() and not path.is_file():  # to open a pipe would wait for ever
            raise PictureError(f"{path} is a folder or a device; give a picture file")
        with path.open("rb") as file:
            return _read(file, path, max_pixels)
    except (OSError, ValueError) as error:
        raise PictureError(
            f"{path} cannot be opened ({reason(error)}); check its name and permissions"
        ) from error


def read_rgb(path: Path) -> Pixels:
    """Read only the colours, (H, W, 3): Pillow's own decode as RGB, turned upright."""
    return read_picture(path).rgb


def write_picture(
    path: Path, picture: Picture, *, quality: int = 92, overwrite: bool = False
) -> None:
    """Write a picture in the format of the path's suffix, whole or not at all.

    PNG is exact. JPEG has full colour resolution (4:4:4) and no alpha: what is transparent is
    laid on white. WebP has three channels, so a grey picture gets them. quality, 1 to 100, is
    for JPEG and WebP. A profile that does not fit the channels written is dropped. Raises
    OutputError for an existing file unless `overwrite`, and for whatever else prevents writing.
    """
    check_free(path, overwrite=overwrite)
    publish(encode_picture(path, picture, quality=quality), path, overwrite=overwrite)


def encode_picture(path: Path, picture: Picture, *, quality: int = 92) -> bytes:
    """The bytes of the file that `write_picture` writes. Raises OutputError as it does."""
    format_name = format_of(path)
    if not 1 <= quality <= 100:
        raise OutputError(f"quality is 1 to 100, not {quality}")
    check_size(path, *picture.rgb.shape[:2])
    try:
        return _encode(picture, format_name, quality)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written ({reason(error)})") from error


def format_of(path: Path) -> str:
    """The format that the path's suffix stands for. Raises OutputError for another suffix."""
    format_name = _FORMATS.get(path.suffix.lower())
    if format_name is None:
        raise OutputError(f"{path} has no suffix that can be written: {', '.join(SUFFIXES)}")
    return format_name


def check_size(path: Path, height: int, width: int) -> None:
    """Raise OutputError when the format of the path's suffix cannot hold so many pixels a side."""
    format_name = format_of(path)
    limit = _LONGEST_SIDE.get(format_name)
    if limit is not None and max(height, width) > limit:
        raise OutputError(
            f"{path} would have {width} x {height} pixels, more than the {limit} a side that "
            f"{format_name} can hold; write a .png file"
        )


def find_pictures(folder: Path, *, recursive: bool = False) -> list[Path]:
    """List the files in a folder whose suffix, in any case, is in `SUFFIXES`, sorted.

    Hidden files and folders are left out. Raises DataError if there is no such folder, if a
    folder cannot be listed, or if it holds no picture.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not an existing folder; give a folder of pictures")

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be listed: {reason(error)}") from error

    found = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in _FORMATS and path.is_file()]
    if not found:
        raise DataError(f"{folder} holds no picture; expected files named {', '.join(SUFFIXES)}")
    return sorted(found)


def _read(file: BinaryIO, path: Path, max_pixels: int) -> Picture:
    """Decode an open file; whatever a damaged one raises becomes PictureError."""
    header = file.read(32)
    file.seek(0)
    if not header:
        raise PictureError(f"{path} is empty (0 bytes); copy or download it again")
    try:
        image = _open(file, header)
        if image is None:
            raise PictureError(f"{path} is not a PNG, JPEG or WebP picture; convert it to one")
        depth = header[24] if image.format == "PNG" else 8
        _check(image, path, depth, max_pixels)
        image.load()
        return _picture(image, depth)
    except (PictureError, MemoryError):
        raise
    except Image.DecompressionBombError:
        # The WebP plugin applies Pillow's own limit, twice MAX_IMAGE_PIXELS, as it opens.
        raise PictureError(
            f"{path} has more pixels than Pillow opens (PIL.Image.MAX_IMAGE_PIXELS); "
            f"make it smaller first"
        ) from None
    except Exception as error:  # Pillow has no one exception for a damaged file
        raise PictureError(
            f"{path} is damaged or of an unusual kind ({reason(error)}); "
            f"copy or download it again, or save it anew from another program"
        ) from error


def _open(file: BinaryIO, header: bytes) -> ImageFile.ImageFile | None:
    """Read the header of a picture by its content, or return None for a file of no known kind.

    The plugins are called directly, not through Image.open, whose limit on pixels is one for
    the whole process.
    """
    with _header_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if header.startswith(b"\x89PNG\r\n\x1a\n"):
            return PngImagePlugin.PngImageFile(file)
        if header.startswith(b"\xff\xd8\xff"):
            return JpegImagePlugin.JpegImageFile(file)
        if header.startswith(b"RIFF") and header[8:12] == b"WEBP":
            return WebPImagePlugin.WebPImageFile(file)
    return None


def _check(image: Image.Image, path: Path, depth: int, max_pixels: int) -> None:
    """Refuse, before its pixels are decoded, a picture that is not handled."""
    if image.width * image.height > max_pixels:
        raise PictureError(
            f"{path} has {image.width} x {image.height} pixels, more than the limit of "
            f"{max_pixels}; cut it into parts, or make it smaller first"
        )
    if getattr(image, "n_frames", 1) > 1:
        raise PictureError(f"{path} is an animation; extract its frames as pictures first")
    # Pillow reads a 16-bit RGB file as 8 bits without a word, so its mode does not tell.
    if depth == 16 or image.mode.startswith("I;16"):
        raise PictureError(f"{path} is a 16-bit picture; convert it to 8 bits first")
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
        raise PictureError(f"{path} holds {image.mode} pixels; convert it to 8-bit RGB first")


def _picture(image: Image.Image, depth: int) -> Picture:
    """Gather what a loaded picture holds; depth is the bits a channel has in the file."""
    # A text chunk of a PNG can take any of these names, so the type of each is checked.
    profile, exif, dpi = (image.info.get(name) for name in ("icc_profile", "exif", "dpi"))
    orientation, exif = upright_exif(exif) if isinstance(exif, bytes) else (1, None)
    profile, dpi = _checked_profile(profile), _checked_dpi(dpi)
    rgb, alpha = _colours(image, depth)
    return Picture(
        rgb=_turn(rgb, orientation),
        alpha=None if alpha is None else _turn(alpha, orientation),
        grey=image.mode in ("1", "L", "LA"),
        icc_profile=None if image.mode == "CMYK" else profile,
        exif=exif,
        dpi=dpi[::-1] if dpi is not None and orientation >= 5 else dpi,
    )


def _colours(image: Image.Image, depth: int) -> tuple[Pixels, Pixels | None]:
    """Convert a loaded picture of any handled mode to RGB and, if it has one, its alpha."""
    if image.mode == "CMYK":
        return np.array(_cmyk_to_srgb(image)), None
    transparent = image.info.get("transparency")
    if image.mode in ("LA", "RGBA") or (image.mode == "P" and transparent is not None):
        rgba = np.array(image.convert("RGBA"))
        return rgba[..., :3].copy(), rgba[..., 3].copy()
    image.info.pop("transparency", None)
    rgb = np.array(image.convert("RGB"))
    if not isinstance(transparent, int | tuple):
        return rgb, None
    # The one transparent colour of a PNG. Pillow spreads 2- and 4-bit greys to 0 … 255, but
    # leaves the transparent one as the file has it.
    step = 255 // (2**depth - 1) if image.mode == "L" else 1
    matches = (rgb == np.array(transparent) * step).all(axis=-1)
    return rgb, np.where(matches, 0, 255).astype(np.uint8)


def _cmyk_to_srgb(image: Image.Image) -> Image.Image:
    """Convert through the embedded profile, or plainly if there is none that works."""
    profile = _checked_profile(image.info.get("icc_profile"))
    if profile is not None:
        srgb = ImageCms.createProfile("sRGB")
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    """Turn stored rows and columns upright, by EXIF's orientation 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _checked_profile(profile: Any) -> bytes | None:
    """Keep what looks like a whole ICC profile by its size and signature (ICC.1, 7.2)."""
    if not isinstance(profile, bytes) or len(profile) < 128 or profile[36:40] != b"acsp":
        return None
    return profile if int.from_bytes(profile[:4], "big") <= len(profile) else None


def _checked_dpi(dpi: Any) -> tuple[float, float] | None:
    """Keep two numbers that every format can hold, nothing else."""
    if not isinstance(dpi, tuple) or len(dpi) != 2:
        return None
    horizontal, vertical = float(dpi[0]), float(dpi[1])
    return (horizontal, vertical) if all(1 <= value <= 65_535 for value in dpi) else None


def _encode(picture: Picture, format_name: str, quality: int) -> bytes:
    rgb, alpha = picture.rgb, picture.alpha
    if alpha is not None and format_name == "JPEG":
        weight = alpha[..., None].astype(np.uint16)
        # Largest value 255 * 255 + 127, so 16 bits hold it; 127 rounds to nearest.
        rgb = ((rgb * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)
        alpha = None
    image = Image.fromarray(np.ascontiguousarray(rgb))
    if picture.grey and format_name != "WEBP":
        image = image.convert("L")
    if alpha is not None:
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))

    options: dict[str, Any] = {
        # Level 1: the default takes far longer than the network, for little.
        "PNG": {"compress_level": 1},
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
    }[format_name]
    profile = picture.icc_profile
    channels = b"GRAY" if image.mode in ("L", "LA") else b"RGB "
    if profile is not None and profile[16:20] == channels:
        options["icc_profile"] = profile
    exif = sized_exif(picture.exif, *rgb.shape[:2]) if picture.exif is not None else None
    if exif is not None and not (format_name == "JPEG" and len(exif) > _LONGEST_JPEG_EXIF):
        options["exif"] = exif
    dpi = _checked_dpi(picture.dpi)
    if dpi is not None:
        options["dpi"] = dpi
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()
