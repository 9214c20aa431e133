/* The order in which a run's groups are multiplied, and their weights in that order.
 *
 * A group is four channels at one place of the convolution's window. Sums do not depend on the
 * order of their terms, so each instruction set gets the one that suits it. AVX2 adds products in
 * 16 bits: a lane adds neighbouring channels of both groups of a step, four products of a byte
 * and a weight. They fit whatever the image where
 *
 *     255 * (the positive ones of the four weights)  <=  32767, and as much for the negative ones,
 *
 * that is, where neither part is above 128. Weights lie within 64 and are mostly small, so nearly
 * every group has a partner with which that holds for each output. A group without one is paired
 * with zeros. A group that is too large for itself (weights beyond 64, of other makers' files) is
 * split into two with half of its weights.
 */

#include "kernel.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_SUM = 128, MOST_LANES = 64, PAIRS = GROUP / 2 };

struct item {
    struct group at;
    int8_t weights[MOST_LANES][GROUP];
    int32_t size; /* the largest one-sided sum of neighbours */
    int used;
};

static int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

/* The largest sum of positive or of negative weights that one number of 16 bits would hold. */
static int32_t size_of(const struct item *one, const struct item *other, int32_t lanes) {
    int32_t largest = 0;
    for (int32_t lane = 0; lane < lanes; lane++) {
        for (int pair = 0; pair < PAIRS; pair++) {
            int32_t positive = 0, negative = 0;
            for (int i = 2 * pair; i < 2 * pair + 2; i++) {
                const int32_t w = one->weights[lane][i], v = other ? other->weights[lane][i] : 0;
                positive += larger(w, 0) + larger(v, 0);
                negative += larger(-w, 0) + larger(-v, 0);
            }
            largest = larger(largest, larger(positive, negative));
        }
    }
    return largest;
}

static void split(struct item *item, struct item *half, int32_t lanes) {
    *half = *item;
    for (int32_t lane = 0; lane < lanes; lane++) {
        for (int i = 0; i < GROUP; i++) {
            half->weights[lane][i] = (int8_t)(item->weights[lane][i] / 2);
            item->weights[lane][i] = (int8_t)(item->weights[lane][i] - half->weights[lane][i]);
        }
    }
    item->size = size_of(item, NULL, lanes);
    half->size = size_of(half, NULL, lanes);
}

/* The partner of items[first] that leaves the easiest others: the largest that fits. */
static int32_t partner(const struct item *items, int32_t count, int32_t first, int32_t lanes) {
    int32_t best = -1;
    for (int32_t i = first + 1; i < count; i++) {
        if (items[i].used || (best >= 0 && items[i].size <= items[best].size)) continue;
        if (size_of(&items[first], &items[i], lanes) <= MOST_SUM) best = i;
    }
    return best;
}

static int by_size(const void *left, const void *right) {
    const struct item *a = left, *b = right;
    if (a->size != b->size) return a->size > b->size ? -1 : 1;
    if (a->at.row != b->at.row) return a->at.row < b->at.row ? -1 : 1;
    return a->at.offset < b->at.offset ? -1 : a->at.offset > b->at.offset;
}

static void write_item(const struct item *item, int32_t lanes, struct group **groups,
                       int8_t **packed) {
    if (*groups) *(*groups)++ = item->at;
    if (*packed) {
        memcpy(*packed, item->weights, (size_t)lanes * GROUP);
        *packed += lanes * GROUP;
    }
}

static int32_t match(struct item *items, int32_t count, int32_t lanes, struct group *groups,
                     int8_t *packed) {
    int32_t steps = 0;
    qsort(items, (size_t)count, sizeof *items, by_size);
    for (int32_t i = 0; i < count; i++) {
        if (items[i].used) continue;
        struct item nothing = {.at = items[i].at};
        const int32_t other = partner(items, count, i, lanes);
        if (other >= 0) items[other].used = 1;
        write_item(&items[i], lanes, &groups, &packed);
        write_item(other >= 0 ? &items[other] : &nothing, lanes, &groups, &packed);
        steps++;
    }
    return steps;
}

int32_t order_run(const struct instruction_set *set, const int8_t *weights, int32_t outputs,
                  int32_t window, int32_t channels, int32_t stride, int32_t first, int32_t blocks,
                  struct group *groups, int8_t *packed) {
    const int32_t lanes = blocks * set->lanes;
    const int32_t used = round_up(channels, GROUP);
    const int32_t width = set->order == ADJACENT ? round_up(window * stride, STEP_GROUPS * GROUP)
                                                 : window * stride;
    /* Each may be split once. */
    struct item *items = calloc((size_t)(2 * window * width / GROUP + 1), sizeof *items);
    if (!items) return -1;
    int32_t count = 0;
    for (int32_t row = 0; row < window; row++) {
        for (int32_t offset = 0; offset < width; offset += GROUP) {
            const int32_t column = offset / stride, channel = offset % stride;
            if (set->order != ADJACENT && channel >= used) continue;
            struct item *item = &items[count++];
            item->at = (struct group){row, offset};
            for (int32_t lane = 0; lane < lanes && first + lane < outputs; lane++) {
                const int32_t place = ((first + lane) * window + row) * window + column;
                for (int32_t i = 0; i < GROUP; i++)
                    if (column < window && channel + i < channels)
                        item->weights[lane][i] = weights[place * channels + channel + i];
            }
            if (set->order != MATCHED) continue;
            item->size = size_of(item, NULL, lanes);
            if (item->size > MOST_SUM) split(item, &items[count++], lanes);
        }
    }
    int32_t steps = (count + 1) / STEP_GROUPS;
    if (set->order == MATCHED) {
        steps = match(items, count, lanes, groups, packed);
    } else { /* the item after the last one has weights of 0 */
        if (count % STEP_GROUPS) items[count].at = items[count - 1].at;
        for (int32_t i = 0; i < STEP_GROUPS * steps; i++)
            write_item(&items[i], lanes, &groups, &packed);
    }
    free(items);
    return steps;
}
