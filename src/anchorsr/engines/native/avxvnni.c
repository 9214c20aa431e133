/* AVX-VNNI: the tile of avx2.c with vpdpbusd, which multiplies 32 bytes by 32 weights and adds
 * groups of four products to int32 sums, without anything in 16 bits between. */

#include "kernel.h"

#if defined(__x86_64__) || defined(__i386__)

#include <immintrin.h>
#include <string.h>

#include "x86.h"

#ifndef TARGET_AVX_VNNI /* benchmarks/kernel/emulated.h has another */
#define TARGET_AVX_VNNI __attribute__((target("avx2,avxvnni")))
#endif
#define TARGET TARGET_AVX_VNNI
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { LANES = 8, BLOCKS = 2, PIXELS = 6 };

INLINE void multiply(const struct run *run, const uint8_t *const *groups, size_t x, size_t stride,
                     int blocks, __m256i sums[PIXELS][BLOCKS]) {
    const __m256i *weights = (const __m256i *)run->weights;
    for (int32_t g = 0; g < groups_of(run); g++, groups++, weights += blocks) {
        const uint8_t *bytes = *groups + x;
        for (int p = 0; p < PIXELS; p++) {
            int32_t group;
            memcpy(&group, bytes + p * stride, GROUP);
            const __m256i spread = _mm256_set1_epi32(group);
            for (int b = 0; b < blocks; b++)
                sums[p][b] = _mm256_dpbusd_avx_epi32(sums[p][b], spread, weights[b]);
        }
    }
}

#include "finish_avx2.h"

TARGET static void make_row(const struct layer *layer, const struct row *row) {
    make_row_of_tiles(layer, row);
}

static int available(void) { return x86_features() & X86_AVX_VNNI; }

const struct instruction_set avxvnni_set = {
    .name = "avxvnni", .available = available, .lanes = LANES, .blocks = BLOCKS, .pixels = PIXELS,
    .order = FREE, .make_row = make_row};

#endif
