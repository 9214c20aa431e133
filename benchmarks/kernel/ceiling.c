/* What the inner loop of an instruction set does where nothing else is in its way: 48 pixels of a
 * layer, again and again, whose bytes and weights stay in the first-level cache. */

#include "api.h"
#include "kernel.h"

#include <stdlib.h>
#include <string.h>

enum { PIXELS = 48 };

ANCHORSR_API int ceiling(const anchorsr_network *net, int32_t index, int32_t times) {
    const struct layer *layer = &net->layer[index];
    const size_t bytes = (size_t)((PIXELS + 2) * layer->input_stride + SLACK);
    const uint8_t **groups = malloc((size_t)net->most_groups * sizeof *groups);
    uint8_t *rows = malloc(3 * bytes), *out = malloc((size_t)(PIXELS * layer->stride + SLACK));
    if (!groups || !rows || !out) return ANCHORSR_NO_MEMORY;
    memset(rows, 77, 3 * bytes);
    const uint8_t **group = groups;
    for (const struct run *run = layer->run; run < layer->run + layer->runs; run++)
        for (int32_t i = 0; i < groups_of(run); i++)
            *group++ = rows + (size_t)run->groups[i].row * bytes + run->groups[i].offset;
    const struct row row = {groups, NULL, out, PIXELS};
    for (int32_t i = 0; i < times; i++) net->set->make_row(layer, &row);
    free(groups), free(rows), free(out);
    return ANCHORSR_OK;
}
