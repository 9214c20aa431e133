/* AVX2: 6 pixels x 16 outputs in 12 registers of int32 sums.
 *
 * vpmaddubsw multiplies 32 bytes by 32 weights and adds neighbours, in 16 bits that saturate. They
 * hold any two products, as weights are within 64, and mostly many more: so the groups of a step
 * are added in 16 bits, and only their sum goes through vpmaddwd, which adds neighbours again, and
 * on to the sums of 32 bits. That is half as much work beside the multiplications, of which there
 * are two a cycle. That groups meet only where no result can leave 16 bits is seen to when a
 * network is loaded (order.c).
 */

#include "kernel.h"

#if defined(__x86_64__) || defined(__i386__)

#include <immintrin.h>
#include <string.h>

#include "x86.h"

#define TARGET __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { LANES = 8, BLOCKS = 2, PIXELS = 6 };

INLINE __m256i spread(const uint8_t *bytes) {
    int32_t group;
    memcpy(&group, bytes, GROUP);
    return _mm256_set1_epi32(group);
}

/* Add to the sums what `taken` groups, of four or two, make with their weights. */
INLINE void step(const uint8_t *const *groups, const __m256i *weights, size_t x, size_t stride,
                 int taken, int blocks, __m256i sums[PIXELS][BLOCKS]) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int p = 0; p < PIXELS; p++) {
        __m256i products[BLOCKS];
        for (int g = 0; g < taken; g++) {
            const __m256i bytes = spread(groups[g] + x + p * stride);
            for (int b = 0; b < blocks; b++) {
                const __m256i more = _mm256_maddubs_epi16(bytes, weights[g * blocks + b]);
                products[b] = g ? _mm256_add_epi16(products[b], more) : more;
            }
        }
        for (int b = 0; b < blocks; b++)
            sums[p][b] = _mm256_add_epi32(sums[p][b], _mm256_madd_epi16(products[b], ones));
    }
}

INLINE void multiply(const struct run *run, const uint8_t *const *groups, size_t x, size_t stride,
                     int blocks, __m256i sums[PIXELS][BLOCKS]) {
    const __m256i *weights = (const __m256i *)run->weights;
    for (int32_t i = 0; i < run->fours; i++, groups += 4, weights += 4 * blocks)
        step(groups, weights, x, stride, 4, blocks, sums);
    for (int32_t i = 0; i < run->twos; i++, groups += 2, weights += 2 * blocks)
        step(groups, weights, x, stride, 2, blocks, sums);
}

#include "finish_avx2.h"

TARGET static void make_row(const struct layer *layer, const struct row *row) {
    make_row_of_tiles(layer, row);
}

static int available(void) { return x86_features() & X86_AVX2; }

const struct instruction_set avx2_set = {
    .name = "avx2", .available = available, .lanes = LANES, .blocks = BLOCKS, .pixels = PIXELS,
    .order = MATCHED, .make_row = make_row};

#endif
