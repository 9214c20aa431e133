// Files from drops, the clipboard and inputs: folders and archives become their images.

import { TEXTS } from "./texts.mjs";
import { readZip } from "./zip.mjs";

const ARCHIVES = /\.(zip|cbz)$/i;

/** What a drop, a paste or an input holds, as {file, path}; path tells folders. */
export async function filesOf(transfer) {
  const items = [...(transfer.items ?? [])].filter(({ kind }) => kind === "file");
  const entries = items.map((item) => item.webkitGetAsEntry?.());
  if (entries.length && entries.every(Boolean)) {
    return (await Promise.all(entries.map((entry) => walk(entry)))).flat();
  }
  return [...transfer.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
}

async function walk(entry) {
  if (entry.name.startsWith(".")) return [];
  if (entry.isFile) {
    const file = await new Promise((found, failed) => entry.file(found, failed));
    return [{ file, path: entry.fullPath.replace(/^\//, "") }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a call gives up to a hundred
    const some = await new Promise((read, failed) => reader.readEntries(read, failed));
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map(walk))).flat();
}

/**
 * The images and videos among files, by the suffixes that are known, and archives unpacked:
 * {found: [{file, path}], leftOut, problems: [[name, why]]}.
 */
export async function chooseImages(files, suffixes) {
  const result = { found: [], leftOut: 0, problems: [] };
  const wanted = (name, type = "") =>
    type.startsWith("image/") || suffixes.some((suffix) => name.toLowerCase().endsWith(suffix));
  const sorted = [...files].sort((one, other) =>
    one.path.localeCompare(other.path, undefined, { numeric: true }));
  for (const { file, path } of sorted) {
    if (ARCHIVES.test(file.name)) {
      try {
        for (const entry of await readZip(file)) {
          const name = entry.path.split("/").at(-1);
          if (name.startsWith(".") || entry.path.startsWith("__MACOSX/")) continue;
          if (wanted(name)) result.found.push({ file: await entry.file(), path: entry.path });
          else result.leftOut++;
        }
      } catch {
        result.problems.push([file.name, TEXTS.problems.zip]);
      }
    } else if (wanted(file.name, file.type)) {
      result.found.push({ file, path });
    } else {
      result.leftOut++;
    }
  }
  return result;
}
