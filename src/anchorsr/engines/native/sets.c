/* Which instruction sets there are, and which of them this processor has. */

#include "api.h"
#include "kernel.h"

extern const struct instruction_set avx512vnni_set, avxvnni_set, avx2_set;
extern const struct instruction_set i8mm_set, dot_set, neon_set, portable_set;
extern const struct instruction_set relaxed_unsigned_set, relaxed_signed_set, simd128_set;

static const struct instruction_set *const SETS[] = {
#if defined(__x86_64__)
    &avx512vnni_set,
#endif
#if defined(__x86_64__) || defined(__i386__)
    &avxvnni_set, &avx2_set,
#endif
#if defined(__aarch64__)
    &i8mm_set, &dot_set, &neon_set,
#endif
#if defined(__wasm_relaxed_simd__)
    &relaxed_unsigned_set, &relaxed_signed_set,
#endif
#if defined(__wasm_simd128__)
    &simd128_set,
#endif
    &portable_set,
};

enum { COUNT = sizeof SETS / sizeof *SETS };

const struct instruction_set *set_number(int32_t set) {
    return set >= 0 && set < COUNT && SETS[set]->available() ? SETS[set] : NULL;
}

const char *anchorsr_set_name(int32_t set) {
    return set >= 0 && set < COUNT ? SETS[set]->name : NULL;
}

int anchorsr_available(int32_t set) { return set_number(set) != NULL; }

int anchorsr_version(void) { return ANCHORSR_VERSION; }
