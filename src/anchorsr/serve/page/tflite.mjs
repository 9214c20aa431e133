// Reads the parts of a .tflite file that an image network needs: operators, tensors and constants.
// The file is a FlatBuffer; the numbers of fields, operators and types are those of TensorFlow
// Lite's schema.

const IDENTIFIER = "TFL3";
const OPERATORS = { 0: "ADD", 3: "CONV_2D", 5: "DEPTH_TO_SPACE", 19: "RELU", 114: "QUANTIZE" };
const TYPES = { 0: "float32", 2: "int32", 3: "uint8", 9: "int8" };

/** A table of the file; its fields are read by number, and absent ones are their default. */
class Table {
  constructor(view, at) {
    this.view = view;
    this.at = at;
    this.fields = at - view.getInt32(at, true);
    this.length = view.getUint16(this.fields, true);
  }

  /** Where a field lies; 0 if it is absent. */
  place(field) {
    const entry = 4 + 2 * field;
    const offset = entry < this.length ? this.view.getUint16(this.fields + entry, true) : 0;
    return offset && this.at + offset;
  }

  byte(field, absent = 0) {
    const place = this.place(field);
    return place ? this.view.getInt8(place) : absent;
  }

  number(field, absent = 0) {
    const place = this.place(field);
    return place ? this.view.getInt32(place, true) : absent;
  }

  /** Where a vector begins, and how many entries it has. */
  vector(field) {
    const place = this.place(field);
    if (!place) return [0, 0];
    const start = place + this.view.getUint32(place, true);
    return [start + 4, this.view.getUint32(start, true)];
  }

  entries(field, size, read) {
    const [start, count] = this.vector(field);
    if (start + size * count > this.view.byteLength) throw new RangeError();
    return Array.from({ length: count }, (_, i) => read(start + size * i));
  }

  numbers(field) {
    return this.entries(field, 4, (at) => this.view.getInt32(at, true));
  }

  floats(field) {
    return this.entries(field, 4, (at) => this.view.getFloat32(at, true));
  }

  longs(field) {
    return this.entries(field, 8, (at) => Number(this.view.getBigInt64(at, true)));
  }

  table(field) {
    const place = this.place(field);
    return place ? new Table(this.view, place + this.view.getUint32(place, true)) : null;
  }

  tables(field) {
    return this.entries(field, 4, (at) => new Table(this.view, at + this.view.getUint32(at, true)));
  }
}

function readTensor(table, buffers) {
  const quantization = table.table(4);
  const [start, length] = buffers[table.number(2)].vector(0);
  if (start + length > table.view.byteLength) throw new RangeError();
  return {
    shape: table.numbers(0),
    type: TYPES[table.byte(1)] ?? "another type",
    scales: quantization?.floats(2) ?? [],
    zeros: quantization?.longs(3) ?? [],
    data: new Uint8Array(table.view.buffer, table.view.byteOffset + start, length),
  };
}

function readOperator(table, codes) {
  const code = codes[table.number(0)];
  const number = Math.max(code.byte(0), code.number(3));
  const kind = OPERATORS[number] ?? `operator number ${number}`;
  const options = table.table(4);
  const read = { kind, inputs: table.numbers(1), outputs: table.numbers(2) };
  if (kind === "CONV_2D") {
    const [padding, across, down, fused, ...dilations] = [
      options.byte(0), options.number(1), options.number(2), options.byte(3),
      options.number(4, 1), options.number(5, 1),
    ];
    read.plain = padding === 0 && [across, down, ...dilations].every((step) => step === 1);
    read.fused = fused;
  } else if (kind === "ADD") {
    read.fused = options?.byte(0) ?? 0;
  } else if (kind === "DEPTH_TO_SPACE") {
    read.block = options.number(0);
  }
  return read;
}

/**
 * The graph of a .tflite file: {tensors, operators, input, output}, in which tensors are known by
 * their number.
 */
export function readTflite(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (String.fromCharCode(...bytes.subarray(4, 8)) !== IDENTIFIER) {
    throw new Error("this is not a .tflite file: it lacks the identifier TFL3");
  }
  try {
    const model = new Table(view, view.getUint32(0, true));
    const [codes, subgraphs, buffers] = [1, 2, 4].map((field) => model.tables(field));
    const [graph] = subgraphs;
    const [[input], [output]] = [1, 2].map((field) => graph.numbers(field));
    return {
      tensors: graph.tables(0).map((table) => readTensor(table, buffers)),
      operators: graph.tables(3).map((table) => readOperator(table, codes)),
      input,
      output,
    };
  } catch {
    throw new Error("this .tflite file is damaged or cut short");
  }
}
