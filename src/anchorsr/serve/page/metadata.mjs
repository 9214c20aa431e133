// Colour profile and EXIF of JPEG, PNG and WebP files: read from an original, written into a result.

import { crc32 } from "./zip.mjs";

const EXIF_MARK = "Exif\0\0";
const ICC_MARK = "ICC_PROFILE\0";
const XMP_MARK = "http://ns.adobe.com/xap/1.0/\0";
const MOST_SEGMENT = 65533 - 14;
const ORIENTATION = 0x0112;
const PNG_START = 8;
const WEBP_ICC = 0x20;
const WEBP_ALPHA = 0x10;
const WEBP_EXIF = 0x08;
const WEBP_ANIMATION = 0x02;

const text = (bytes) => String.fromCharCode(...bytes);
const ascii = (string) => Uint8Array.from(string, (letter) => letter.charCodeAt(0));
const begins = (bytes, mark) => text(bytes.subarray(0, mark.length)) === mark;

/**
 * What a file says beside its pixels: {type, exif, profile, xmp, animated, sixteenBits, orientation},
 * and `stored`, the file with its pixels as they are stored, which browsers would turn for some
 * formats only. What is damaged or unknown is left out.
 */
export async function readMetadata(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const found = {
    type: "", exif: null, profile: null, xmp: false, animated: false, sixteenBits: false,
    orientation: 1, stored: file,
  };
  try {
    if (bytes[0] === 0xff && bytes[1] === 0xd8) readJpeg(bytes, found);
    else if (begins(bytes, "\x89PNG")) await readPng(bytes, found);
    else if (begins(bytes, "RIFF") && text(bytes.subarray(8, 12)) === "WEBP") readWebp(bytes, found);
    else if (begins(bytes, "GIF8")) found.animated = countGifFrames(bytes) > 1;
  } catch {
    // as damaged as it is, the image may still be read
  }
  const place = found.exif && orientationOf(found.exif);
  if (place) {
    found.orientation = place.value;
    bytes[found.exif.byteOffset + place.at] = place.little ? 1 : 0;
    bytes[found.exif.byteOffset + place.at + 1] = place.little ? 0 : 1;
    found.stored = new Blob([bytes], { type: file.type });
  }
  return found;
}

/** Where the orientation stands in an EXIF block, and what it is; null if there is none. */
function orientationOf(exif) {
  try {
    const view = new DataView(exif.buffer, exif.byteOffset, exif.byteLength);
    const little = exif[0] === 0x49;
    const start = view.getUint32(4, little);
    for (let i = 0; i < view.getUint16(start, little); i++) {
      const at = start + 2 + 12 * i;
      if (view.getUint16(at, little) !== ORIENTATION) continue;
      return { at: at + 8, little, value: view.getUint16(at + 8, little) };
    }
  } catch {
    // damaged
  }
  return null;
}

/** Segments of a JPEG before its pixels: [marker, start, end], without marker and length. */
function* jpegSegments(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  for (let at = 2; bytes[at] === 0xff && bytes[at + 1] !== 0xda;) {
    const end = at + 2 + view.getUint16(at + 2);
    yield [bytes[at + 1], at + 4, end];
    at = end;
  }
}

function readJpeg(bytes, found) {
  found.type = "image/jpeg";
  const profile = [];
  for (const [marker, start, end] of jpegSegments(bytes)) {
    const data = bytes.subarray(start, end);
    if (marker === 0xe1 && begins(data, EXIF_MARK)) found.exif = data.subarray(EXIF_MARK.length);
    if (marker === 0xe1 && begins(data, XMP_MARK)) found.xmp = true;
    if (marker === 0xe2 && begins(data, ICC_MARK)) profile[data[12]] = data.subarray(14);
  }
  const parts = profile.filter(Boolean);
  if (parts.length) found.profile = joined(parts);
}

function* pngChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = PNG_START; at + 12 <= bytes.length;) {
    const length = view.getUint32(at);
    yield [text(bytes.subarray(at + 4, at + 8)), at, bytes.subarray(at + 8, at + 8 + length)];
    at += 12 + length;
  }
}

async function readPng(bytes, found) {
  found.type = "image/png";
  for (const [kind, , data] of pngChunks(bytes)) {
    if (kind === "IHDR") found.sixteenBits = data[8] === 16;
    if (kind === "acTL") found.animated = true;
    if (kind === "eXIf") found.exif = data;
    if (kind === "iTXt" && begins(data, "XML:com.adobe.xmp")) found.xmp = true;
    if (kind === "iCCP") {
      const stream = new Blob([data.subarray(data.indexOf(0) + 2)]).stream();
      const unpacked = stream.pipeThrough(new DecompressionStream("deflate"));
      found.profile = new Uint8Array(await new Response(unpacked).arrayBuffer());
    }
  }
}

function* riffChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 12; at + 8 <= bytes.length;) {
    const length = view.getUint32(at + 4, true);
    yield [text(bytes.subarray(at, at + 4)), bytes.subarray(at + 8, at + 8 + length)];
    at += 8 + length + length % 2;
  }
}

function readWebp(bytes, found) {
  found.type = "image/webp";
  for (const [kind, data] of riffChunks(bytes)) {
    if (kind === "VP8X") found.animated = Boolean(data[0] & WEBP_ANIMATION);
    if (kind === "ICCP") found.profile = data.slice();
    if (kind === "XMP ") found.xmp = true;
    if (kind === "EXIF") found.exif = begins(data, EXIF_MARK) ? data.subarray(6) : data;
  }
}

function countGifFrames(bytes) {
  let at = 13 + (bytes[10] & 0x80 ? 3 << (bytes[10] & 7) + 1 : 0);
  let frames = 0;
  const blocks = () => {
    while (bytes[at]) at += bytes[at] + 1;
    at++;
  };
  while (at < bytes.length && bytes[at] !== 0x3b) {
    if (bytes[at] === 0x2c) {
      frames++;
      at += 10 + (bytes[at + 9] & 0x80 ? 3 << (bytes[at + 9] & 7) + 1 : 0) + 1;
    } else {
      at += 2;
    }
    blocks();
  }
  return frames;
}

/** An encoded image with the profile and the EXIF block of an original, which is upright now. */
export async function copyMetadata(blob, { exif, profile }) {
  if (!exif && !profile) return blob;
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const write = { "image/jpeg": writeJpeg, "image/png": writePng, "image/webp": writeWebp }[blob.type];
  return new Blob(await write(bytes, exif, profile), { type: blob.type });
}

function segment(marker, ...parts) {
  const length = 2 + parts.reduce((sum, part) => sum + part.length, 0);
  return joined([Uint8Array.of(0xff, marker, length >> 8, length & 0xff), ...parts]);
}

function writeJpeg(bytes, exif, profile) {
  const parts = [bytes.subarray(0, 2)];
  let pixels = 2;
  const kept = [];
  for (const [marker, start, end] of jpegSegments(bytes)) {
    const ours = marker === 0xe2 && profile;
    if (!ours) kept.push(bytes.subarray(start - 4, end));
    pixels = end;
  }
  if (kept.length && kept[0][1] === 0xe0) parts.push(kept.shift()); // JFIF comes first
  if (exif && exif.length <= MOST_SEGMENT) parts.push(segment(0xe1, ascii(EXIF_MARK), exif));
  if (profile) {
    const count = Math.ceil(profile.length / MOST_SEGMENT);
    for (let i = 0; i < count; i++) {
      const piece = profile.subarray(i * MOST_SEGMENT, (i + 1) * MOST_SEGMENT);
      parts.push(segment(0xe2, ascii(ICC_MARK), Uint8Array.of(i + 1, count), piece));
    }
  }
  return [...parts, ...kept, bytes.subarray(pixels)];
}

function chunk(kind, data) {
  const body = joined([ascii(kind), data]);
  return joined([number(data.length), body, number(crc32(body))]);
}

async function writePng(bytes, exif, profile) {
  const parts = [bytes.subarray(0, PNG_START)];
  for (const [kind, at, data] of pngChunks(bytes)) {
    if (profile && ["iCCP", "sRGB", "gAMA", "cHRM", "cICP"].includes(kind)) continue;
    parts.push(bytes.subarray(at, at + 12 + data.length));
    if (kind !== "IHDR") continue;
    if (profile) {
      const stream = new Blob([profile]).stream().pipeThrough(new CompressionStream("deflate"));
      const packed = new Uint8Array(await new Response(stream).arrayBuffer());
      parts.push(chunk("iCCP", joined([ascii("ICC\0\0"), packed])));
    }
    if (exif) parts.push(chunk("eXIf", exif));
  }
  return parts;
}

function writeWebp(bytes, exif, profile) {
  const chunks = [...riffChunks(bytes)].filter(([kind]) => !["VP8X", "ICCP", "EXIF"].includes(kind));
  const [, old] = [...riffChunks(bytes)].find(([kind]) => kind === "VP8X") ?? [];
  const flags = (profile ? WEBP_ICC : 0) | (exif ? WEBP_EXIF : 0);
  let head;
  if (old) {
    head = old.slice();
    head[0] = old[0] & WEBP_ALPHA | flags;
  } else {
    const [[kind, data]] = chunks;
    const [width, height, alpha] = kind === "VP8L" ? losslessSize(data) : lossySize(data);
    head = Uint8Array.of(flags | (alpha ? WEBP_ALPHA : 0), 0, 0, 0, ...minusOne(width), ...minusOne(height));
  }
  const body = [riff("VP8X", head)];
  if (profile) body.push(riff("ICCP", profile));
  body.push(...chunks.map(([kind, data]) => riff(kind, data)));
  if (exif) body.push(riff("EXIF", exif));
  const size = 4 + body.reduce((sum, part) => sum + part.length, 0);
  return [ascii("RIFF"), number(size, true), ascii("WEBP"), ...body];
}

function lossySize(data) {
  return [(data[6] | data[7] << 8) & 0x3fff, (data[8] | data[9] << 8) & 0x3fff, false];
}

function losslessSize(data) {
  const bits = data[1] | data[2] << 8 | data[3] << 16 | data[4] << 24;
  return [(bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1, Boolean(bits >> 28 & 1)];
}

const minusOne = (side) => [side - 1 & 0xff, side - 1 >> 8 & 0xff, side - 1 >> 16 & 0xff];

function riff(kind, data) {
  const filling = new Uint8Array(data.length % 2);
  return joined([ascii(kind), number(data.length, true), data, filling]);
}

function number(value, little = false) {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, little);
  return bytes;
}

function joined(parts) {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
