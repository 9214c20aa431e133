// Reading and writing zip archives: stored and deflated entries, up to 4 GB.

const LOCAL = 0x04034b50;
const CENTRAL = 0x02014b50;
const END = 0x06054b50;
const UTF8 = 0x0800;
const ENCRYPTED = 1;
const STORED = 0;
const DEFLATED = 8;
const MOST_BYTES = 0xffffffff;
const END_BYTES = 22;
const VERSION = 20;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ value >>> 1 : value >>> 1;
  return value;
});

export function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ crc >>> 8;
  return (crc ^ 0xffffffff) >>> 0;
}

/** The entries of a zip: {path, file()}, where file() unpacks it. Throws for what is no zip. */
export async function readZip(blob) {
  const tail = new DataView(await blob.slice(Math.max(0, blob.size - 65557)).arrayBuffer());
  let end = tail.byteLength - END_BYTES;
  while (end >= 0 && tail.getUint32(end, true) !== END) end--;
  if (end < 0) throw new Error("no zip");
  const [count, size, start] = [
    tail.getUint16(end + 10, true), tail.getUint32(end + 12, true), tail.getUint32(end + 16, true),
  ];
  const view = new DataView(await blob.slice(start, start + size).arrayBuffer());
  const entries = [];
  for (let at = 0, i = 0; i < count; i++) {
    if (view.getUint32(at, true) !== CENTRAL) throw new Error("damaged");
    const [flags, method] = [view.getUint16(at + 8, true), view.getUint16(at + 10, true)];
    const [packed, whole] = [view.getUint32(at + 20, true), view.getUint32(at + 24, true)];
    const [named, extra, comment] = [28, 30, 32].map((field) => view.getUint16(at + field, true));
    const place = view.getUint32(at + 42, true);
    const name = new Uint8Array(view.buffer, at + 46, named);
    const path = new TextDecoder(flags & UTF8 ? "utf-8" : "windows-1252").decode(name);
    at += 46 + named + extra + comment;
    if (path.endsWith("/") || flags & ENCRYPTED) continue;
    if (method !== STORED && method !== DEFLATED) continue;
    entries.push({ path, file: () => unpack(blob, { path, method, packed, whole, place }) });
  }
  return entries;
}

async function unpack(blob, { path, method, packed, whole, place }) {
  const head = new DataView(await blob.slice(place, place + 30).arrayBuffer());
  if (head.getUint32(0, true) !== LOCAL) throw new Error("damaged");
  const start = place + 30 + head.getUint16(26, true) + head.getUint16(28, true);
  const data = blob.slice(start, start + packed);
  const name = path.split("/").at(-1);
  if (method === STORED) return new File([data], name);
  // What unpacks to more than it says, as a zip bomb does, is cut off.
  let left = whole;
  const limited = data.stream().pipeThrough(new DecompressionStream("deflate-raw")).pipeThrough(
    new TransformStream({
      transform(piece, controller) {
        left -= piece.length;
        if (left < 0) controller.error(new Error("damaged"));
        else controller.enqueue(piece);
      },
    }),
  );
  return new File([await new Response(limited).blob()], name);
}

/** A zip of files {name, blob}; entries are stored, since images are compressed already. */
export async function writeZip(files) {
  const parts = [];
  const central = [];
  let at = 0;
  for (const { name, blob } of files) {
    const bytes = new Uint8Array(await blob.arrayBuffer());
    const encoded = new TextEncoder().encode(name);
    const common = [
      [VERSION, 2], [UTF8, 2], [STORED, 2], ...dosTime(new Date()), [crc32(bytes), 4],
      [bytes.length, 4], [bytes.length, 4], [encoded.length, 2], [0, 2],
    ];
    const head = fields([[LOCAL, 4], ...common]);
    central.push(
      fields([[CENTRAL, 4], [VERSION, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [at, 4]]),
      encoded,
    );
    parts.push(head, encoded, blob);
    at += head.length + encoded.length + bytes.length;
    if (at > MOST_BYTES) throw new RangeError("too large");
  }
  const size = central.reduce((sum, part) => sum + part.length, 0);
  const count = files.length;
  const end = [[END, 4], [0, 2], [0, 2], [count, 2], [count, 2], [size, 4], [at, 4], [0, 2]];
  return new Blob([...parts, ...central, fields(end)], { type: "application/zip" });
}

function fields(values) {
  const view = new DataView(new ArrayBuffer(values.reduce((sum, [, size]) => sum + size, 0)));
  let at = 0;
  for (const [value, size] of values) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return new Uint8Array(view.buffer);
}

function dosTime(date) {
  return [
    [date.getHours() << 11 | date.getMinutes() << 5 | date.getSeconds() >> 1, 2],
    [Math.max(0, date.getFullYear() - 1980) << 9 | date.getMonth() + 1 << 5 | date.getDate(), 2],
  ];
}
