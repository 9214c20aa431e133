"""Keep a GeoTIFF in its place on the map when it is resized.

Follows OGC GeoTIFF 1.1. A pixel's place in the model is given by a scale and tie points, or by a
matrix; both are adjusted to the new pixels. The other fields are kept as they are.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

PIXEL_SCALE, TIE_POINTS, MATRIX = 0x830E, 0x8482, 0x85D8
_KEYS = 0x87AF
# Keys with their numbers and texts; GDAL's metadata and its value for pixels without data.
FIELDS = {PIXEL_SCALE, TIE_POINTS, MATRIX, _KEYS, 0x87B0, 0x87B1, 0xA480, 0xA481}
_RASTER_TYPE, _PIXEL_IS_POINT = 1025, 2
_DOUBLE = 12


@dataclass(frozen=True)
class GeoFields:
    """The fields of a GeoTIFF that place it.

    Attributes:
        order: The byte order of the values, `<` or `>`.
        fields: Type and bytes of each field.
        size: (height, width) of the image that they belong to.
    """

    order: str
    fields: dict[int, tuple[int, bytes]]
    size: tuple[int, int]


def resized_geo(geo: GeoFields, height: int, width: int) -> dict[int, tuple[int, bytes]]:
    """Return the fields for the same image in another size.

    Args:
        geo: The fields.
        height: The new height in pixels.
        width: The new width in pixels.
    """
    across, down = width / geo.size[1], height / geo.size[0]
    # Where (0, 0) is the middle of the first pixel, that middle moves.
    half = 0.5 if _is_point(geo) else 0.0
    fields = dict(geo.fields)
    if (scales := _doubles(geo, PIXEL_SCALE)) and len(scales) >= 2:
        scales[:2] = scales[0] / across, scales[1] / down
        fields[PIXEL_SCALE] = _field(geo, scales)
    if points := _doubles(geo, TIE_POINTS):
        for at in range(0, len(points) - 5, 6):
            points[at] = (points[at] + half) * across - half
            points[at + 1] = (points[at + 1] + half) * down - half
        fields[TIE_POINTS] = _field(geo, points)
    if (matrix := _doubles(geo, MATRIX)) and len(matrix) == 16:
        for row in range(0, 12, 4):
            matrix[row] /= across
            matrix[row + 1] /= down
            matrix[row + 3] += half * (
                matrix[row] - matrix[row] * across + matrix[row + 1] - matrix[row + 1] * down
            )
        fields[MATRIX] = _field(geo, matrix)
    return fields


def _is_point(geo: GeoFields) -> bool:
    data = geo.fields.get(_KEYS, (3, b""))[1]
    keys = struct.unpack(f"{geo.order}{len(data) // 2}H", data[: len(data) // 2 * 2])
    entries = (keys[at : at + 4] for at in range(4, len(keys) - 3, 4))
    return any(entry == (_RASTER_TYPE, 0, 1, _PIXEL_IS_POINT) for entry in entries)


def _doubles(geo: GeoFields, tag: int) -> list[float]:
    kind, data = geo.fields.get(tag, (_DOUBLE, b""))
    if kind != _DOUBLE:
        return []
    return list(struct.unpack(f"{geo.order}{len(data) // 8}d", data[: len(data) // 8 * 8]))


def _field(geo: GeoFields, values: list[float]) -> tuple[int, bytes]:
    return _DOUBLE, struct.pack(f"{geo.order}{len(values)}d", *values)
