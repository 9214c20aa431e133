// Does the work in this browser: decodes, upscales in workers, and encodes.

import { bicubic, fillTransparent, hasAlpha } from "./alpha.mjs";
import { copyMetadata, readMetadata } from "./metadata.mjs";
import { TEXTS } from "./texts.mjs";
import { load, upscale } from "./upscale.mjs";

const TYPES = { png: "image/png", jpg: "image/jpeg", webp: "image/webp" };
const KNOWN = { "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp" };
// By EXIF's orientation: the transformation, with its shifts in widths and heights of the result.
const TURNS = {
  2: [-1, 0, 0, 1, 1, 0], 3: [-1, 0, 0, -1, 1, 1], 4: [1, 0, 0, -1, 0, 1], 5: [0, 1, 1, 0, 0, 0],
  6: [0, 1, -1, 0, 1, 0], 7: [0, -1, -1, 0, 1, 1], 8: [0, -1, 1, 0, 0, 1],
};
const MOST_SIDE = 16384;
const MOST_PIXELS = 16384 ** 2;

export class BrowserEngine {
  atOnce = 1; // the workers share one image

  constructor(config) {
    this.config = config;
    this.name = "";
  }

  /** Upscale a file: {blob, name, size, target, notes}. onProgress takes a share. */
  async upscale(file, options, { signal, onProgress }) {
    const notes = [];
    const metadata = await readMetadata(file);
    let picture = await this.#decode(file, metadata);
    const { width, height } = picture;
    const [wide, high] = targetSize(width, height, options);
    if (wide > MOST_SIDE || high > MOST_SIDE || wide * high > MOST_PIXELS) {
      throw new Error(TEXTS.problems.tooLarge(wide, high));
    }
    const passes = this.#passes(options, Math.max(wide / width, high / height));
    const transparent = hasAlpha(picture);
    const grey = isGrey(picture);
    for (const [i, factor] of passes.entries()) {
      const session = await this.#session(options.model, factor);
      signal.throwIfAborted();
      const onTile = (done, all) => onProgress((i + done / all) / passes.length);
      const alpha = transparent && bicubic(picture, factor);
      if (transparent) picture = fillTransparent(picture);
      picture = await upscale(session, picture, { signal, onTile });
      if (grey) makeGrey(picture);
      if (alpha) for (let i = 0; i < alpha.length; i++) picture.data[4 * i + 3] = alpha[i];
    }
    signal.throwIfAborted();
    let canvas = new OffscreenCanvas(picture.width, picture.height);
    canvas.getContext("2d").putImageData(new ImageData(picture.data, picture.width), 0, 0);
    if (picture.width !== wide || picture.height !== high) {
      canvas = await resized(canvas, wide, high);
      notes.push(TEXTS.notes.resized);
    }
    const given = KNOWN[file.type] ?? KNOWN[metadata.type];
    const format = options.format || given || "png";
    const encoded = await encode(canvas, format, options.quality, transparent);
    if (encoded.format !== format || (!options.format && !given)) {
      notes.push(TEXTS.notes.format(encoded.format.toUpperCase()));
    }
    const blob = await copyMetadata(encoded.blob, metadata);
    if (metadata.animated) notes.push(TEXTS.notes.animation);
    if (metadata.sixteenBits) notes.push(TEXTS.notes.bits);
    if (metadata.xmp) notes.push(TEXTS.notes.xmp);
    if (transparent) notes.push(TEXTS.notes.alpha);
    const stem = file.name.replace(/\.[^.]*$/, "");
    const name = `${stem}_${label(options)}.${encoded.format}`;
    return { blob, name, size: [width, height], target: [wide, high], notes };
  }

  /** Pixels, upright, not converted to another colour space if the profile is kept. */
  async #decode(file, { profile, orientation, stored }) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(stored, {
        colorSpaceConversion: profile ? "none" : "default", premultiplyAlpha: "none",
      });
    } catch {
      throw new Error(TEXTS.problems.unreadable);
    }
    const turned = orientation >= 5;
    const [width, height] = turned ? [bitmap.height, bitmap.width] : [bitmap.width, bitmap.height];
    try {
      const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
      const turn = TURNS[orientation];
      if (turn) context.setTransform(...turn.map((value, i) => value * [1, 1, 1, 1, width, height][i]));
      context.drawImage(bitmap, 0, 0);
      return context.getImageData(0, 0, width, height);
    } catch {
      throw new Error(TEXTS.problems.tooLarge(width, height));
    } finally {
      bitmap.close();
    }
  }

  /** The fewest factors whose product is enough, of those that the model has. */
  #passes({ model, factor }, scale) {
    const { factors } = this.config.models.find(({ name }) => name === model);
    if (factor) return [factor];
    const chosen = [];
    for (let left = scale; left > 1;) {
      const next = factors.find((each) => each >= left) ?? factors.at(-1);
      chosen.push(next);
      left /= next;
    }
    return chosen.sort();
  }

  /** One model is in memory at a time. */
  async #session(model, factor) {
    const name = `${model}_x${factor}`;
    if (this.name !== name) {
      this.session?.release();
      this.name = "";
      try {
        this.session = await load(new URL(`models/${name}.tflite`, document.baseURI));
      } catch (error) {
        throw navigator.onLine ? error : new Error(TEXTS.problems.noModel);
      }
      this.name = name;
    }
    return this.session;
  }
}

function isGrey({ data }) {
  for (let i = 0; i < data.length; i += 4) {
    if (data[i] !== data[i + 1] || data[i] !== data[i + 2]) return false;
  }
  return true;
}

/** The network may tint an image without colour: the mean of its channels has none. */
function makeGrey({ data }) {
  for (let i = 0; i < data.length; i += 4) {
    const mean = Math.floor((data[i] + data[i + 1] + data[i + 2] + 1) / 3);
    data[i] = data[i + 1] = data[i + 2] = mean;
  }
}

/** The size of the result: by a factor, or the largest that fits into a width and a height. */
export function targetSize(width, height, { factor, width: wide, height: high }) {
  if (factor) return [factor * width, factor * height];
  const scale = Math.min((wide || Infinity) / width, (high || Infinity) / height);
  return [width, height].map((side) => Math.max(1, Math.round(side * scale)));
}

function label({ factor, width, height }) {
  if (factor) return `x${factor}`;
  if (width && height) return `${width}x${height}`;
  return width ? `w${width}` : `h${height}`;
}

async function resized(canvas, width, height) {
  const bitmap = await createImageBitmap(canvas, {
    resizeWidth: width, resizeHeight: height, resizeQuality: "high",
  });
  const result = new OffscreenCanvas(width, height);
  result.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  return result;
}

/** Encode; JPEG gets white below what is transparent, and PNG stands in for what cannot be written. */
async function encode(canvas, format, quality, transparent) {
  if (format === "jpg" && transparent) {
    const context = canvas.getContext("2d");
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  const blob = await canvas.convertToBlob({ type: TYPES[format], quality: quality / 100 }).catch(() => {
    throw new Error(TEXTS.problems.tooLarge(canvas.width, canvas.height));
  });
  return { blob, format: KNOWN[blob.type] ?? "png" };
}
