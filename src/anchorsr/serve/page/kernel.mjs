// The kernel as WebAssembly: src/anchorsr/engines/native, called from JavaScript.

const SOURCES = ["kernel-relaxed.wasm", "kernel.wasm"]; // the faster one first
const VERSION = 1;
const COLORS = 3;
const POINTER_BYTES = 4;
const ERRORS = {
  1: "the kernel was called with what does not belong together",
  2: "the kernel does not know these bytes as a network",
  3: "the kernel's sums of 32 bits might not hold this network's",
  4: "there is not enough memory",
};

/**
 * The compiled module: with relaxed SIMD where this browser knows it, with plain SIMD elsewhere.
 * read: gives the bytes of a file of SOURCES.
 */
export async function compileKernel(read) {
  let reason;
  for (const name of SOURCES) {
    const bytes = await read(name);
    try {
      return await WebAssembly.compile(bytes);
    } catch (error) {
      reason = error;
    }
  }
  throw new Error(`this browser cannot run the kernel, which needs WebAssembly SIMD: ${reason}`);
}

/** A packed network in an instance of the module. */
export class Kernel {
  /** instructions: the name of an instruction set, for tests; the best one by default. */
  constructor(module, packed, factor, instructions) {
    const wasi = new Proxy({}, { get: () => () => 0 });
    this.wasm = new WebAssembly.Instance(module, { wasi_snapshot_preview1: wasi }).exports;
    this.wasm._initialize();
    if (this.wasm.anchorsr_version() !== VERSION) throw new Error("the kernel is of another version");
    this.factor = factor;
    this.blocks = new Map(); // from a name to the address and size of its memory
    const set = this.choose(instructions);
    const [bytes, loaded] = [this.block("packed", packed.length), this.block("loaded", POINTER_BYTES)];
    this.bytes(bytes, packed.length).set(packed);
    check(this.wasm.anchorsr_load(bytes, packed.length, set, loaded));
    this.network = new DataView(this.wasm.memory.buffer).getUint32(loaded, true);
  }

  choose(wanted) {
    for (let set = 0; ; set++) {
      const address = this.wasm.anchorsr_set_name(set);
      if (!address) throw new Error(`the kernel has no instruction set ${wanted}`);
      const all = this.bytes(address, 64);
      const name = String.fromCharCode(...all.subarray(0, all.indexOf(0)));
      if ((!wanted || wanted === name) && this.wasm.anchorsr_available(set)) {
        this.instructions = name;
        return set;
      }
    }
  }

  /** Memory of a name, made anew where another size is asked for. */
  block(name, bytes) {
    const known = this.blocks.get(name);
    if (known?.bytes === bytes) return known.address;
    if (known) this.wasm.free(known.address);
    this.blocks.delete(name);
    const address = this.wasm.malloc(bytes);
    if (!address) throw new Error(ERRORS[4]);
    this.blocks.set(name, { address, bytes });
    return address;
  }

  bytes(address, length) {
    return new Uint8Array(this.wasm.memory.buffer, address, length);
  }

  /**
   * The part `inner` of a tile, upscaled, in RGBA and opaque. tile: {data, width, height} in RGBA;
   * inner: {left, top, right, bottom} in pixels of the tile.
   */
  upscale({ data, width, height }, inner) {
    const { factor } = this;
    const [small, large] = [COLORS * width * height, COLORS * width * height * factor * factor];
    const room = Number(this.wasm.anchorsr_workspace(this.network, width));
    const [image, upscaled, workspace] = [
      this.block("image", small), this.block("upscaled", large), this.block("workspace", room),
    ];
    const rgb = this.bytes(image, small);
    for (let from = 0, to = 0; to < small; from += 4, to += COLORS) {
      rgb[to] = data[from];
      rgb[to + 1] = data[from + 1];
      rgb[to + 2] = data[from + 2];
    }
    check(this.wasm.anchorsr_run(
      this.network, image, BigInt(small), height, width, inner.top, inner.bottom,
      upscaled, BigInt(large), workspace, BigInt(room),
    ));
    const [across, down] = [factor * (inner.right - inner.left), factor * (inner.bottom - inner.top)];
    const made = this.bytes(upscaled, large);
    const pixels = new Uint32Array(across * down); // lowest byte first, as on all systems with browsers
    for (let y = 0, to = 0; y < down; y++) {
      let from = COLORS * ((factor * inner.top + y) * factor * width + factor * inner.left);
      for (let x = 0; x < across; x++, from += COLORS) {
        pixels[to++] = made[from] | made[from + 1] << 8 | made[from + 2] << 16 | 0xff000000;
      }
    }
    return new Uint8ClampedArray(pixels.buffer);
  }
}

function check(code) {
  if (code) throw new Error(ERRORS[code]);
}
