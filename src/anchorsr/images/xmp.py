"""Adjust an XMP packet to another image: upright, of another size, without attachments.

Follows the XMP specification (ISO 16684-1) and the Exif and TIFF schemas of its part 2. Size and
orientation are updated. Thumbnails are removed, and so are references to data that only the
original file has (gain maps, motion images, further packets).
"""

from __future__ import annotations

from typing import Any
from xml.dom import minidom
from xml.parsers.expat import ExpatError

_TIFF = "http://ns.adobe.com/tiff/1.0/"
_EXIF = "http://ns.adobe.com/exif/1.0/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"

_HEIGHT = {(_TIFF, "ImageLength"), (_EXIF, "PixelYDimension")}
_WIDTH = {(_TIFF, "ImageWidth"), (_EXIF, "PixelXDimension")}

# None means every property of the schema.
_ATTACHMENTS: set[tuple[str, str | None]] = {
    ("http://ns.adobe.com/xap/1.0/", "Thumbnails"),
    ("http://ns.adobe.com/xmp/note/", "HasExtendedXMP"),
    ("http://ns.adobe.com/hdr-gain-map/1.0/", None),
    ("http://ns.google.com/photos/1.0/container/", None),
    ("http://ns.google.com/photos/1.0/camera/", "MotionPhoto"),
    ("http://ns.google.com/photos/1.0/camera/", "MicroVideo"),
    ("http://ns.google.com/photos/1.0/camera/", "MicroVideoOffset"),
}
# Before Python 3.13 `toxml` writes these characters unescaped, and a parser normalizes them. They
# have to be written as references; until then noncharacters stand in for them.
_STAND_INS = {"\t": "\ufdd0", "\n": "\ufdd1", "\r": "\ufdd2"}
# A packet this large holds images; everything else needs less than a hundredth of it.
_LONGEST = 16_000_000


def upright_xmp(xmp: bytes) -> bytes | None:
    """Set orientation 1 and remove references to the original file.

    Returns None for an unreadable packet.
    """
    return _changed(xmp, {(_TIFF, "Orientation"): "1"}, _ATTACHMENTS)


def sized_xmp(xmp: bytes, height: int, width: int) -> bytes | None:
    """Set the sizes that a packet states; return None if the packet is unreadable."""
    values = dict.fromkeys(_HEIGHT, str(height)) | dict.fromkeys(_WIDTH, str(width))
    return _changed(xmp, values, set())


def _changed(
    xmp: bytes, values: dict[tuple[str, str], str], removed: set[tuple[str, str | None]]
) -> bytes | None:
    """Set existing properties, and remove others, in all descriptions of a packet."""
    try:
        if len(xmp) > _LONGEST:
            return None
        document = minidom.parseString(xmp.rstrip(b"\0"))
        for description in document.getElementsByTagNameNS(_RDF, "Description"):
            properties: list[Any] = list((description.attributes or {}).values())
            properties += [node for node in description.childNodes if node.localName]
            for node in properties:
                key = (node.namespaceURI, node.localName)
                if key in removed or (node.namespaceURI, None) in removed:
                    _remove(description, node)
                elif key in values:
                    _set(node, values[key])
        _put_stand_ins(document)
        text = "".join(node.toxml() for node in document.childNodes)
        for character, stand_in in _STAND_INS.items():
            text = text.replace(stand_in, f"&#{ord(character)};")
        return text.encode()
    # ValueError: an unknown encoding; RecursionError: elements nested too deeply.
    except (ExpatError, ValueError, LookupError, RecursionError):
        return None


def _put_stand_ins(node: Any) -> None:
    for attribute in (node.attributes or {}).values():
        attribute.value = attribute.value.translate(str.maketrans(_STAND_INS))
    for child in node.childNodes:
        if child.nodeType == child.TEXT_NODE:
            child.data = child.data.replace("\r", _STAND_INS["\r"])
        elif child.nodeType == child.ELEMENT_NODE:
            _put_stand_ins(child)


def _remove(description: Any, node: Any) -> None:
    if node.nodeType == node.ATTRIBUTE_NODE:
        description.removeAttributeNode(node)
    else:
        description.removeChild(node)


def _set(node: Any, value: str) -> None:
    """Set the value of a simple property: an attribute, or an element with text."""
    if node.nodeType == node.ATTRIBUTE_NODE:
        node.value = value
        return
    for child in list(node.childNodes):
        node.removeChild(child)
    node.appendChild(node.ownerDocument.createTextNode(value))
