// A worker of upscale.mjs: it holds one network, and upscales one tile after another.

import { Kernel } from "./kernel.mjs";

let kernel;

self.onmessage = ({ data: { id, start, tile, inner } }) => {
  try {
    if (start) {
      kernel = new Kernel(start.module, start.packed, start.factor);
      self.postMessage({ id, instructions: kernel.instructions });
    } else {
      const data = kernel.upscale(tile, inner);
      self.postMessage({ id, data }, [data.buffer]);
    }
  } catch (error) {
    const text = error instanceof RangeError ? "there is not enough memory" : error.message;
    self.postMessage({ id, error: text });
  }
};
