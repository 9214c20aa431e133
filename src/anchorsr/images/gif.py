"""Write GIF frame by frame, with a palette for each frame.

Follows GIF89a. Pillow chooses the palette and compresses the pixels of a frame; its own animation
writer keeps all frames in memory. A pixel that keeps its colour from one frame to the next is not
drawn again, so it cannot flicker between two palettes.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from anchorsr.arrays import UInt8Array
from anchorsr.images.png import changed_box

Mask = npt.NDArray[np.bool_]
_CLEAR = 255  # the palette's last entry, which is transparent
_CODE = np.array([1, 1 << 8, 1 << 16], np.int32)  # a colour as one number
# The labels of extensions.
_PLAIN_TEXT, _COMMENT, _APPLICATION = b"\x01", b"\xfe", b"\xff"
_LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
_EXTENSIONS = {b"XMP DataXMP": "XMP", b"ICCRGBG1012": "colour profile"}
_LONGEST_COMMENT = 1 << 20
_KEEP, _RESTORE = 1, 2  # disposal methods: do not dispose, restore to background


def encode_gif(
    frames: Iterable[tuple[UInt8Array, UInt8Array | None, float]],
    plays: int | None,
    comment: bytes | None = None,
) -> bytes:
    """Encode a GIF. A pixel is drawn if its alpha is at least 128.

    Durations are rounded to hundredths of a second; the rounding error is carried to the next
    frame.

    Args:
        frames: uint8 RGB (H, W, 3) of one size, alpha (H, W) or None, and milliseconds.
        plays: How often it runs, 0 for ever; None for a still image.
        comment: A comment to store.
    """
    parts: list[bytes] = []
    drawn: Mask | None = None  # where a viewer's canvas is not transparent
    shown: UInt8Array | None = None
    elapsed = 0.0
    for (rgb, opaque, milliseconds), following in _with_next(frames):
        height, width = opaque.shape
        if drawn is None or shown is None:
            parts.append(b"GIF89a" + struct.pack("<HHBBB", width, height, 0x70, 0, 0))
            if plays is not None and plays != 1:
                repeats = struct.pack("<H", min(max(plays - 1, 0), 65_535))
                parts.append(b"!\xff\x0bNETSCAPE2.0\x03\x01" + repeats + b"\0")
            if comment is not None:
                blocks = (comment[at : at + 255] for at in range(0, len(comment), 255))
                stored = b"".join(bytes([len(block)]) + block for block in blocks)
                parts.append(b"!" + _COMMENT + stored + b"\0")
            drawn, changed = np.zeros_like(opaque), opaque
        else:
            changed = opaque & (~drawn | (rgb != shown).any(axis=2))
        emptied = opaque & ~following if following is not None else np.zeros_like(opaque)
        top, left, bottom, right = box = changed_box(changed | emptied)
        place = np.s_[top:bottom, left:right]
        finish = _RESTORE if emptied.any() else _KEEP
        ticks = round((elapsed + milliseconds) / 10) - round(elapsed / 10)
        elapsed += milliseconds
        parts += _frame(rgb[place], changed[place], box, min(ticks, 65_535), finish)
        drawn, shown = opaque, rgb
        if finish == _RESTORE:
            drawn = opaque.copy()
            drawn[place] = False
    return b"".join([*parts, b";"])


@dataclass(frozen=True)
class GifBlocks:
    """What the blocks of a GIF say.

    Attributes:
        frames: The number of frames.
        comment: The comments, joined by line breaks.
        missing: The bytes that its end lacks, if no pixel is missing.
        end: Where it ends in the file.
        others: Names of extensions that are not read.
    """

    frames: int
    comment: bytes | None
    missing: bytes
    end: int
    others: tuple[str, ...]


def read_blocks(file: BinaryIO) -> GifBlocks:
    """Read the blocks of a GIF, without decoding pixels.

    Args:
        file: The open file.

    Raises:
        ValueError: If the file ends within a frame: Pillow ignores frames that are cut off.
    """
    file.seek(10)
    flags = file.read(3)[0]
    file.seek(13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0))
    frames, comments, others = 0, list[bytes](), list[str]()
    missing, loops = b"", False
    while (kind := file.read(1)) != b";":
        if not kind:
            missing = b";"
            break
        label = b""
        if kind == b",":
            flags = file.read(9)[8]
            file.seek((3 << ((flags & 7) + 1) if flags & 0x80 else 0) + 1, io.SEEK_CUR)
            frames += 1
        elif kind == b"!":
            label = file.read(1)
        elif kind != b"\0":  # some writers add extra block terminators
            raise ValueError("cut off, or unknown blocks")
        if kind == b"\0":
            continue
        data, complete = _sub_blocks(file, keep=label in (_COMMENT, _APPLICATION))
        loops |= data.startswith(_LOOPS[0])
        if not complete:
            missing = b"\0;"
            break
        if label == _COMMENT:
            comments.append(data)
        elif label == _PLAIN_TEXT:
            others.append("plain text")
        elif label == _APPLICATION and not data.startswith(_LOOPS):
            name = data[:11]
            others.append(_EXTENSIONS.get(name, name.decode("latin-1").strip()))
    if missing and frames < 1 + loops:  # an animation of one frame has lost the others
        raise ValueError("cut off")
    return GifBlocks(frames, b"\n".join(comments) or None, missing, file.tell(), tuple(others))


def _sub_blocks(file: BinaryIO, *, keep: bool) -> tuple[bytes, bool]:
    """Read blocks up to an empty one; return their data, if kept, and whether that one is there."""
    kept = b""
    while size := file.read(1):
        if size == b"\0":
            return kept, True
        data = file.read(size[0])
        if len(data) < size[0]:
            raise ValueError("cut off")
        if keep and len(kept) < _LONGEST_COMMENT:
            kept += data
    return kept, False


def _with_next(
    frames: Iterable[tuple[UInt8Array, UInt8Array | None, float]],
) -> Iterator[tuple[tuple[UInt8Array, Mask, float], Mask | None]]:
    """Yield each frame with its opaque pixels, and those of the next frame."""
    last: tuple[UInt8Array, Mask, float] | None = None
    for rgb, alpha, milliseconds in frames:
        opaque = np.ones(rgb.shape[:2], bool) if alpha is None else alpha >= 128
        if last is not None:
            yield last, opaque
        last = rgb, opaque, milliseconds
    if last is not None:
        yield last, None


def _frame(
    rgb: UInt8Array, wanted: Mask, box: tuple[int, int, int, int], ticks: int, finish: int
) -> list[bytes]:
    """Encode the blocks of one frame; pixels outside `wanted` keep what was drawn before."""
    top, left, bottom, right = box
    table, packed = _packed(rgb, wanted)
    control = struct.pack("<BHB", finish << 2 | 1, ticks, _CLEAR)
    place = struct.pack("<4HB", left, top, right - left, bottom - top, 0x87)  # with 256 colours
    return [b"!\xf9\x04" + control + b"\0", b"," + place, table, packed]


def _packed(rgb: UInt8Array, wanted: Mask) -> tuple[bytes, bytes]:
    """Choose a palette of 256 colours; return it, and the frame's compressed pixels."""
    indices = np.full(wanted.shape, _CLEAR, np.uint8)
    table = bytes(768)
    if wanted.any():
        exact, mixed = _chosen(rgb[wanted])
        chosen = np.concatenate((_colours(exact), mixed))
        chosen = np.concatenate((chosen, chosen[:1].repeat(256 - len(chosen), axis=0)))
        table = chosen.tobytes()
        palette = Image.new("P", (1, 1))
        palette.putpalette(table)
        dithered = Image.fromarray(np.ascontiguousarray(rgb)).quantize(
            palette=palette, dither=Image.Dither.FLOYDSTEINBERG
        )
        nearest = np.where(np.asarray(dithered) == _CLEAR, 0, np.asarray(dithered))
        # Pillow matches colours in steps of four; exact palette colours are looked up here.
        codes = rgb @ _CODE
        place = np.searchsorted(exact, codes).clip(max=max(len(exact) - 1, 0))
        same = exact[place] == codes if len(exact) else np.zeros_like(wanted)
        indices[wanted] = np.where(same, place, nearest)[wanted]
    return table, _lzw(indices)


def _chosen(colours: UInt8Array) -> tuple[npt.NDArray[np.int32], UInt8Array]:
    """Choose at most 255 colours for pixels (N, 3): sorted codes of frequent ones, and others."""
    codes = colours @ _CODE
    different, counts = np.unique(codes, return_counts=True)
    if len(different) <= _CLEAR:
        return different, np.empty((0, 3), np.uint8)
    exact = different[counts * _CLEAR > len(colours)]  # fewer than 255
    rest = colours[~np.isin(codes, exact)]
    mixture = Image.fromarray(rest[None]).quantize(_CLEAR - len(exact), Image.Quantize.MEDIANCUT)
    mixed = np.array(mixture.getpalette(), np.uint8).reshape(-1, 3)
    return exact, mixed[: _CLEAR - len(exact)]


def _colours(codes: npt.NDArray[np.int32]) -> UInt8Array:
    colours: UInt8Array = (codes[:, None] >> np.array([0, 8, 16]) & 255).astype(np.uint8)
    return colours


def _lzw(indices: UInt8Array) -> bytes:
    """Take the compressed pixels out of a one-frame GIF that Pillow writes."""
    image = Image.fromarray(indices).convert("L")
    buffer = io.BytesIO()
    image.save(buffer, "GIF", optimize=False, interlace=False)
    data = buffer.getvalue()
    at = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    while data[at : at + 1] == b"!":  # an extension: two bytes, then blocks up to an empty one
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    table = 3 << ((data[at + 9] & 7) + 1) if data[at + 9] & 0x80 else 0
    return data[at + 10 + table : -1]
