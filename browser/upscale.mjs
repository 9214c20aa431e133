// Makes pictures larger in a browser, with the .onnx files that `anchorsr export` writes.

import * as ort from "onnxruntime-web";

// Input pixels a side of what is taken from the network at once.
const TILE = 192;
// How far around it an output pixel can see: (receptive field - 1) / 2 of the largest shipped model.
const HALO = 8;

/** A model from an address or from bytes. It computes on the processor, in integers. */
export function load(model) {
  return ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
}

/**
 * A picture {data, width, height} in RGBA, as ImageData is, made larger; the same of the result,
 * which is opaque. Tiles leave no seam: the bytes are those of the whole picture at once.
 * onTile(done, all, larger) may return a promise that is waited for; halo is for other models.
 */
export async function upscale(session, picture, { onTile = () => {}, halo = HALO } = {}) {
  const { width, height } = picture;
  const all = Math.ceil(width / TILE) * Math.ceil(height / TILE);
  let done = 0;
  let larger;
  for (let top = 0; top < height; top += TILE) {
    for (let left = 0; left < width; left += TILE) {
      const inner = { left, top, right: Math.min(left + TILE, width), bottom: Math.min(top + TILE, height) };
      const outer = {
        left: Math.max(left - halo, 0),
        top: Math.max(top - halo, 0),
        right: Math.min(inner.right + halo, width),
        bottom: Math.min(inner.bottom + halo, height),
      };
      const { upscaled } = await session.run({ images: cut(picture, outer) });
      const factor = upscaled.dims[3] / (outer.right - outer.left);
      larger ??= white(factor * width, factor * height);
      paste(upscaled, outer, larger, inner, factor);
      upscaled.dispose();
      await onTile(++done, all, larger);
    }
  }
  return larger;
}

function white(width, height) {
  try {
    return { data: new Uint8ClampedArray(4 * width * height).fill(255), width, height };
  } catch {
    throw new Error(`${width}×${height} is more than this browser can hold`);
  }
}

/** The red, green and blue planes of a part of an RGBA picture, (1, 3, height, width). */
function cut(picture, { left, top, right, bottom }) {
  const width = right - left;
  const plane = width * (bottom - top);
  const planes = new Uint8Array(3 * plane);
  for (let y = top, to = 0; y < bottom; y++) {
    for (let from = 4 * (y * picture.width + left), x = 0; x < width; x++, to++, from += 4) {
      for (let c = 0; c < 3; c++) planes[c * plane + to] = picture.data[from + c];
    }
  }
  return new ort.Tensor("uint8", planes, [1, 3, bottom - top, width]);
}

/** Write the part `inner` of what the network made of `outer` into the large picture. */
function paste(upscaled, outer, larger, inner, factor) {
  const [, , height, width] = upscaled.dims;
  const planes = upscaled.data;
  const count = factor * (inner.right - inner.left);
  for (let y = factor * inner.top; y < factor * inner.bottom; y++) {
    let from = (y - factor * outer.top) * width + factor * (inner.left - outer.left);
    let to = 4 * (y * larger.width + factor * inner.left);
    for (let x = 0; x < count; x++, from++, to += 4) {
      for (let c = 0; c < 3; c++) larger.data[to + c] = planes[c * height * width + from];
    }
  }
}
