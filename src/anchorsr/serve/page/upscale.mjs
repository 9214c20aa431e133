// Makes images larger in a browser, with the .tflite files that anchorsr ships and writes. The work
// is done by workers, on all processors; no headers of the server are needed for that.

import { compileKernel } from "./kernel.mjs";
import { pack } from "./packing.mjs";
import { readTflite } from "./tflite.mjs";

// A tile's largest sides in pixels of the image, and its smallest height: what it computes around
// itself for its edges is then a small part of it.
const TILE_WIDTH = 640;
const MOST_ROWS = 256;
const LEAST_ROWS = 48;
const MOST_WORKERS = 8;
// Tiles that a worker is given at a time: it starts the next one while its last is put in place.
const AHEAD = 2;

let compiled;

/** The module, compiled once for all models. */
function kernelModule() {
  compiled ??= compileKernel(async (name) => {
    const answer = await fetch(new URL(name, import.meta.url));
    if (!answer.ok) throw new Error(`${name} is not beside upscale.mjs`);
    return answer.arrayBuffer();
  });
  compiled.catch(() => { compiled = undefined; });
  return compiled;
}

/**
 * A model from an address or from bytes (Uint8Array), ready to upscale: {factor, halo,
 * instructions, release()}. It computes in integers, exactly as everywhere else. workers: how many
 * tiles are made at a time; by default as many as there are processors.
 */
export async function load(model, { workers = navigator.hardwareConcurrency || 2 } = {}) {
  let bytes = model;
  if (!(model instanceof Uint8Array)) {
    const answer = await fetch(model);
    if (!answer.ok) throw new Error(`there is no model at ${model}`);
    bytes = new Uint8Array(await answer.arrayBuffer());
  }
  const { bytes: packed, factor, halo } = pack(readTflite(bytes));
  const start = { module: await kernelModule(), packed, factor };
  const session = new Session(factor, halo);
  try {
    await session.start(start, Math.max(1, Math.min(workers, MOST_WORKERS)));
  } catch (error) {
    session.release();
    throw error;
  }
  return session;
}

class Session {
  constructor(factor, halo) {
    Object.assign(this, { factor, halo, instructions: "", workers: [], waiting: [] });
  }

  async start(start, count) {
    for (let i = 0; i < count; i++) this.workers.push(new Caller());
    const told = await Promise.all(this.workers.map((worker) => worker.call({ start })));
    this.instructions = told[0].instructions;
  }

  /** Have a tile made by the next worker that has room; start() gives the tile once there is one. */
  async run(start) {
    const worker = this.leastBusy() ?? await new Promise((taken) => this.waiting.push(taken));
    try {
      const request = start();
      return request && (await worker.call(request, [request.tile.data.buffer])).data;
    } finally {
      this.waiting.shift()?.(worker);
    }
  }

  leastBusy() {
    const least = this.workers.reduce((one, other) => (other.calls.size < one.calls.size ? other : one));
    return least.calls.size < AHEAD ? least : undefined;
  }

  /** End the workers; the session cannot be used after that. */
  release() {
    for (const worker of this.workers) worker.end();
  }
}

/** A worker whose answers are promises. */
class Caller {
  constructor() {
    this.worker = new Worker(new URL("worker.mjs", import.meta.url), { type: "module" });
    this.calls = new Map();
    this.last = 0;
    this.worker.onmessage = ({ data: { id, error, ...answer } }) => {
      const call = this.calls.get(id);
      this.calls.delete(id);
      if (error) call.reject(new Error(error));
      else call.resolve(answer);
    };
    this.worker.onerror = (event) => this.fail(event.message || "a worker does not start");
  }

  call(request, transfer = []) {
    return new Promise((resolve, reject) => {
      this.calls.set(++this.last, { resolve, reject });
      this.worker.postMessage({ id: this.last, ...request }, transfer);
    });
  }

  fail(reason) {
    for (const { reject } of this.calls.values()) reject(new Error(reason));
    this.calls.clear();
  }

  end() {
    this.worker.terminate();
    this.fail("the model was released");
  }
}

/**
 * An image {data, width, height} in RGBA, as ImageData is, made larger; the same of the result,
 * which is opaque. Tiles leave no seam: the bytes are those of the whole image at once.
 * onTile(done, all, larger) may return a promise that is waited for; an AbortSignal ends it early;
 * halo is how many pixels around a tile are computed with it, by default as many as it depends on.
 */
export async function upscale(session, picture, { onTile = () => {}, halo = session.halo, signal } = {}) {
  const { width, height } = picture;
  const { factor } = session;
  const larger = empty(factor * width, factor * height);
  const tiles = cutUp(width, height, session.workers.length);
  let done = 0;
  let failed = false;
  const results = tiles.map(async (inner) => {
    const outer = {
      left: Math.max(inner.left - halo, 0),
      top: Math.max(inner.top - halo, 0),
      right: Math.min(inner.right + halo, width),
      bottom: Math.min(inner.bottom + halo, height),
    };
    const made = await session.run(() => {
      if (failed) return null;
      signal?.throwIfAborted();
      return { tile: cut(picture, outer), inner: moved(inner, outer) };
    });
    if (!made || failed) return;
    signal?.throwIfAborted();
    paste(made, larger, inner, factor);
    await onTile(++done, tiles.length, larger);
  });
  try {
    await Promise.all(results);
  } catch (error) {
    failed = true; // the tiles that have not begun are left out
    await Promise.allSettled(results);
    throw error;
  }
  return larger;
}

/** Tiles {left, top, right, bottom} that cover an image, at least two for each worker if it is large. */
function cutUp(width, height, workers) {
  const columns = Math.ceil(width / TILE_WIDTH);
  const across = Math.ceil(width / columns);
  const wanted = Math.ceil(height * columns / (2 * workers));
  const down = Math.min(MOST_ROWS, Math.max(LEAST_ROWS, Math.ceil(wanted)));
  const tiles = [];
  for (let top = 0; top < height; top += down) {
    for (let left = 0; left < width; left += across) {
      tiles.push({
        left, top, right: Math.min(left + across, width), bottom: Math.min(top + down, height),
      });
    }
  }
  return tiles;
}

function empty(width, height) {
  try {
    return { data: new Uint8ClampedArray(4 * width * height), width, height };
  } catch {
    throw new Error(`${width}×${height} is more than this browser can hold`);
  }
}

function moved({ left, top, right, bottom }, to) {
  return { left: left - to.left, top: top - to.top, right: right - to.left, bottom: bottom - to.top };
}

/** A copy of a part of an RGBA image. */
function cut(picture, { left, top, right, bottom }) {
  const [width, height] = [right - left, bottom - top];
  const data = new Uint8ClampedArray(4 * width * height);
  for (let y = 0; y < height; y++) {
    const from = 4 * ((top + y) * picture.width + left);
    data.set(picture.data.subarray(from, from + 4 * width), 4 * y * width);
  }
  return { data, width, height };
}

/** Write what was made of a tile into the large image. */
function paste(made, larger, inner, factor) {
  const across = 4 * factor * (inner.right - inner.left);
  const start = 4 * factor * inner.left;
  for (let y = factor * inner.top, from = 0; y < factor * inner.bottom; y++, from += across) {
    larger.data.set(made.subarray(from, from + across), 4 * y * larger.width + start);
  }
}
