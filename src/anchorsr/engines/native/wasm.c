/* WebAssembly: a tile of some pixels x 8 outputs, with plain or with relaxed SIMD.
 *
 * Plain SIMD multiplies numbers of 16 bits only, so bytes and weights are widened first. Relaxed
 * SIMD has a product of bytes that is left open in one point: whether a byte above 127 is unsigned,
 * as x86 processors take it, or signed, as ARM64 ones do. Either is exact here once it is known, and
 * a few products tell which one it is (`relaxed_product`): unsigned bytes are multiplied as they
 * are, and for signed ones 128 is taken away first, as in neon.c. A module with relaxed
 * instructions does not load where they are unknown, so there are two: `build_backend/wasm.py` builds both.
 *
 * Relaxed products of neighbours are added in 16 bits, as in AVX2 (avx2.c), and the groups of a
 * step are put together so that none of their sums leaves 16 bits (order.c). That also covers ARM64,
 * whose processors have one instruction for the product and the sum in 32 bits.
 */

#include "kernel.h"

#if defined(__wasm_simd128__)

#include <wasm_simd128.h>

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 4, BLOCKS = 2, OUTPUTS = LANES * BLOCKS, MOST_PIXELS = 4, CACHED = 48, CENTRE = 128 };

/* Of each pixel the sums of outputs 0 to 3 and 4 to 7. */
struct tile {
    v128_t sums[MOST_PIXELS][BLOCKS];
};

struct constants {
    v128_t bias[BLOCKS], multipliers[BLOCKS];
    v128_t zero_point, low, high, offset, copied;
};

INLINE struct constants constants_of(const struct layer *layer, int32_t output) {
    struct constants c;
    for (int b = 0; b < BLOCKS; b++) {
        c.bias[b] = wasm_v128_load(layer->bias + output + b * LANES);
        c.multipliers[b] = wasm_v128_load(layer->multipliers + output + b * LANES);
    }
    c.zero_point = wasm_i16x8_splat((int16_t)layer->zero_point);
    c.low = wasm_i16x8_splat((int16_t)layer->low);
    c.high = wasm_i16x8_splat((int16_t)layer->high);
    c.offset = wasm_i16x8_splat((int16_t)layer->added_offset);
    c.copied = layer->copied ? wasm_v128_load64_zero(layer->copied + output) : c.offset;
    return c;
}

/* Rounded half to even. No value leaves 32 bits (load.c), so a relaxed conversion is exact. */
INLINE v128_t scaled(v128_t sum, v128_t multipliers) {
    const v128_t value =
        wasm_f32x4_nearest(wasm_f32x4_mul(wasm_f32x4_convert_i32x4(sum), multipliers));
#if defined(__wasm_relaxed_simd__)
    return wasm_i32x4_relaxed_trunc_f32x4(value);
#else
    return wasm_i32x4_trunc_sat_f32x4(value);
#endif
}

/* The sums of a pixel to its 8 bytes. added: what is added to them, or NULL. */
INLINE void finish(const struct layer *layer, const struct constants *c,
                   const v128_t sums[BLOCKS], const uint8_t *added, uint8_t *out) {
    v128_t value = wasm_i16x8_narrow_i32x4(
        scaled(wasm_i32x4_add(sums[0], c->bias[0]), c->multipliers[0]),
        scaled(wasm_i32x4_add(sums[1], c->bias[1]), c->multipliers[1]));
    value = wasm_i16x8_add_sat(value, c->zero_point);
    value = wasm_i16x8_min(wasm_i16x8_max(value, c->low), c->high);
    if (added) {
        const v128_t bytes = layer->copied
                                 ? wasm_i8x16_swizzle(wasm_v128_load32_zero(added), c->copied)
                                 : wasm_v128_load64_zero(added);
        value = wasm_i16x8_add(value, wasm_u16x8_extend_low_u8x16(bytes));
        value = wasm_i16x8_add(value, c->offset);
    }
    wasm_v128_store64_lane(out, wasm_u8x16_narrow_i16x8(value, value), 0);
}

/* A row, with the given way to multiply. All runs of some pixels follow each other, whose bytes are
 * then in the first-level cache for all but the first run. */
#define MAKE_ROW(name, multiply, PIXELS)                                                           \
    static void name(const struct layer *layer, const struct row *row) {                           \
        const size_t stride = (size_t)layer->input_stride;                                         \
        for (int32_t from = 0; from < row->pixels; from += CACHED) {                               \
            const int32_t end = from + CACHED < row->pixels ? from + CACHED : row->pixels;         \
            const uint8_t *const *groups = row->groups;                                            \
            for (const struct run *run = layer->run; run < layer->run + layer->runs; run++) {      \
                const struct constants c = constants_of(layer, run->first_output);                 \
                for (int32_t x = from; x < end; x += PIXELS) {                                     \
                    const struct tile tile = multiply(run, groups, (size_t)x * stride, stride);    \
                    for (int p = 0; p < PIXELS; p++) {                                             \
                        const size_t place = (size_t)(x + p);                                      \
                        const uint8_t *added = row->added;                                         \
                        if (added) added += place * (size_t)layer->added_stride;                   \
                        if (added && !layer->copied) added += run->first_output;                   \
                        uint8_t *out = row->out + place * (size_t)layer->stride;                   \
                        finish(layer, &c, tile.sums[p], added, out + run->first_output);           \
                    }                                                                              \
                }                                                                                  \
                groups += groups_of(run);                                                          \
            }                                                                                      \
        }                                                                                          \
    }

#if defined(__wasm_relaxed_simd__)

enum { PIXELS = 4 };

/* Add to the sums what `taken` groups, of four or two, make with their weights. */
INLINE void step(const uint8_t *const *groups, const v128_t *weights, size_t x, size_t stride,
                 int taken, struct tile *tile) {
    for (int p = 0; p < PIXELS; p++) {
        v128_t products[BLOCKS];
        for (int g = 0; g < taken; g++) {
            const v128_t bytes = wasm_v128_load32_splat(groups[g] + x + p * stride);
            for (int b = 0; b < BLOCKS; b++) {
                const v128_t more =
                    wasm_i16x8_relaxed_dot_i8x16_i7x16(weights[g * BLOCKS + b], bytes);
                products[b] = g ? wasm_i16x8_add(products[b], more) : more;
            }
        }
        for (int b = 0; b < BLOCKS; b++)
            tile->sums[p][b] = wasm_i32x4_add(tile->sums[p][b],
                                              wasm_i32x4_extadd_pairwise_i16x8(products[b]));
    }
}

INLINE struct tile multiply_unsigned(const struct run *run, const uint8_t *const *groups, size_t x,
                                     size_t stride) {
    const v128_t *weights = (const v128_t *)run->weights;
    struct tile tile = {0};
    for (int32_t i = 0; i < run->fours; i++, groups += 4, weights += 4 * BLOCKS)
        step(groups, weights, x, stride, 4, &tile);
    for (int32_t i = 0; i < run->twos; i++, groups += 2, weights += 2 * BLOCKS)
        step(groups, weights, x, stride, 2, &tile);
    return tile;
}

INLINE struct tile multiply_signed(const struct run *run, const uint8_t *const *groups, size_t x,
                                   size_t stride) {
    const v128_t *weights = (const v128_t *)run->weights;
    struct tile tile = {0};
    for (int32_t g = 0; g < groups_of(run); g++, weights += BLOCKS) {
        for (int p = 0; p < PIXELS; p++) {
            const v128_t bytes = wasm_v128_xor(wasm_v128_load32_splat(groups[g] + x + p * stride),
                                               wasm_u8x16_const_splat(CENTRE));
            for (int b = 0; b < BLOCKS; b++)
                tile.sums[p][b] =
                    wasm_i32x4_relaxed_dot_i8x16_i7x16_add(weights[b], bytes, tile.sums[p][b]);
        }
    }
    return tile;
}

MAKE_ROW(make_row_unsigned, multiply_unsigned, PIXELS)
MAKE_ROW(make_row_signed, multiply_signed, PIXELS)

/* Whether both relaxed products are those of a weight and of a byte as this function sees it. */
static int relaxed_product(int32_t (*value)(uint8_t)) {
    static const volatile uint8_t bytes[] = {0, 1, 127, 128, 200, 255};
    static const volatile int8_t weights[] = {-64, -33, -1, 0, 1, 63, 64};
    for (size_t b = 0; b < sizeof bytes; b++) {
        for (size_t w = 0; w < sizeof weights; w++) {
            const int32_t product = weights[w] * value(bytes[b]);
            const v128_t many = wasm_i8x16_splat(weights[w]), all = wasm_u8x16_splat(bytes[b]);
            const v128_t two = wasm_i16x8_relaxed_dot_i8x16_i7x16(many, all);
            const v128_t four =
                wasm_i32x4_relaxed_dot_i8x16_i7x16_add(many, all, wasm_i32x4_const_splat(1));
            if (!wasm_i16x8_all_true(wasm_i16x8_eq(two, wasm_i16x8_splat((int16_t)(2 * product)))) ||
                !wasm_i32x4_all_true(wasm_i32x4_eq(four, wasm_i32x4_splat(4 * product + 1))))
                return 0;
        }
    }
    return 1;
}

static int32_t as_unsigned(uint8_t byte) { return byte; }
static int32_t as_signed(uint8_t byte) { return (int8_t)byte; }
static int takes_unsigned(void) { return relaxed_product(as_unsigned); }
static int takes_signed(void) { return relaxed_product(as_signed); }

const struct instruction_set relaxed_unsigned_set = {
    .name = "relaxed-simd", .available = takes_unsigned, .lanes = LANES, .blocks = BLOCKS,
    .pixels = PIXELS, .order = MATCHED, .make_row = make_row_unsigned};
const struct instruction_set relaxed_signed_set = {
    .name = "relaxed-simd-signed", .available = takes_signed, .lanes = LANES, .blocks = BLOCKS,
    .pixels = PIXELS, .order = MATCHED, .centre = CENTRE, .make_row = make_row_signed};

#endif

/* A lane holds two products of neighbours, so that an output has two of them until the end. */
enum { PLAIN_PIXELS = 3, HALVES = 2 * BLOCKS };

INLINE struct tile multiply_plain(const struct run *run, const uint8_t *const *groups, size_t x,
                                  size_t stride) {
    const int8_t *weights = run->weights;
    v128_t halves[PLAIN_PIXELS][HALVES] = {0};
    for (int32_t g = 0; g < groups_of(run); g++, weights += OUTPUTS * GROUP) {
        v128_t factors[HALVES];
        for (int h = 0; h < HALVES; h++) factors[h] = wasm_i16x8_load8x8(weights + 8 * h);
        for (int p = 0; p < PLAIN_PIXELS; p++) {
            const v128_t bytes =
                wasm_u16x8_extend_low_u8x16(wasm_v128_load32_splat(groups[g] + x + p * stride));
            for (int h = 0; h < HALVES; h++)
                halves[p][h] =
                    wasm_i32x4_add(halves[p][h], wasm_i32x4_dot_i16x8(bytes, factors[h]));
        }
    }
    struct tile tile;
    for (int p = 0; p < PLAIN_PIXELS; p++) {
        for (int b = 0; b < BLOCKS; b++) {
            const v128_t one = halves[p][2 * b], other = halves[p][2 * b + 1];
            tile.sums[p][b] = wasm_i32x4_add(wasm_i32x4_shuffle(one, other, 0, 2, 4, 6),
                                             wasm_i32x4_shuffle(one, other, 1, 3, 5, 7));
        }
    }
    return tile;
}

MAKE_ROW(make_row_plain, multiply_plain, PLAIN_PIXELS)

static int available(void) { return 1; }

const struct instruction_set simd128_set = {
    .name = "simd128", .available = available, .lanes = LANES, .blocks = BLOCKS,
    .pixels = PLAIN_PIXELS, .order = FREE, .make_row = make_row_plain};

#endif
