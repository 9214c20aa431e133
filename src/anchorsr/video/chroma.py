"""Upscale subsampled chroma planes by Lanczos.

A network sees RGB, for which the chroma of a frame was interpolated; its output would be averaged
back to half the columns and rows. Both blur, and the network has little to add to colours. So where
a source has subsampled chroma, luma is the network's and chroma is interpolated once, plane to
plane (docs/experiments/degraded-images.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anchorsr.arrays import UInt8Array
from anchorsr.video.colour import Colours, planes, subsampling

if TYPE_CHECKING:
    from av import VideoFrame


class ChromaUpscaler:
    """Upscales the chroma planes of frames.

    Args:
        colours: How the frames are coded.
        factor: Upscaling factor.
    """

    def __init__(self, colours: Colours, factor: int) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._format = colours.pixel_format
        self._columns, self._rows = subsampling(self._format)
        self._factor = factor
        self._reformatter = VideoReformatter()
        self._flags = Interpolation.LANCZOS | Interpolation.ACCURATE_RND

    def __call__(self, frame: VideoFrame) -> list[UInt8Array]:
        """Upscale the planes of one frame.

        Returns:
            Both planes, uint8 (rows, columns) of the upscaled frame; none where the frame has no
            chroma, or chroma of full resolution.
        """
        if (self._columns, self._rows) == (1, 1) or len(frame.format.components) < 3:
            return []
        if frame.format.name != self._format and not frame.format.name.startswith("yuvj"):
            frame = self._reformatter.reformat(frame, format=self._format, threads=1)
        height = -(-frame.height * self._factor // self._rows)
        width = -(-frame.width * self._factor // self._columns)
        # Of an odd number of rows or columns, the last ones are not needed.
        return [self._upscale(plane)[:height, :width] for plane in planes(frame)[1:]]

    def _upscale(self, plane: UInt8Array) -> UInt8Array:
        from av import VideoFrame

        rows, columns = plane.shape
        upscaled = self._reformatter.reformat(
            VideoFrame.from_ndarray(np.ascontiguousarray(plane), format="gray8"),
            width=columns * self._factor,
            height=rows * self._factor,
            format="gray8",
            interpolation=self._flags,
            threads=1,
        )
        return planes(upscaled)[0]
