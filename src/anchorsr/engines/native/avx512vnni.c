/* AVX-512 with VNNI: 6 pixels x 32 outputs in 12 registers of 16 sums.
 *
 * vpdpbusd multiplies 64 bytes by 64 weights and adds groups of four products to int32 sums. The
 * four bytes of a pixel that all lanes multiply come from memory as part of the instruction.
 */

#include "kernel.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "x86.h"

#ifndef TARGET_AVX512_VNNI /* benchmarks/kernel/emulated.h has another */
#define TARGET_AVX512_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#endif
#define TARGET TARGET_AVX512_VNNI
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { LANES = 16, BLOCKS = 2, PIXELS = 6, CACHED = 48 };

struct constants {
    __m512 multipliers;
    __m512i bias;
    __m128i copied;
    __m512i zero_point, low, high, offset;
};

INLINE struct constants constants_of(const struct layer *layer, int32_t output) {
    struct constants c;
    c.bias = _mm512_loadu_si512(layer->bias + output);
    c.multipliers = _mm512_loadu_ps(layer->multipliers + output);
    c.zero_point = _mm512_set1_epi32(layer->zero_point);
    c.low = _mm512_set1_epi32(layer->low);
    c.high = _mm512_set1_epi32(layer->high);
    c.offset = _mm512_set1_epi32(layer->added_offset);
    c.copied = _mm_setzero_si128();
    if (layer->copied) c.copied = _mm_loadu_si128((const __m128i *)(layer->copied + output));
    return c;
}

INLINE void multiply(const struct run *run, const uint8_t *const *groups, size_t x, size_t stride,
                     int blocks, __m512i sums[PIXELS][BLOCKS]) {
    const __m512i *weights = (const __m512i *)run->weights;
    for (int32_t g = 0; g < groups_of(run); g++, groups++, weights += blocks) {
        const uint8_t *bytes = *groups + x;
        for (int p = 0; p < PIXELS; p++) {
            int32_t group;
            memcpy(&group, bytes + p * stride, GROUP);
            const __m512i spread = _mm512_set1_epi32(group);
            for (int b = 0; b < blocks; b++)
                sums[p][b] = _mm512_dpbusd_epi32(sums[p][b], spread, weights[b]);
        }
    }
}

/* 16 sums of a pixel to its 16 bytes. added: the pixel that is added, or NULL. */
INLINE void finish(const struct layer *layer, const struct constants *c, __m512i sum,
                   const uint8_t *added, uint8_t *out) {
    __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), c->multipliers));
    value = _mm512_add_epi32(value, c->zero_point);
    value = _mm512_min_epi32(_mm512_max_epi32(value, c->low), c->high);
    if (added) {
        __m128i bytes;
        if (layer->copied) {
            int32_t pixel;
            memcpy(&pixel, added, GROUP);
            bytes = _mm_shuffle_epi8(_mm_set1_epi32(pixel), c->copied);
        } else {
            bytes = _mm_loadu_si128((const __m128i *)added);
        }
        value = _mm512_add_epi32(_mm512_add_epi32(value, _mm512_cvtepu8_epi32(bytes)), c->offset);
        value = _mm512_max_epi32(value, _mm512_setzero_si512());
    }
    _mm_storeu_si128((__m128i *)out, _mm512_cvtusepi32_epi8(value));
}

INLINE void make_tiles(const struct layer *layer, const struct row *row, const struct run *run,
                       const uint8_t *const *groups, int32_t from, int32_t end, int blocks) {
    struct constants c[BLOCKS];
    for (int b = 0; b < blocks; b++) c[b] = constants_of(layer, run->first_output + b * LANES);
    for (int32_t x = from; x < end; x += PIXELS) {
        __m512i sums[PIXELS][BLOCKS];
        for (int p = 0; p < PIXELS; p++)
            for (int b = 0; b < blocks; b++) sums[p][b] = c[b].bias;
        const size_t stride = (size_t)layer->input_stride;
        multiply(run, groups, (size_t)x * stride, stride, blocks, sums);
        for (int p = 0; p < PIXELS; p++) {
            for (int b = 0; b < blocks; b++) {
                const int32_t output = run->first_output + b * LANES;
                const uint8_t *added = row->added;
                if (added) added += (size_t)(x + p) * (size_t)layer->added_stride;
                if (added && !layer->copied) added += output;
                uint8_t *out = row->out + (size_t)(x + p) * (size_t)layer->stride + output;
                finish(layer, &c[b], sums[p][b], added, out);
            }
        }
    }
}

TARGET static void make_row(const struct layer *layer, const struct row *row) {
    for (int32_t x = 0; x < row->pixels; x += CACHED) {
        const int32_t end = x + CACHED < row->pixels ? x + CACHED : row->pixels;
        const uint8_t *const *groups = row->groups;
        for (const struct run *run = layer->run; run < layer->run + layer->runs; run++) {
            if (run->blocks == 2)
                make_tiles(layer, row, run, groups, x, end, 2);
            else
                make_tiles(layer, row, run, groups, x, end, 1);
            groups += groups_of(run);
        }
    }
}

static int available(void) { return x86_features() & X86_AVX512_VNNI; }

const struct instruction_set avx512vnni_set = {
    .name = "avx512vnni", .available = available, .lanes = LANES, .blocks = BLOCKS, .pixels = PIXELS,
    .order = FREE, .make_row = make_row};

#endif
