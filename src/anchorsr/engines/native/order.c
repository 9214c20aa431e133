/* The order in which a run's groups are multiplied, and their weights in that order.
 *
 * A group is four channels at one place of the convolution's window. Sums do not depend on the
 * order of their terms, so each instruction set gets the one that suits it. AVX2 adds products in
 * 16 bits: a lane adds neighbouring channels of all groups of a step, eight products of a byte and
 * a weight where these are four. They fit whatever the image where
 *
 *     255 * (the sum of the positive ones of the weights)  <=  32767,
 *
 * and as much for the negative ones: where neither is above 128. Weights lie within 64 and are
 * mostly small, so that nearly all groups can be put together in fours with which that holds for
 * each output: the largest group first, each time with the largest that still fit. What is left
 * over makes twos, with weights of 0 where one is missing. A group that is too large for itself
 * (weights beyond 64, of other makers' files) is split into two with half of its weights.
 */

#include "kernel.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_SUM = 128, MOST_LANES = 64, PAIRS = GROUP / 2, MOST_OF_STEP = 4 };

/* Of each lane and pair of neighbours: the sums of positive and of negative weights. */
struct sums {
    int32_t of[MOST_LANES][PAIRS][2];
};

struct item {
    struct group at;
    int8_t weights[MOST_LANES][GROUP];
    int32_t size; /* the largest of its sums */
    int used;
};

/* Add the sums of an item; returns the largest one then. */
static int32_t add_item(struct sums *sums, const struct item *item, int32_t lanes) {
    int32_t largest = 0;
    for (int32_t lane = 0; lane < lanes; lane++) {
        for (int i = 0; i < GROUP; i++) {
            const int32_t weight = item->weights[lane][i];
            int32_t *sum = &sums->of[lane][i / 2][weight < 0];
            *sum += abs(weight);
            if (*sum > largest) largest = *sum;
        }
    }
    return largest;
}

static int32_t size_of(const struct item *item, int32_t lanes) {
    struct sums sums = {0};
    return add_item(&sums, item, lanes);
}

static void split(struct item *item, struct item *half, int32_t lanes) {
    *half = *item;
    for (int32_t lane = 0; lane < lanes; lane++) {
        for (int i = 0; i < GROUP; i++) {
            half->weights[lane][i] = (int8_t)(item->weights[lane][i] / 2);
            item->weights[lane][i] = (int8_t)(item->weights[lane][i] - half->weights[lane][i]);
        }
    }
    item->size = size_of(item, lanes);
    half->size = size_of(half, lanes);
}

static int by_size(const void *left, const void *right) {
    const struct item *a = left, *b = right;
    if (a->size != b->size) return a->size > b->size ? -1 : 1;
    if (a->at.row != b->at.row) return a->at.row < b->at.row ? -1 : 1;
    return a->at.offset < b->at.offset ? -1 : a->at.offset > b->at.offset;
}

struct writer {
    struct group *groups;
    int8_t *packed;
    size_t bytes; /* of a group's weights */
};

static void write_item(struct writer *writer, const struct item *item) {
    if (!writer->groups) return;
    *writer->groups++ = item->at;
    memcpy(writer->packed, item->weights, writer->bytes);
    writer->packed += writer->bytes;
}

/* Put items[first], and up to three that fit, into a step; returns how many it has. */
static int32_t fill_step(struct item *items, int32_t count, int32_t first, int32_t lanes,
                         int32_t step[MOST_OF_STEP]) {
    struct sums sums = {0};
    int32_t filled = 0;
    for (int32_t i = first; i < count && filled < MOST_OF_STEP; i++) {
        if (items[i].used) continue;
        struct sums more = sums;
        if (add_item(&more, &items[i], lanes) > MOST_SUM) continue;
        sums = more;
        items[i].used = 1;
        step[filled++] = i;
    }
    return filled;
}

/* Steps of four first, as the kernel wants them: those of two are kept until the end. */
static void match(struct item *items, int32_t count, int32_t lanes, struct run *run,
                  struct writer *writer) {
    struct item *kept = items + count; /* there is room for as many twos */
    qsort(items, (size_t)count, sizeof *items, by_size);
    for (int32_t i = 0; i < count; i++) {
        if (items[i].used) continue;
        int32_t step[MOST_OF_STEP];
        const int32_t filled = fill_step(items, count, i, lanes, step);
        const int32_t wanted = filled > 2 ? 4 : 2;
        for (int32_t place = 0; place < wanted; place++) {
            const struct item nothing = {.at = items[i].at};
            const struct item *item = place < filled ? &items[step[place]] : &nothing;
            if (wanted == 4)
                write_item(writer, item);
            else
                kept[2 * run->twos + place] = *item;
        }
        if (wanted == 4)
            run->fours++;
        else
            run->twos++;
    }
    for (int32_t i = 0; i < 2 * run->twos; i++) write_item(writer, &kept[i]);
}

/* All groups of a run, and how many there are; large ones are split if they are to be matched. */
static int32_t collect(const struct instruction_set *set, const struct layer *layer,
                       const struct tensor *input, const int8_t *weights, const struct run *run,
                       struct item *items) {
    const int32_t lanes = run->blocks * set->lanes, window = layer->window;
    const int32_t first = run->first_output, channels = input->channels;
    int32_t width = window * input->stride, count = 0;
    if (set->order == ADJACENT || set->order == WOVEN) width = round_up(width, 2 * GROUP);
    for (int32_t row = 0; row < window; row++) {
        for (int32_t offset = 0; offset < width; offset += GROUP) {
            const int32_t column = offset / input->stride, channel = offset % input->stride;
            if (set->order >= FREE && channel >= channels) continue;
            struct item *item = &items[count++];
            item->at = (struct group){row, offset};
            for (int32_t lane = 0; lane < lanes && first + lane < layer->outputs; lane++) {
                const int32_t place = ((first + lane) * window + row) * window + column;
                for (int32_t i = 0; i < GROUP; i++)
                    if (column < window && channel + i < channels)
                        item->weights[lane][i] = weights[place * channels + channel + i];
            }
            if (set->order != MATCHED) continue;
            item->size = size_of(item, lanes);
            if (item->size > MOST_SUM) split(item, &items[count++], lanes);
        }
    }
    return count;
}

/* The weights of a step, [group][lane][4 channels], as [lane][8 channels]. */
static void weave(int8_t *packed, int32_t lanes) {
    int8_t woven[2 * MOST_LANES * GROUP];
    for (int32_t lane = 0; lane < lanes; lane++)
        for (int32_t g = 0; g < 2; g++)
            memcpy(woven + (2 * lane + g) * GROUP, packed + (g * lanes + lane) * GROUP, GROUP);
    memcpy(packed, woven, (size_t)(2 * lanes * GROUP));
}

int order_run(const struct instruction_set *set, const struct layer *layer,
              const struct tensor *input, const int8_t *weights, struct run *run,
              struct group *groups, int8_t *packed) {
    const int32_t window = layer->window;
    const int32_t most = 2 * window * (window * input->stride / GROUP + 1);
    struct item *items = calloc((size_t)(3 * most), sizeof *items);
    if (!items) return 0;
    const int32_t lanes = run->blocks * set->lanes;
    struct writer writer = {groups, packed, (size_t)lanes * GROUP};
    const int32_t count = collect(set, layer, input, weights, run, items);
    run->fours = run->twos = 0;
    if (set->order == MATCHED) {
        match(items, count, lanes, run, &writer);
    } else {
        run->twos = (count + 1) / 2;
        if (count % 2) items[count].at = items[count - 1].at; /* its weights are 0 */
        for (int32_t i = 0; i < 2 * run->twos; i++) write_item(&writer, &items[i]);
        if (set->order == WOVEN && packed)
            for (int32_t i = 0; i < run->twos; i++) weave(packed + 2 * i * writer.bytes, lanes);
    }
    free(items);
    return 1;
}
