/* From int32 sums to bytes with AVX2: what avx2.c and avxvnni.c have in common. Included after
 * TARGET, INLINE, LANES, BLOCKS, PIXELS and `multiply`.
 *
 * Sums are finished in pairs of vectors, which become 16 numbers of 16 bits: of one pixel where a
 * tile has two blocks, of two pixels where it has one.
 */

enum { CACHED = 48 }; /* pixels */

struct constants {
    __m256i bias[BLOCKS];
    __m256 multipliers[BLOCKS];
    __m256i zero_point, low, high, offset, copied;
};

INLINE struct constants constants_of(const struct layer *layer, int32_t output, int blocks) {
    struct constants c;
    for (int b = 0; b < blocks; b++) {
        c.bias[b] = _mm256_loadu_si256((const __m256i *)(layer->bias + output + b * LANES));
        c.multipliers[b] = _mm256_loadu_ps(layer->multipliers + output + b * LANES);
    }
    c.zero_point = _mm256_set1_epi16((int16_t)layer->zero_point);
    c.low = _mm256_set1_epi16((int16_t)layer->low);
    c.high = _mm256_set1_epi16((int16_t)layer->high);
    c.offset = _mm256_set1_epi16((int16_t)layer->added_offset);
    c.copied = _mm256_setzero_si256();
    if (layer->copied) {
        /* For vpshufb: the number of a byte, and above it 0x80, which makes a zero. */
        const __m128i half = _mm_loadl_epi64((const __m128i *)(layer->copied + output));
        const __m128i map = blocks == 2 ? _mm_loadu_si128((const __m128i *)(layer->copied + output))
                                        : _mm_unpacklo_epi64(half, half);
        c.copied = _mm256_or_si256(_mm256_cvtepu8_epi16(map), _mm256_set1_epi16((int16_t)0x8000));
    }
    return c;
}

INLINE __m256i scaled(__m256i sum, __m256 multiplier) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sum), multiplier));
}

/* The bytes that are added to a pair, as numbers of 16 bits. */
INLINE __m256i added_to_pair(const struct layer *layer, const struct constants *c,
                             const uint8_t *one, const uint8_t *other, int blocks) {
    if (layer->copied) {
        int32_t first, second;
        memcpy(&first, one, GROUP);
        memcpy(&second, other, GROUP);
        const __m256i pixels = _mm256_set_m128i(_mm_set1_epi32(second), _mm_set1_epi32(first));
        return _mm256_shuffle_epi8(pixels, c->copied);
    }
    if (blocks == 2) return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)one));
    return _mm256_cvtepu8_epi16(_mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)one),
                                                   _mm_loadl_epi64((const __m128i *)other)));
}

/* Two pairs of 16 numbers, as bytes: those of the first one in the even quarters. With one block,
 * they are of four pixels, or of two where no more are left. */
INLINE void store(__m256i bytes, uint8_t *out, size_t stride, int blocks, int left) {
    if (blocks == 2) {
        const __m256i ordered = _mm256_permute4x64_epi64(bytes, 0xD8);
        _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(ordered));
        _mm_storeu_si128((__m128i *)(out + stride), _mm256_extracti128_si256(ordered, 1));
        return;
    }
    const __m128i even = _mm256_castsi256_si128(bytes), odd = _mm256_extracti128_si256(bytes, 1);
    _mm_storel_epi64((__m128i *)out, even);
    _mm_storel_epi64((__m128i *)(out + stride), odd);
    if (left < 4) return;
    _mm_storel_epi64((__m128i *)(out + 2 * stride), _mm_unpackhi_epi64(even, even));
    _mm_storel_epi64((__m128i *)(out + 3 * stride), _mm_unpackhi_epi64(odd, odd));
}

/* A tile: the sums of some pixels and one or two blocks, and their bytes. */
INLINE void make_tile(const struct layer *layer, const struct run *run, const struct constants *c,
                      const uint8_t *const *groups, const uint8_t *added, uint8_t *out,
                      size_t x_bytes, int blocks) {
    __m256i sums[PIXELS][BLOCKS];
    for (int p = 0; p < PIXELS; p++)
        for (int b = 0; b < blocks; b++) sums[p][b] = c->bias[b];
    multiply(run, groups, x_bytes, (size_t)layer->input_stride, blocks, sums);

    const int pair = blocks == 2 ? 1 : 2; /* pixels of a pair */
    const size_t out_stride = (size_t)layer->stride, added_stride = (size_t)layer->added_stride;
    __m256i pairs[PIXELS];
    for (int p = 0; p < PIXELS; p += pair) {
        /* vpackssdw works within halves of 128 bits; the permutation restores the order. */
        const __m256i packed = _mm256_packs_epi32(
            scaled(sums[p][0], c->multipliers[0]),
            blocks == 2 ? scaled(sums[p][BLOCKS - 1], c->multipliers[BLOCKS - 1])
                        : scaled(sums[p + pair - 1][0], c->multipliers[0]));
        __m256i value = _mm256_permute4x64_epi64(packed, 0xD8);
        value = _mm256_adds_epi16(value, c->zero_point);
        value = _mm256_min_epi16(_mm256_max_epi16(value, c->low), c->high);
        if (added) {
            const uint8_t *one = added + p * added_stride, *other = one + (pair - 1) * added_stride;
            const __m256i more = added_to_pair(layer, c, one, other, blocks);
            value = _mm256_add_epi16(_mm256_add_epi16(value, more), c->offset);
        }
        pairs[p] = value;
    }
    for (int p = 0; p < PIXELS; p += 2 * pair) {
        const __m256i next = pairs[p + pair < PIXELS ? p + pair : p];
        store(_mm256_packus_epi16(pairs[p], next), out + p * out_stride, out_stride, blocks,
              PIXELS - p);
    }
}

INLINE void make_tiles(const struct layer *layer, const struct row *row, const struct run *run,
                       const uint8_t *const *groups, int32_t from, int32_t end, int blocks) {
    const struct constants c = constants_of(layer, run->first_output, blocks);
    const uint8_t *added = row->added;
    if (added && !layer->copied) added += run->first_output;
    for (int32_t x = from; x < end; x += PIXELS)
        make_tile(layer, run, &c, groups,
                  added ? added + (size_t)x * (size_t)layer->added_stride : NULL,
                  row->out + (size_t)x * (size_t)layer->stride + run->first_output,
                  (size_t)x * (size_t)layer->input_stride, blocks);
}

/* All runs of some pixels, whose bytes are in the first-level cache for all but the first run. */
INLINE void make_row_of_tiles(const struct layer *layer, const struct row *row) {
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
