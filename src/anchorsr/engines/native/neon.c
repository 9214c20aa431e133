/* ARM64: 4 pixels x 8 outputs, with what every core has, with dot products, or with I8MM.
 *
 * Bytes are unsigned and weights signed, which only I8MM multiplies. For the others the highest bit
 * of each byte is flipped, which takes 128 from it, and the bias holds what is then missing
 * (`centre`). A step is 8 bytes of a pixel, side by side.
 */

#include "kernel.h"

#if defined(__aarch64__)

#include <arm_neon.h>
#include <string.h>
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define DOT __attribute__((target("arch=armv8.2-a+dotprod")))
#define I8MM __attribute__((target("arch=armv8.2-a+i8mm")))

enum { LANES = 8, BLOCKS = 1, PIXELS = 4, STEP_WEIGHTS = 2 * LANES * GROUP, CENTRE = 128 };

/* Of each pixel the sums of outputs 0 to 3 and 4 to 7. */
struct tile {
    int32x4_t sums[PIXELS][2];
};

INLINE int8x8_t centred(const uint8_t *bytes) {
    return vreinterpret_s8_u8(veor_u8(vld1_u8(bytes), vdup_n_u8(CENTRE)));
}

/* Every core: smull and smlal add two products in 16 bits, which hold 2 * 128 * 127; sadalp adds
 * neighbours to sums of 32 bits. So each output has two sums, which are added at the end. */
INLINE struct tile multiply_neon(const struct run *run, const uint8_t *const *groups, size_t x,
                                 size_t stride) {
    const int8_t *weights = run->weights;
    int32x4_t halves[PIXELS][4];
    for (int p = 0; p < PIXELS; p++)
        for (int v = 0; v < 4; v++) halves[p][v] = vdupq_n_s32(0);
    for (int32_t s = 0; s < run->twos; s++, groups += 2, weights += STEP_WEIGHTS) {
        for (int p = 0; p < PIXELS; p++) {
            const int32x2_t bytes = vreinterpret_s32_s8(centred(groups[0] + x + p * stride));
            const int8x8_t one = vreinterpret_s8_s32(vdup_lane_s32(bytes, 0));
            const int8x8_t other = vreinterpret_s8_s32(vdup_lane_s32(bytes, 1));
            for (int v = 0; v < 4; v++) {
                const int16x8_t first = vmull_s8(one, vld1_s8(weights + 8 * v));
                const int16x8_t both = vmlal_s8(first, other, vld1_s8(weights + 32 + 8 * v));
                halves[p][v] = vpadalq_s16(halves[p][v], both);
            }
        }
    }
    struct tile tile;
    for (int p = 0; p < PIXELS; p++)
        for (int v = 0; v < 2; v++)
            tile.sums[p][v] = vpaddq_s32(halves[p][2 * v], halves[p][2 * v + 1]);
    return tile;
}

/* sdot multiplies four bytes of a pixel by the weights of four outputs, and adds fours. */
DOT INLINE struct tile multiply_dot(const struct run *run, const uint8_t *const *groups, size_t x,
                                    size_t stride) {
    const int8_t *weights = run->weights;
    struct tile tile;
    for (int p = 0; p < PIXELS; p++)
        for (int v = 0; v < 2; v++) tile.sums[p][v] = vdupq_n_s32(0);
    for (int32_t s = 0; s < run->twos; s++, groups += 2, weights += STEP_WEIGHTS) {
        int8x16_t factors[4];
        for (int v = 0; v < 4; v++) factors[v] = vld1q_s8(weights + 16 * v);
        for (int p = 0; p < PIXELS; p++) {
            const int8x8_t bytes = centred(groups[0] + x + p * stride);
            for (int v = 0; v < 2; v++) {
                int32x4_t *sum = &tile.sums[p][v];
                *sum = vdotq_lane_s32(*sum, factors[v], bytes, 0);
                *sum = vdotq_lane_s32(*sum, factors[2 + v], bytes, 1);
            }
        }
    }
    return tile;
}

/* usmmla multiplies 8 bytes of two pixels by the weights of two outputs: weights are woven. */
I8MM INLINE struct tile multiply_i8mm(const struct run *run, const uint8_t *const *groups, size_t x,
                                      size_t stride) {
    const int8_t *weights = run->weights;
    int32x4_t squares[PIXELS / 2][4]; /* two pixels x two outputs */
    for (int p = 0; p < PIXELS / 2; p++)
        for (int v = 0; v < 4; v++) squares[p][v] = vdupq_n_s32(0);
    for (int32_t s = 0; s < run->twos; s++, groups += 2, weights += STEP_WEIGHTS) {
        int8x16_t factors[4];
        for (int v = 0; v < 4; v++) factors[v] = vld1q_s8(weights + 16 * v);
        for (int p = 0; p < PIXELS / 2; p++) {
            const uint8_t *from = groups[0] + x + 2 * p * stride;
            const uint8x16_t bytes = vcombine_u8(vld1_u8(from), vld1_u8(from + stride));
            for (int v = 0; v < 4; v++)
                squares[p][v] = vusmmlaq_s32(squares[p][v], bytes, factors[v]);
        }
    }
    struct tile tile;
    for (int p = 0; p < PIXELS / 2; p++) {
        for (int v = 0; v < 2; v++) {
            const int32x4_t one = squares[p][2 * v], other = squares[p][2 * v + 1];
            tile.sums[2 * p][v] = vcombine_s32(vget_low_s32(one), vget_low_s32(other));
            tile.sums[2 * p + 1][v] = vcombine_s32(vget_high_s32(one), vget_high_s32(other));
        }
    }
    return tile;
}

INLINE int16x4_t scaled(int32x4_t sum, const int32_t *bias, const float *multipliers) {
    const float32x4_t value = vcvtq_f32_s32(vaddq_s32(sum, vld1q_s32(bias)));
    return vqmovn_s32(vcvtnq_s32_f32(vmulq_f32(value, vld1q_f32(multipliers))));
}

/* The sums of a pixel to its 8 bytes. added: the pixel that is added, or NULL. */
INLINE void finish(const struct layer *layer, int32_t output, const int32x4_t sums[2],
                   const uint8_t *added, uint8_t *out) {
    const int32_t *bias = layer->bias + output;
    const float *multipliers = layer->multipliers + output;
    int16x8_t value = vcombine_s16(scaled(sums[0], bias, multipliers),
                                   scaled(sums[1], bias + 4, multipliers + 4));
    value = vqaddq_s16(value, vdupq_n_s16((int16_t)layer->zero_point));
    value = vmaxq_s16(value, vdupq_n_s16((int16_t)layer->low));
    value = vminq_s16(value, vdupq_n_s16((int16_t)layer->high));
    if (added) {
        uint8x8_t bytes;
        if (layer->copied) {
            uint32_t pixel;
            memcpy(&pixel, added, GROUP);
            bytes = vtbl1_u8(vreinterpret_u8_u32(vdup_n_u32(pixel)), vld1_u8(layer->copied + output));
        } else {
            bytes = vld1_u8(added + output);
        }
        value = vaddq_s16(value, vreinterpretq_s16_u16(vmovl_u8(bytes)));
        value = vaddq_s16(value, vdupq_n_s16((int16_t)layer->added_offset));
    }
    vst1_u8(out + output, vqmovun_s16(value));
}

#define MAKE_ROW(name, multiply)                                                                   \
    static void name(const struct layer *layer, const struct row *row) {                           \
        const size_t stride = (size_t)layer->input_stride;                                         \
        for (int32_t x = 0; x < row->pixels; x += PIXELS) {                                        \
            const uint8_t *const *groups = row->groups;                                            \
            for (const struct run *run = layer->run; run < layer->run + layer->runs; run++) {      \
                const struct tile tile = multiply(run, groups, (size_t)x * stride, stride);        \
                for (int p = 0; p < PIXELS; p++) {                                                 \
                    const size_t place = (size_t)(x + p);                                          \
                    const uint8_t *added = row->added;                                             \
                    if (added) added += place * (size_t)layer->added_stride;                       \
                    finish(layer, run->first_output, tile.sums[p], added,                          \
                           row->out + place * (size_t)layer->stride);                              \
                }                                                                                  \
                groups += groups_of(run);                                                          \
            }                                                                                      \
        }                                                                                          \
    }

MAKE_ROW(make_row_neon, multiply_neon)
DOT MAKE_ROW(make_row_dot, multiply_dot)
I8MM MAKE_ROW(make_row_i8mm, multiply_i8mm)

static int has_neon(void) { return 1; }

#if defined(__linux__)
static int has_dot(void) { return getauxval(AT_HWCAP) >> 20 & 1; }
static int has_i8mm(void) { return getauxval(AT_HWCAP2) >> 13 & 1; }
#elif defined(__APPLE__)
static int has(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return !sysctlbyname(name, &value, &size, NULL, 0) && value;
}
static int has_dot(void) { return has("hw.optional.arm.FEAT_DotProd"); }
static int has_i8mm(void) { return has("hw.optional.arm.FEAT_I8MM"); }
#elif defined(_WIN32)
__declspec(dllimport) int __stdcall IsProcessorFeaturePresent(unsigned long feature);
static int has_dot(void) { return IsProcessorFeaturePresent(43); }
static int has_i8mm(void) { return 0; } /* Windows does not tell */
#else
static int has_dot(void) { return 0; }
static int has_i8mm(void) { return 0; }
#endif

const struct instruction_set i8mm_set = {
    .name = "i8mm", .available = has_i8mm, .lanes = LANES, .blocks = BLOCKS, .pixels = PIXELS,
    .order = WOVEN, .make_row = make_row_i8mm};
const struct instruction_set dot_set = {
    .name = "dotprod", .available = has_dot, .lanes = LANES, .blocks = BLOCKS, .pixels = PIXELS,
    .order = ADJACENT, .centre = CENTRE, .make_row = make_row_dot};
const struct instruction_set neon_set = {
    .name = "neon", .available = has_neon, .lanes = LANES, .blocks = BLOCKS, .pixels = PIXELS,
    .order = ADJACENT, .centre = CENTRE, .make_row = make_row_neon};

#endif
