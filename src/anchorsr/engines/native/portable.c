/* Portable C: what the kernel computes, without instructions of its own. Others are held against
 * it where the executor would take too long. */

#include "kernel.h"

#include <math.h>

enum { LANES = 8 };

static int32_t limited(int32_t value, int32_t low, int32_t high) {
    return value < low ? low : value > high ? high : value;
}

static uint8_t finished(const struct layer *layer, int32_t output, int32_t sum,
                        const uint8_t *added) {
    /* lrintf rounds half to even. */
    int32_t value = (int32_t)lrintf((float)sum * layer->multipliers[output]);
    value = limited(value + layer->zero_point, layer->low, layer->high);
    if (added) {
        value += added[layer->copied ? layer->copied[output] : output] + layer->added_offset;
        value = limited(value, 0, 255);
    }
    return (uint8_t)value;
}

static void make_row(const struct layer *layer, const struct row *row) {
    for (int32_t x = 0; x < row->pixels; x++) {
        const uint8_t *const *groups = row->groups;
        const uint8_t *added = row->added ? row->added + (size_t)x * layer->added_stride : NULL;
        for (int32_t i = 0; i < layer->runs; i++) {
            const struct run *run = &layer->run[i];
            const int8_t *weights = run->weights;
            int32_t sums[LANES] = {0};
            for (int32_t g = 0; g < groups_of(run); g++, weights += LANES * GROUP) {
                const uint8_t *bytes = *groups++ + (size_t)x * layer->input_stride;
                for (int lane = 0; lane < LANES; lane++)
                    for (int c = 0; c < GROUP; c++)
                        sums[lane] += bytes[c] * weights[lane * GROUP + c];
            }
            for (int lane = 0; lane < LANES; lane++) {
                const int32_t output = run->first_output + lane;
                row->out[(size_t)x * layer->stride + output] =
                    finished(layer, output, sums[lane] + layer->bias[output], added);
            }
        }
    }
}

static int available(void) { return 1; }

const struct instruction_set portable_set = {
    .name = "portable", .available = available, .lanes = LANES, .blocks = 1, .pixels = 1,
    .order = FREE, .make_row = make_row};
