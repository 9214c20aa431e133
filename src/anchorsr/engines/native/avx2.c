/* AVX2: 4 pixels x 16 outputs in 8 registers of int32 sums.
 *
 * vpmaddubsw multiplies 32 bytes by 32 weights and adds neighbours, in 16 bits that saturate. They
 * hold any two products, as weights are within 64, and mostly four: so the two groups of a step
 * are added in 16 bits before vpmaddwd adds neighbours again, in 32. That groups meet only where
 * no result can leave 16 bits is seen to when a network is loaded (order.c).
 */

#include "kernel.h"

#if defined(__x86_64__) || defined(__i386__)

#include <immintrin.h>
#include <string.h>

#include "x86.h"

#define TARGET __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { LANES = 8, BLOCKS = 2, PIXELS = 4 };

/* In memory and not in a register: there are 16, and the inner loop needs all of them. */
static const int16_t ONES[16] __attribute__((aligned(32))) = {1, 1, 1, 1, 1, 1, 1, 1,
                                                              1, 1, 1, 1, 1, 1, 1, 1};

INLINE __m256i spread(const uint8_t *bytes) {
    int32_t group;
    memcpy(&group, bytes, GROUP);
    return _mm256_set1_epi32(group);
}

INLINE void multiply(const struct run *run, const uint8_t *const *groups, size_t x, size_t stride,
                     int blocks, __m256i sums[PIXELS][BLOCKS]) {
    const __m256i *ones = (const __m256i *)ONES, *weights = (const __m256i *)run->weights;
    __asm__("" : "+r"(ones)); /* else compilers move the load out of the loop */
    for (int32_t step = 0; step < run->steps; step++, groups += 2, weights += 2 * blocks) {
        const uint8_t *one = groups[0] + x, *other = groups[1] + x;
        for (int p = 0; p < PIXELS; p++) {
            const __m256i left = spread(one + p * stride), right = spread(other + p * stride);
            for (int b = 0; b < blocks; b++) {
                const __m256i products =
                    _mm256_add_epi16(_mm256_maddubs_epi16(left, weights[b]),
                                     _mm256_maddubs_epi16(right, weights[blocks + b]));
                sums[p][b] = _mm256_add_epi32(sums[p][b], _mm256_madd_epi16(products, *ones));
            }
        }
    }
}

#include "finish_avx2.h"

TARGET static void make_row(const struct layer *layer, const struct row *row) {
    make_row_of_tiles(layer, row);
}

static int available(void) { return x86_features() & X86_AVX2; }

const struct instruction_set avx2_set = {"avx2", available, LANES,   BLOCKS,
                                         PIXELS, MATCHED,   make_row};

#endif
