// Transparent images, as inference/raster.py upscales them: alpha with a bicubic filter, and colours
// below hardly visible pixels replaced by the visible ones around them.

const SUPPORT = 2;
const A = -0.5; // the bicubic filter of Catmull and Rom
const ENOUGH = 31; // 1/8 of 255: colours of more alpha are trusted in full

/** Whether an image {data, width, height} in RGBA has a pixel that is not opaque. */
export function hasAlpha({ data }) {
  for (let i = 3; i < data.length; i += 4) if (data[i] !== 255) return true;
  return false;
}

function cubic(x) {
  x = Math.abs(x);
  if (x < 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
  return x < SUPPORT ? (((x - 5) * x + 8) * x - 4) * A : 0;
}

/** For each output place the first input place and its weights. */
function weights(size, factor) {
  return Array.from({ length: size * factor }, (_, place) => {
    const centre = (place + 0.5) / factor;
    const first = Math.max(0, Math.trunc(centre - SUPPORT + 0.5));
    const end = Math.min(size, Math.trunc(centre + SUPPORT + 0.5));
    const taps = [];
    for (let i = first; i < end; i++) taps.push(cubic(i - centre + 0.5));
    const sum = taps.reduce((one, other) => one + other, 0);
    return [first, taps.map((tap) => tap / sum)];
  });
}

/** The alpha of an image, `factor` times as large; rounded after each direction. */
export function bicubic({ data, width, height }, factor) {
  const [wide, high] = [width * factor, height * factor];
  const across = new Uint8ClampedArray(wide * height);
  weights(width, factor).forEach(([first, taps], x) => {
    for (let y = 0; y < height; y++) {
      let sum = 0;
      for (let i = 0; i < taps.length; i++) sum += taps[i] * data[4 * (y * width + first + i) + 3];
      across[y * wide + x] = sum;
    }
  });
  const result = new Uint8ClampedArray(wide * high);
  weights(height, factor).forEach(([first, taps], y) => {
    for (let x = 0; x < wide; x++) {
      let sum = 0;
      for (let i = 0; i < taps.length; i++) sum += taps[i] * across[(first + i) * wide + x];
      result[y * wide + x] = sum;
    }
  });
  return result;
}

/** An image whose hardly visible colours are those around them. */
export function fillTransparent({ data, width, height }) {
  let most = 0;
  for (let i = 3; i < data.length; i += 4) most = Math.max(most, data[i]);
  const enough = Math.min(most, ENOUGH);
  const trust = new Float32Array(width * height);
  const colour = new Float32Array(3 * width * height);
  for (let i = 0; i < trust.length; i++) {
    trust[i] = enough ? Math.min(data[4 * i + 3] / enough, 1) ** 2 : 0;
    for (let c = 0; c < 3; c++) colour[3 * i + c] = data[4 * i + c];
  }
  fill(colour, trust, width, height);
  const filled = new Uint8ClampedArray(data.length).fill(255);
  for (let i = 0; i < trust.length; i++) {
    for (let c = 0; c < 3; c++) filled[4 * i + c] = colour[3 * i + c];
  }
  return { data: filled, width, height };
}

/** Blend colours with those around, by as much as their trust lacks of 1; halved again and again. */
function fill(colour, trust, width, height) {
  if (trust.length === 1 || trust.every((value) => value >= 1)) return;
  const [wide, high] = [Math.ceil(width / 2), Math.ceil(height / 2)];
  const means = new Float32Array(3 * wide * high);
  const sums = new Float32Array(wide * high);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [from, to] = [y * width + x, (y >> 1) * wide + (x >> 1)];
      sums[to] += trust[from];
      for (let c = 0; c < 3; c++) means[3 * to + c] += colour[3 * from + c] * trust[from];
    }
  }
  for (let i = 0; i < sums.length; i++) {
    for (let c = 0; c < 3; c++) means[3 * i + c] /= Math.max(sums[i], 1e-12);
  }
  fill(means, sums.map((sum) => Math.min(sum, 1)), wide, high);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [at, around] = [y * width + x, (y >> 1) * wide + (x >> 1)];
      for (let c = 0; c < 3; c++) {
        const there = means[3 * around + c];
        colour[3 * at + c] = there + (colour[3 * at + c] - there) * trust[at];
      }
    }
  }
}
