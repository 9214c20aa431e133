// A graph in the form that the kernel loads: the same bytes as engines/native/packing.py makes.
//
// Numbers that only move get no layer of their own. An addition becomes part of the convolution
// before it, and so does an anchor, which is a convolution that copies the image's channels.

const MAGIC = 0x31525341; // "ASR1"
const IMAGE = 0;
const NOTHING = -1;
const MOST_LAYERS = 64;
const MOST_CHANNELS = 256;
const MOST_FACTOR = 8;
const RELU = 1;

const round = Math.fround; // to float32, in which the multipliers are computed

/** Pack what readTflite returned: {bytes, factor, halo}, or an error that says why it cannot be. */
export function pack(graph) {
  return new Packer(graph).pack();
}

class Packer {
  constructor(graph) {
    this.graph = graph;
    this.layers = [];
    this.places = new Map([[graph.input, IMAGE]]); // from a tensor to the one that has its bytes
    this.uses = new Map();
    this.anchors = new Map(); // which wait for their addition
    this.factor = 1;
    for (const { inputs } of graph.operators) {
      for (const input of inputs) this.uses.set(input, (this.uses.get(input) ?? 0) + 1);
    }
  }

  pack() {
    for (const number of [this.graph.input, this.graph.output]) {
      const { type, shape } = this.tensor(number);
      if (type !== "uint8" || shape.at(-1) !== 3) {
        throw new Error(`the kernel takes and makes uint8 RGB, not ${type} of ${shape}`);
      }
    }
    const readers = {
      CONV_2D: (operator) => this.readConv(operator),
      ADD: (operator) => this.readAdd(operator),
      RELU: (operator) => this.readRelu(operator),
      QUANTIZE: (operator) => this.readQuantize(operator),
      DEPTH_TO_SPACE: ({ inputs, outputs, block }) => {
        this.factor = block;
        this.places.set(outputs[0], this.place(inputs[0]));
      },
    };
    for (const operator of this.graph.operators) {
      if (this.factor > 1 && operator.kind !== "QUANTIZE") {
        throw new Error("the kernel ends with depth-to-space, and this graph goes on");
      }
      if (!(operator.kind in readers)) throw new Error(`the kernel has no ${operator.kind}`);
      readers[operator.kind](operator);
    }
    return this.packed();
  }

  packed() {
    const { layers, factor } = this;
    const last = this.place(this.graph.output);
    if (layers.length < 1 || layers.length > MOST_LAYERS || last !== layers.length) {
      throw new Error(`the kernel ends with the last of 1 to ${MOST_LAYERS} layers`);
    }
    if (factor > MOST_FACTOR) {
      throw new Error(`the kernel upscales up to ${MOST_FACTOR} times, not ${factor}`);
    }
    const image = this.tensor(this.graph.input);
    const parts = [numbers([MAGIC, layers.length, factor, zeroByte(image)])];
    for (const layer of layers) {
      const { input, window, outputs, zero, zeroPoint, low, added, addedOffset, copied } = layer;
      parts.push(
        numbers([
          input, window, outputs, zero, zeroPoint, low, 255, added, addedOffset,
          copied.length ? 1 : 0,
        ]),
        layer.weights, layer.bias, floats(layer.multipliers), new Uint8Array(copied),
      );
    }
    return { bytes: joined(parts), factor, halo: haloOf(layers) };
  }

  readConv(operator) {
    const [source, weights, bias] = operator.inputs.map((number) => this.tensor(number));
    const [output] = operator.outputs;
    const target = this.tensor(output);
    const [outputs, height, width, channels] = weights.shape;
    if (!operator.plain || channels !== source.shape.at(-1) || height !== width ||
        (height !== 1 && height !== 3)) {
      throw new Error("the kernel has 3x3 and 1x1 convolutions without strides and groups");
    }
    if (outputs > MOST_CHANNELS) {
      throw new Error(`the kernel takes up to ${MOST_CHANNELS} channels, not ${outputs}`);
    }
    const count = outputs * height * width * channels;
    const whole = weights.type === "int8" && weights.data.length === count &&
      weights.scales.length === outputs && bias?.data.length === 4 * outputs;
    if (!whole || operator.fused > RELU) {
      throw new Error("the kernel computes in integers, with weights of int8 and ReLU");
    }
    const multipliers = weights.scales.map((scale) =>
      round(round(scaleOf(source) * scale) / scaleOf(target)));
    const copied = this.copiedChannels(operator, { source, weights, bias, target, multipliers });
    if (copied.length && this.uses.get(output) === 1 && this.isAdded(output)) {
      this.anchors.set(output, [operator, copied]);
      return;
    }
    const zero = zeroByte(target);
    this.layers.push({
      input: this.place(operator.inputs[0]), window: height, outputs, zero, zeroPoint: zero,
      low: operator.fused === RELU ? zero : 0, added: NOTHING, addedOffset: 0, copied: [],
      weights: weights.data, bias: bias.data, multipliers, output,
    });
    this.places.set(output, this.layers.length);
  }

  /** For each output the channel of the image that it equals; empty where one does not. */
  copiedChannels(operator, { source, weights, bias, target, multipliers }) {
    const [outputs, size, , channels] = weights.shape;
    if (size !== 1 || operator.fused || bias.data.some(Boolean)) return [];
    if (this.places.get(operator.inputs[0]) !== IMAGE || zeroByte(source) !== zeroByte(target)) {
      return [];
    }
    const signed = new Int8Array(weights.data.buffer, weights.data.byteOffset, weights.data.length);
    const copied = [];
    for (let output = 0; output < outputs; output++) {
      const row = signed.subarray(output * channels, (output + 1) * channels);
      const real = Array.from(row, (weight) => round(weight * weights.scales[output]));
      const channel = real.indexOf(1);
      if (channel < 0 || real.some((value, i) => value !== (i === channel ? 1 : 0))) return [];
      if (round(row[channel] * multipliers[output]) !== 1) return [];
      copied.push(channel);
    }
    return copied;
  }

  isAdded(number) {
    return this.graph.operators.some(({ kind, inputs }) => kind === "ADD" && inputs.includes(number));
  }

  readAdd({ inputs, outputs, fused }) {
    const scales = [...inputs, ...outputs].map((number) => scaleOf(this.tensor(number)));
    if (fused || new Set(scales).size !== 1) {
      throw new Error("the kernel adds tensors of one scale only");
    }
    const layer = this.layers.at(-1);
    for (const [one, other] of [inputs, [...inputs].reverse()]) {
      const isLast = !this.anchors.has(one) && this.places.get(one) === this.layers.length;
      if (!layer || !isLast || one === other || this.uses.get(one) !== 1) continue;
      if (layer.added !== NOTHING || layer.output !== one) continue;
      const [anchor, copied] = this.anchors.get(other) ?? [null, []];
      layer.copied = copied;
      layer.added = this.place(anchor ? anchor.inputs[0] : other);
      const summands = inputs.reduce((sum, number) => sum + zeroByte(this.tensor(number)), 0);
      layer.zero = zeroByte(this.tensor(outputs[0]));
      layer.addedOffset = layer.zero - summands;
      this.places.set(outputs[0], this.layers.length);
      return;
    }
    throw new Error("the kernel adds to the convolution that was just made, and to no other");
  }

  readRelu({ inputs, outputs }) {
    const layer = this.layers.at(-1);
    if (layer?.output !== inputs[0] || layer.added !== NOTHING || this.uses.get(inputs[0]) !== 1) {
      throw new Error("the kernel has ReLU after a convolution only");
    }
    layer.low = Math.max(layer.low, layer.zeroPoint);
    layer.output = outputs[0];
    this.places.set(outputs[0], this.layers.length);
  }

  readQuantize({ inputs, outputs }) {
    const [before, after] = [inputs[0], outputs[0]].map((number) => this.tensor(number));
    if (scaleOf(before) !== scaleOf(after) || zeroByte(before) !== zeroByte(after)) {
      throw new Error("the kernel does not change scales between convolutions");
    }
    this.places.set(outputs[0], this.place(inputs[0]));
  }

  tensor(number) {
    const tensor = this.graph.tensors[number];
    if (!tensor) throw new Error("an operator reads a tensor that is not in the file");
    return tensor;
  }

  place(number) {
    if (!this.places.has(number)) throw new Error(`the kernel has no tensor ${number}`);
    return this.places.get(number);
  }
}

function scaleOf({ scales }) {
  if (scales.length !== 1) throw new Error("the kernel computes in integers, not in float32");
  return scales[0];
}

/** The zero point as the kernel stores it: int8 lies 128 higher. */
function zeroByte(tensor) {
  return tensor.zeros[0] + (tensor.type === "int8" ? 128 : 0);
}

/** How many pixels around its own place an output pixel depends on. */
function haloOf(layers) {
  const reach = new Array(layers.length + 1).fill(0);
  for (let i = layers.length - 1; i >= 0; i--) {
    const { input, window, added } = layers[i];
    reach[input] = Math.max(reach[input], reach[i + 1] + (window - 1) / 2);
    if (added !== NOTHING) reach[added] = Math.max(reach[added], reach[i + 1]);
  }
  return reach[IMAGE];
}

function numbers(values) {
  return viewed(values, (view, at, value) => view.setInt32(at, value, true));
}

function floats(values) {
  return viewed(values, (view, at, value) => view.setFloat32(at, value, true));
}

function viewed(values, write) {
  const view = new DataView(new ArrayBuffer(4 * values.length));
  values.forEach((value, i) => write(view, 4 * i, value));
  return new Uint8Array(view.buffer);
}

/** All parts, each filled up to a multiple of four bytes. */
function joined(parts) {
  const filled = (part) => Math.ceil(part.length / 4) * 4;
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + filled(part), 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += filled(part);
  }
  return bytes;
}
