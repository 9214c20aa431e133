"""Conversion between video frames and uint8 RGB, by the video's own matrix and range.

Only 8-bit video of standard range is supported. More bits, HDR, BT.2020 and transparency would be
lost silently in 8-bit RGB, so they are refused by name. Matrices, transfers and primaries have the
numbers of ITU-T H.273.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anchorsr.arrays import UInt8Array
from anchorsr.errors import VideoError
from anchorsr.video.tile_reuse import Rectangle

if TYPE_CHECKING:
    from av import VideoFormat, VideoFrame
    from av.video.codeccontext import VideoCodecContext


_UNSPECIFIED = 2
_BT709, _FCC, _BT470BG, _SMPTE170M, _SMPTE240M = 1, 4, 5, 6, 7
_MATRICES = (_BT709, _FCC, _BT470BG, _SMPTE170M, _SMPTE240M)
_LIMITED, _FULL = 1, 2

_REFUSED_MATRICES = {
    8: "YCgCo",
    9: "BT.2020",
    10: "BT.2020 (constant luminance)",
    11: "SMPTE 2085",
    12: "chromaticity-derived",
    13: "chromaticity-derived (constant luminance)",
    14: "ICtCp",
}
_REFUSED_TRANSFERS = {16: "HDR (PQ)", 18: "HDR (HLG)", 14: "BT.2020", 15: "BT.2020", 8: "linear"}
_BT2020_PRIMARIES = 9


@dataclass(frozen=True)
class Colours:
    """How the pixels of a video are coded, and the pixel format of the output.

    Attributes:
        pixel_format: yuv420p, yuv422p or yuv444p, whichever keeps the chroma resolution.
        matrix: H.273 number of the matrix.
        full: Whether the range is 0 to 255 instead of 16 to 235.
        transfer: H.273 number of the transfer function.
        primaries: H.273 number of the primaries.
        rgb: Whether the source holds RGB, which is stored as BT.709 of limited range.
    """

    pixel_format: str
    matrix: int
    full: bool
    transfer: int
    primaries: int
    rgb: bool

    @property
    def range(self) -> int:
        """FFmpeg's number of the range: 1 is limited, 2 is full."""
        return _FULL if self.full else _LIMITED


def read_colours(frame: VideoFrame, stream: VideoCodecContext) -> Colours:
    """Read how the colours of a frame are coded.

    What the frame leaves unspecified is taken from its stream, then guessed as players do: the
    matrix is BT.709 from 1280 columns or 577 rows on, BT.601 below; the range is limited.

    Args:
        frame: A decoded frame.
        stream: The codec context of its stream.

    Raises:
        VideoError: The colours are of an unsupported kind.
    """
    layout = frame.format
    _check_format(layout)
    matrix = _first(frame.colorspace, stream.colorspace)
    transfer = _first(frame.color_trc, stream.color_trc)
    primaries = _first(frame.color_primaries, stream.color_primaries)
    refused = _REFUSED_TRANSFERS.get(transfer) or _REFUSED_MATRICES.get(matrix)
    if refused is None and primaries == _BT2020_PRIMARIES:
        refused = "BT.2020"
    if refused is not None:
        raise VideoError(
            f"its colours are {refused}, which is not supported: convert it to 8-bit BT.709 first"
        )
    if layout.is_rgb or layout.has_palette:
        return Colours("yuv444p", _BT709, False, transfer, primaries, rgb=True)
    if matrix not in _MATRICES:
        large = frame.width >= 1280 or frame.height > 576
        matrix = _BT709 if large else _SMPTE170M
    full = layout.name.startswith("yuvj") or (frame.color_range or stream.color_range) == _FULL
    return Colours(_stored_as(layout), matrix, full, transfer, primaries, rgb=False)


def check_like(frame: VideoFrame, first: VideoFrame) -> None:
    """Check that a frame can follow the first one in the same video.

    Raises:
        VideoError: Its size differs, or its pixel format is not supported.
    """
    if (frame.width, frame.height) != (first.width, first.height):
        raise VideoError(
            f"the frame size changes from {first.width}x{first.height} to "
            f"{frame.width}x{frame.height}, which is not supported"
        )
    _check_format(frame.format)


class ToRgb:
    """Converts frames to contiguous uint8 RGB (H, W, 3); chroma is interpolated bilinearly."""

    def __init__(self, colours: Colours) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._colours = colours
        self._reformatter = VideoReformatter()
        self._flags = (
            Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        )

    def __call__(self, frame: VideoFrame) -> UInt8Array:
        """Convert one frame."""
        matrix = self._colours.matrix
        converted = self._reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace=None if self._colours.rgb else matrix,
            src_color_range=None if self._colours.rgb else self._colours.range,
            dst_color_range=_FULL,
            interpolation=self._flags,
            threads=1,
        )
        return np.ascontiguousarray(converted.to_ndarray(), np.uint8)


class FromRgb:
    """Converts uint8 RGB (H, W, 3) to frames, only where it differs from the previous one.

    Where chroma has half the columns or rows, the last one of an odd number is repeated once, as
    codecs need an even number.
    """

    # Chroma is a mean over a few rows and columns: a pixel affects those within _REACH. A
    # rectangle is converted with a margin, which is thrown away. Both are even.
    _REACH = 4
    _MARGIN = 8

    def __init__(self, colours: Colours, factor: int) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._colours = colours
        self._factor = factor
        self._reformatter = VideoReformatter()
        self._flags = Interpolation.BILINEAR | Interpolation.ACCURATE_RND
        self._columns, self._rows = subsampling(colours.pixel_format)
        self._last: VideoFrame | None = None

    def __call__(
        self, rgb: UInt8Array, changed: Sequence[Rectangle], chroma: Sequence[UInt8Array] = ()
    ) -> VideoFrame:
        """Convert one frame.

        Args:
            rgb: Uint8 RGB (H, W, 3), upscaled.
            changed: Where it may differ from the previous call's, in pixels before upscaling.
            chroma: The chroma planes, uint8 (rows, columns); by default those of `rgb`.

        Returns:
            A new frame, equal to a conversion of all of `rgb` and `chroma`.
        """
        odd = rgb.shape[0] % self._rows, rgb.shape[1] % self._columns
        if any(odd):
            rgb = np.pad(rgb, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
        height, width = rgb.shape[:2]
        last = self._last
        if last is None or (last.height, last.width) != (height, width):
            frame = self._convert(rgb)
        else:
            areas = [self._affected(area, height, width) for area in changed]
            if any(area == (0, 0, height, width) for area in areas):
                frame = self._convert(rgb)
            else:
                frame = _copy(last)
                for area in areas:
                    self._replace(frame, rgb, area)
        for target, plane in zip(planes(frame)[1:], chroma, strict=False):
            target[...] = plane
        self._last = frame
        return frame

    def _affected(self, area: Rectangle, height: int, width: int) -> Rectangle:
        """The part of the output that depends on a rectangle of the input, on even pixels."""
        f = self._factor
        bottom, right = area.bottom * f + self._REACH, area.right * f + self._REACH
        return Rectangle(
            max(area.top * f - self._REACH, 0) // 2 * 2,
            max(area.left * f - self._REACH, 0) // 2 * 2,
            min(bottom + bottom % 2, height),
            min(right + right % 2, width),
        )

    def _replace(self, frame: VideoFrame, rgb: UInt8Array, area: Rectangle) -> None:
        height, width = rgb.shape[:2]
        top, left = max(area.top - self._MARGIN, 0), max(area.left - self._MARGIN, 0)
        bottom = min(area.bottom + self._MARGIN, height)
        right = min(area.right + self._MARGIN, width)
        converted = self._convert(rgb[top:bottom, left:right])
        for index, (target, source) in enumerate(
            zip(planes(frame), planes(converted), strict=True)
        ):
            rows, columns = (self._rows, self._columns) if index else (1, 1)
            target[
                area.top // rows : -(-area.bottom // rows),
                area.left // columns : -(-area.right // columns),
            ] = source[
                (area.top - top) // rows : -(-(area.bottom - top) // rows),
                (area.left - left) // columns : -(-(area.right - left) // columns),
            ]

    def _convert(self, rgb: UInt8Array) -> VideoFrame:
        from av import VideoFrame

        return self._reformatter.reformat(
            VideoFrame.from_ndarray(rgb, format="rgb24"),
            format=self._colours.pixel_format,
            dst_colorspace=self._colours.matrix,
            src_color_range=_FULL,
            dst_color_range=self._colours.range,
            interpolation=self._flags,
            threads=1,
        )


def subsampling(pixel_format: str) -> tuple[int, int]:
    """Look up how many luma columns and rows there are per chroma sample."""
    return {"yuv420p": (2, 2), "yuv422p": (2, 1), "yuv444p": (1, 1)}[pixel_format]


def planes(frame: VideoFrame) -> list[UInt8Array]:
    """View the planes of an 8-bit planar frame as arrays (rows, columns) that share its memory."""
    views = []
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), np.uint8)
        views.append(rows.reshape(-1, plane.line_size)[: plane.height, : plane.width])
    return views


def _copy(frame: VideoFrame) -> VideoFrame:
    from av import VideoFrame

    copy = VideoFrame(frame.width, frame.height, frame.format.name)
    for target, source in zip(planes(copy), planes(frame), strict=True):
        target[...] = source
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    return copy


def _first(*values: int) -> int:
    """The first value that is specified; 0 is reserved, or RGB, which the format says as well."""
    return next((int(value) for value in values if value not in (0, _UNSPECIFIED)), _UNSPECIFIED)


def _check_format(layout: VideoFormat) -> None:
    bits = max(component.bits for component in layout.components)
    if bits > 8:
        raise VideoError(
            f"it has {bits} bits per channel ({layout.name}), which is not supported: convert it "
            f"to 8 bits first"
        )
    if any(component.is_alpha for component in layout.components):
        raise VideoError(
            f"it has transparency ({layout.name}), which is not supported: convert it to yuv420p "
            f"first"
        )


def _stored_as(layout: VideoFormat) -> str:
    """The planar format of at least the same chroma resolution."""
    if len(layout.components) < 3:  # grey
        return "yuv420p"
    chroma = layout.components[1]
    halved = chroma.width < layout.width, chroma.height < layout.height
    if halved == (True, True):
        return "yuv420p"
    return "yuv422p" if halved == (True, False) else "yuv444p"
