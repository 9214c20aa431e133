/* What an x86 processor and its operating system have of the vector instructions used here. */

#ifndef ANCHORSR_X86_H
#define ANCHORSR_X86_H

#include <cpuid.h>
#include <stdint.h>

enum {
    X86_AVX2 = 1,
    X86_AVX_VNNI = 2,
    X86_AVX512_VNNI = 4, /* with the foundation, byte and word, and vector length instructions */
};

/* Which registers the system saves when it changes to another process. */
static inline uint32_t x86_saved_registers(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static inline int x86_features(void) {
    enum { OSXSAVE = 1 << 27, AVX = 1 << 28, YMM = 0x06, ZMM = 0xE6 };
    enum { AVX2 = 1 << 5, AVX512F = 1 << 16, AVX512BW = 1 << 30, VNNI = 1 << 11, AVX_VNNI = 1 << 4 };
    const uint32_t avx512vl = 1u << 31;
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE) || !(c & AVX)) return 0;
    const uint32_t saved = x86_saved_registers();
    if ((saved & YMM) != YMM || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & AVX2)) return 0;
    int found = X86_AVX2;
    const uint32_t wanted = AVX512F | AVX512BW | avx512vl;
    if ((saved & ZMM) == ZMM && (b & wanted) == wanted && (c & VNNI)) found |= X86_AVX512_VNNI;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & AVX_VNNI)) found |= X86_AVX_VNNI;
#ifdef ANCHORSR_EMULATED /* benchmarks/kernel/emulated.h has them in C */
    found |= X86_AVX512_VNNI | X86_AVX_VNNI;
#endif
    return found;
}

#endif
