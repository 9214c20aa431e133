/* Instructions that this processor lacks, in C, from what their manual says of them: VNNI, and what
 * avx512vnni.c uses of AVX-512. Included before everything else (gcc -include), it puts them in
 * place of the compiler's, so that the kernel's own code for these processors can be run on any
 * x86-64 with AVX2. It says nothing about time.
 */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define ANCHORSR_EMULATED
#define TARGET_AVX_VNNI __attribute__((target("avx2")))
#define TARGET_AVX512_VNNI __attribute__((target("avx2")))
#define EMULATE static inline __attribute__((always_inline, target("avx2")))

struct m512 {
    union {
        int32_t i[16];
        uint32_t u[16];
        float f[16];
        uint8_t b[64];
        int8_t s[64];
    };
};
#define __m512i struct m512
#define __m512 struct m512

#define EMULATE_LANES(name, parameters, expression)                                               \
    EMULATE struct m512 name parameters {                                                          \
        struct m512 r;                                                                             \
        for (int k = 0; k < 16; k++) expression;                                                   \
        return r;                                                                                  \
    }

EMULATE_LANES(emulated_set1, (int32_t a), r.i[k] = a)
EMULATE_LANES(emulated_add, (struct m512 a, struct m512 b), r.u[k] = a.u[k] + b.u[k])
EMULATE_LANES(emulated_max, (struct m512 a, struct m512 b), r.i[k] = a.i[k] > b.i[k] ? a.i[k] : b.i[k])
EMULATE_LANES(emulated_min, (struct m512 a, struct m512 b), r.i[k] = a.i[k] < b.i[k] ? a.i[k] : b.i[k])
EMULATE_LANES(emulated_mul, (struct m512 a, struct m512 b), r.f[k] = a.f[k] * b.f[k])
EMULATE_LANES(emulated_to_float, (struct m512 a), r.f[k] = (float)a.i[k])
EMULATE_LANES(emulated_to_int, (struct m512 a), r.i[k] = (int32_t)lrintf(a.f[k]))

EMULATE struct m512 emulated_load(const void *from) {
    struct m512 r;
    memcpy(&r, from, sizeof r);
    return r;
}

EMULATE struct m512 emulated_widen(__m128i bytes) {
    uint8_t b[16];
    struct m512 r;
    memcpy(b, &bytes, 16);
    for (int k = 0; k < 16; k++) r.i[k] = b[k];
    return r;
}

/* Unsigned saturation of what is taken as unsigned. */
EMULATE __m128i emulated_narrow(struct m512 a) {
    uint8_t b[16];
    __m128i r;
    for (int k = 0; k < 16; k++) b[k] = (uint8_t)(a.u[k] > 255 ? 255 : a.u[k]);
    memcpy(&r, b, 16);
    return r;
}

/* For each lane the sum and four products of an unsigned and a signed byte, without saturation. */
EMULATE void emulated_dot(int32_t *sums, const uint8_t *bytes, const int8_t *weights, int lanes) {
    for (int k = 0; k < lanes; k++)
        for (int i = 4 * k; i < 4 * k + 4; i++)
            sums[k] = (int32_t)((uint32_t)sums[k] + (uint32_t)(bytes[i] * weights[i]));
}

EMULATE struct m512 emulated_dot512(struct m512 sums, struct m512 bytes, struct m512 weights) {
    emulated_dot(sums.i, bytes.b, weights.s, 16);
    return sums;
}

EMULATE __m256i emulated_dot256(__m256i sums, __m256i bytes, __m256i weights) {
    int32_t s[8];
    uint8_t b[32];
    int8_t w[32];
    memcpy(s, &sums, 32), memcpy(b, &bytes, 32), memcpy(w, &weights, 32);
    emulated_dot(s, b, w, 8);
    memcpy(&sums, s, 32);
    return sums;
}

#define _mm512_set1_epi32 emulated_set1
#define _mm512_setzero_si512() emulated_set1(0)
#define _mm512_add_epi32 emulated_add
#define _mm512_max_epi32 emulated_max
#define _mm512_min_epi32 emulated_min
#define _mm512_mul_ps emulated_mul
#define _mm512_cvtepi32_ps emulated_to_float
#define _mm512_cvtps_epi32 emulated_to_int
#define _mm512_loadu_si512 emulated_load
#define _mm512_loadu_ps emulated_load
#define _mm512_cvtepu8_epi32 emulated_widen
#define _mm512_cvtusepi32_epi8 emulated_narrow
#define _mm512_dpbusd_epi32 emulated_dot512
#define _mm256_dpbusd_avx_epi32 emulated_dot256
