// Runs the page's modules in Node for tests/serve/test_kernel.py: for each case in the folder that
// is given, the packed model and the upscaled image on each instruction set.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [page, folder] = process.argv.slice(2);
const [{ Kernel }, { pack }, { readTflite }] = await Promise.all(
  ["kernel.mjs", "packing.mjs", "tflite.mjs"].map((name) =>
    import(pathToFileURL(path.join(page, name)))),
);
const modules = {};
for (const name of ["kernel.wasm", "kernel-relaxed.wasm"]) {
  const bytes = fs.readFileSync(path.join(page, name));
  if (WebAssembly.validate(bytes)) modules[name] = new WebAssembly.Module(bytes);
}
const told = [];
for (const { number, width, height } of JSON.parse(fs.readFileSync(path.join(folder, "cases.json")))) {
  const read = (kind) => new Uint8Array(fs.readFileSync(path.join(folder, `${number}.${kind}`)));
  const row = { number, made: [] };
  told.push(row);
  try {
    const { bytes, factor, halo } = pack(readTflite(read("tflite")));
    row.halo = halo;
    fs.writeFileSync(path.join(folder, `${number}.packed`), bytes);
    const image = { data: read("rgba"), width, height };
    const sets = [["kernel.wasm", "portable"], ["kernel.wasm", "simd128"], ["kernel-relaxed.wasm"]];
    for (const [name, set] of sets.filter(([module]) => module in modules)) {
      const kernel = new Kernel(modules[name], bytes, factor, set);
      const whole = { left: 0, top: 0, right: width, bottom: height };
      const file = `${number}.${kernel.instructions}`;
      fs.writeFileSync(path.join(folder, file), kernel.upscale(image, whole));
      row.made.push(kernel.instructions);
    }
  } catch (error) {
    row.error = error.message;
  }
}
console.log(JSON.stringify(told));
