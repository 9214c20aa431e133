"""What colours mean where a file says so without an ICC profile.

PNG (cICP, gAMA, cHRM), HEIC and AVIF (nclx) and TIFF (PrimaryChromaticities) can. The numbers are
those of ITU-T H.273. Other primaries than sRGB's become an ICC profile (ICC.1:2022, matrix and
tone curve), which every format but GIF can hold; pixels stay as they are. Another tone curve is
replaced by that of sRGB, so that programs without colour management show the image rightly too.
HDR needs 10 bits and a cICP chunk, and stays a PNG or is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anchorsr.images.image import Pixels

Chromaticities = tuple[float, ...]  # x and y of white, red, green and blue

_D65 = (0.3127, 0.3290)
SRGB: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES: dict[int, Chromaticities] = {
    0: SRGB,  # reserved, and written for want of a better number
    1: SRGB,
    2: SRGB,  # unspecified
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
_NAMES = {9: "BT.2020", 12: "Display P3", 11: "DCI-P3"}
# The curves of BT.709, BT.601 and BT.2020 are shown by the curve of sRGB, as browsers do.
_LIKE_SRGB = {0, 1, 2, 6, 7, 11, 12, 13, 14, 15}
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
HDR = {16: "HDR (PQ)", 18: "HDR (HLG)"}
# What programs write for sRGB: 1/2.2 times 100,000, within rounding and habit.
_USUAL_GAMMA = range(43_000, 48_001)
# Bradford's cone responses, and D50, the white of profiles (ICC.1:2022, annexes E and D.1).
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D50 = np.array([0.9642, 1.0, 0.8249])


@dataclass(frozen=True)
class ColourSpace:
    """What RGB values mean.

    Attributes:
        primaries: x and y of white, red, green and blue.
        gamma: The exponent that turns a value into light; None for the curve of sRGB.
        hdr: The name of an HDR transfer function; empty if there is none.
        name: What people call it; empty if it has no name.
    """

    primaries: Chromaticities = SRGB
    gamma: float | None = None
    hdr: str = ""
    name: str = ""


def from_code_points(primaries: int, transfer: int) -> ColourSpace | None:
    """Return the colour space of H.273's numbers; None for numbers that are not handled."""
    if primaries not in _PRIMARIES or transfer not in (_LIKE_SRGB | _GAMMAS.keys() | HDR.keys()):
        return None
    return ColourSpace(
        _PRIMARIES[primaries],
        _GAMMAS.get(transfer),
        HDR.get(transfer, ""),
        _NAMES.get(primaries, ""),
    )


def from_png(chunks: bytes) -> ColourSpace | None:
    """Return the colour space of a PNG's chunks cICP, sRGB, gAMA and cHRM, as the first of them.

    None for code points that are not handled.
    """
    found: dict[bytes, bytes] = {}
    at = 0
    while at + 12 <= len(chunks):
        length, name = struct.unpack_from(">I4s", chunks, at)
        found.setdefault(name, chunks[at + 8 : at + 8 + length])
        at += 12 + length
    if b"cICP" in found:
        return from_code_points(found[b"cICP"][0], found[b"cICP"][1])
    if b"sRGB" in found:
        return ColourSpace()
    primaries: Chromaticities = SRGB
    if b"cHRM" in found:
        given = tuple(value / 100_000 for value in struct.unpack(">8I", found[b"cHRM"]))
        if _are_sound(given) and max(np.abs(np.subtract(given, SRGB))) > 0.005:
            primaries = given
    gamma = None
    if b"gAMA" in found:
        (stored,) = struct.unpack(">I", found[b"gAMA"])
        if stored and stored not in _USUAL_GAMMA:
            gamma = min(max(100_000 / stored, 0.1), 10.0)
    return ColourSpace(primaries, gamma)


def from_chromaticities(values: Chromaticities) -> ColourSpace | None:
    """Return the colour space of chromaticities, white first; None for impossible ones."""
    if not _are_sound(values):
        return None
    usual = max(np.abs(np.subtract(values, SRGB))) <= 0.005
    return ColourSpace(SRGB if usual else values)


def with_srgb_curve(pixels: Pixels, gamma: float) -> Pixels:
    """Replace a tone curve by that of sRGB.

    Args:
        pixels: uint8 or uint16, of any shape.
        gamma: The exponent that turns a value into light.
    """
    highest = np.iinfo(pixels.dtype).max
    light = (np.arange(highest + 1) / highest) ** gamma
    encoded = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    table: Pixels = np.rint(encoded * highest).astype(pixels.dtype)
    return table[pixels]


def icc_profile(primaries: Chromaticities, name: str = "") -> bytes | None:
    """Return an ICC profile of version 4 with the curve of sRGB; None for sRGB's own primaries.

    Args:
        primaries: x and y of white, red, green and blue.
        name: Its description.
    """
    if primaries == SRGB:
        return None
    white = _xyz(*primaries[:2])
    columns = np.stack([_xyz(*primaries[at : at + 2]) for at in (2, 4, 6)], axis=1)
    columns = columns * np.linalg.solve(columns, white)
    adaptation = _adaptation(white)
    columns = adaptation @ columns
    # Type 3 of parametricCurveType: g, a, b, c, d of the curve of sRGB.
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0)
    curve += _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {
        b"desc": _unicode(f"{name or 'RGB'} with the curve of sRGB"),
        b"cprt": _unicode("CC0"),
        b"wtpt": b"XYZ " + bytes(4) + _fixed(*_D50),
        b"chad": b"sf32" + bytes(4) + _fixed(*adaptation.flatten()),
    }
    for letter, column in zip("rgb", columns.T, strict=True):
        tags[f"{letter}XYZ".encode()] = b"XYZ " + bytes(4) + _fixed(*column)
    offset = 128 + 4 + 12 * (len(tags) + 3)
    entries, data = b"", b""
    for tag, content in tags.items():
        entries += tag + struct.pack(">II", offset + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    for tag in (b"rTRC", b"gTRC", b"bTRC"):
        entries += tag + struct.pack(">II", offset + len(data), len(curve))
    data += curve
    header = struct.pack(
        ">I4sI4s4s4s", offset + len(data), bytes(4), 0x04300000, b"mntr", b"RGB ", b"XYZ "
    )
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += _fixed(*_D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags) + 3) + entries + data


def _are_sound(values: Chromaticities) -> bool:
    """Return whether white lies inside a triangle that is none but in name."""
    if len(values) != 8 or any(not 0 <= value <= 1 for value in values) or 0 in values[1::2]:
        return False
    columns = np.stack([_xyz(*values[at : at + 2]) for at in (2, 4, 6)], axis=1)
    if abs(np.linalg.det(columns)) < 1e-4:
        return False
    return bool((np.linalg.solve(columns, _xyz(*values[:2])) > 0).all())


def _xyz(x: float, y: float) -> npt.NDArray[np.float64]:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _adaptation(white: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    gains = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    matrix: npt.NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD
    return matrix


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65_536) for value in values))


def _unicode(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return (
        b"mluc"
        + bytes(4)
        + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(encoded), 28)
        + encoded
    )
