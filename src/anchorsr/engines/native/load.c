/* A network in the form that it is stored in, made ready for an instruction set.
 *
 * The stored form is a list of 32-bit numbers, the lowest byte first, and of arrays that are filled
 * up to multiples of four bytes:
 *
 *     magic, number of layers, factor, zero point of the image
 *     for each layer: input, window, outputs, zero, zero_point, low, high, added, added_offset,
 *         copies (0 or 1), int8 weights [outputs][window][window][channels of the input],
 *         int32 bias [outputs], float32 multipliers [outputs], and, with copies, bytes [outputs]
 *
 * Names are those of `struct layer`; `zero` is that of the tensor that the layer makes. Bytes are
 * trusted in nothing: whatever they are, the result is a network that can be run, or an error.
 */

#include "api.h"
#include "kernel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAGIC = 0x31525341 /* "ASR1" */, IMAGE_CHANNELS = 3 };

/* Above it a product would not fit the conversion to 32 bits. */
static const double MOST_VALUE = 1 << 30;

struct reader {
    const uint8_t *at, *end;
    int failed;
};

static const uint8_t *take(struct reader *reader, size_t bytes) {
    const uint8_t *taken = reader->at;
    bytes = (bytes + 3) / 4 * 4;
    if (reader->failed || (size_t)(reader->end - reader->at) < bytes) {
        reader->failed = 1;
        return NULL;
    }
    reader->at += bytes;
    return taken;
}

static int32_t number(struct reader *reader) {
    const uint8_t *b = take(reader, 4);
    if (!b) return 0;
    const uint32_t value =
        b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    int32_t signed_value;
    memcpy(&signed_value, &value, 4);
    return signed_value;
}

static int within(int32_t value, int32_t low, int32_t high) { return value >= low && value <= high; }

/* What a layer points into: counted first, with NULL, then written. */
struct arena {
    uint8_t *memory;
    size_t used;
};

static void *reserve(struct arena *arena, size_t bytes) {
    void *place = arena->memory ? arena->memory + arena->used : NULL;
    arena->used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return place;
}

struct stored_layer {
    const uint8_t *weights, *bias, *multipliers, *copied;
};

static int32_t stride_of(const struct instruction_set *set, int32_t channels) {
    return round_up(channels, set->lanes > 8 ? set->lanes : 8);
}

/* The numbers of a layer, each checked. */
static int read_layer(struct network *net, int32_t index, struct reader *reader,
                      struct stored_layer *stored) {
    struct layer *layer = &net->layer[index];
    struct tensor *made = &net->tensor[index + 1];
    layer->input = number(reader);
    layer->window = number(reader);
    layer->outputs = number(reader);
    made->zero = number(reader);
    layer->zero_point = number(reader);
    layer->low = number(reader);
    layer->high = number(reader);
    layer->added = number(reader);
    layer->added_offset = number(reader);
    const int32_t copies = number(reader);
    if (reader->failed || !within(layer->input, 0, index) ||
        (layer->window != 1 && layer->window != 3) || !within(layer->outputs, 1, MOST_CHANNELS) ||
        !within(made->zero, 0, 255) || !within(layer->zero_point, 0, 255) ||
        !within(layer->low, 0, 255) || !within(layer->high, layer->low, 255) ||
        !within(layer->added, NO_TENSOR, index) || !within(layer->added_offset, -1024, 1024) ||
        !within(copies, 0, layer->added == 0))
        return ANCHORSR_DAMAGED;
    made->channels = layer->outputs;
    made->stride = layer->stride = stride_of(net->set, layer->outputs);
    layer->input_stride = net->tensor[layer->input].stride;
    if (layer->added != NO_TENSOR) {
        const struct tensor *added = &net->tensor[layer->added];
        layer->added_stride = added->stride;
        if (!copies && added->channels != layer->outputs) return ANCHORSR_DAMAGED;
    }
    const size_t outputs = (size_t)layer->outputs;
    const size_t terms = (size_t)(layer->window * layer->window * net->tensor[layer->input].channels);
    stored->weights = take(reader, outputs * terms);
    stored->bias = take(reader, 4 * outputs);
    stored->multipliers = take(reader, 4 * outputs);
    stored->copied = copies ? take(reader, outputs) : NULL;
    return reader->failed ? ANCHORSR_DAMAGED : ANCHORSR_OK;
}

/* Bias and multipliers of a layer, and whether every sum and value fits 32 bits. */
static int load_numbers(const struct network *net, struct layer *layer, struct stored_layer stored,
                        int32_t *bias, float *multipliers, uint8_t *copied) {
    const struct tensor *input = &net->tensor[layer->input];
    const int32_t terms = layer->window * layer->window * input->channels;
    struct reader biases = {stored.bias, stored.bias + 4 * layer->outputs, 0};
    for (int32_t c = 0; c < layer->outputs; c++) {
        int64_t total = 0, absolute = 0;
        for (int32_t i = 0; i < terms; i++) {
            const int32_t weight = (int8_t)stored.weights[c * terms + i];
            total += weight;
            absolute += abs(weight);
        }
        const int64_t given = number(&biases);
        const int64_t folded = given - (input->zero - net->set->centre) * total;
        float multiplier;
        memcpy(&multiplier, stored.multipliers + 4 * c, 4);
        /* In whatever order and with whatever bias it is summed. */
        const double largest = (double)(510 * absolute + llabs(given));
        if (largest >= 2147483648.0) return ANCHORSR_TOO_LARGE;
        if (!(multiplier >= 0) || !(largest * multiplier < MOST_VALUE)) return ANCHORSR_TOO_LARGE;
        if (stored.copied && stored.copied[c] >= IMAGE_CHANNELS) return ANCHORSR_DAMAGED;
        if (bias) {
            bias[c] = (int32_t)folded;
            multipliers[c] = multiplier;
            if (copied) copied[c] = stored.copied[c];
        }
    }
    return ANCHORSR_OK;
}

/* Fill the arrays of a layer, or only count their bytes where the arena has no memory. */
static int load_layer(struct network *net, struct layer *layer, struct stored_layer stored,
                      struct arena *arena) {
    const struct instruction_set *set = net->set;
    const size_t stride = (size_t)layer->stride;
    int32_t *bias = reserve(arena, 4 * stride);
    float *multipliers = reserve(arena, 4 * stride);
    uint8_t *copied = stored.copied ? reserve(arena, stride + SLACK) : NULL;
    const int error = load_numbers(net, layer, stored, bias, multipliers, copied);
    if (error) return error;

    const int32_t blocks = layer->stride / set->lanes;
    layer->runs = (blocks + set->blocks - 1) / set->blocks;
    struct run *runs = reserve(arena, (size_t)layer->runs * sizeof *runs);
    int32_t groups_of_layer = 0;
    for (int32_t i = 0; i < layer->runs; i++) {
        const int32_t first = i * set->blocks, left = blocks - first;
        const int32_t taken = left < set->blocks ? left : set->blocks;
        struct run run = {.first_output = first * set->lanes, .blocks = taken};
        const struct tensor *input = &net->tensor[layer->input];
        const int8_t *weights = (const int8_t *)stored.weights;
        if (!order_run(set, layer, input, weights, &run, NULL, NULL)) return ANCHORSR_NO_MEMORY;
        const int32_t count = groups_of(&run);
        struct group *groups = reserve(arena, (size_t)count * sizeof *groups);
        int8_t *packed = reserve(arena, (size_t)(count * taken * set->lanes * GROUP));
        run.groups = groups;
        run.weights = packed;
        groups_of_layer += count;
        if (!runs) continue;
        if (!order_run(set, layer, input, weights, &run, groups, packed)) return ANCHORSR_NO_MEMORY;
        runs[i] = run;
    }
    layer->run = runs;
    layer->bias = bias;
    layer->multipliers = multipliers;
    layer->copied = copied;
    if (groups_of_layer > net->most_groups) net->most_groups = groups_of_layer;
    return ANCHORSR_OK;
}

/* How far down each tensor has to be made before the output's row, and how many rows of it are
 * read at once. */
static void plan_rows(struct network *net) {
    for (int32_t i = net->layers - 1; i >= 0; i--) {
        const struct layer *layer = &net->layer[i];
        const int32_t reach = net->tensor[i + 1].reach;
        struct tensor *input = &net->tensor[layer->input];
        if (input->reach < reach + layer->window / 2) input->reach = reach + layer->window / 2;
        if (layer->added != NO_TENSOR && net->tensor[layer->added].reach < reach)
            net->tensor[layer->added].reach = reach;
    }
    for (int32_t i = 0; i < net->layers; i++) {
        const struct layer *layer = &net->layer[i];
        const int32_t reach = net->tensor[i + 1].reach;
        struct tensor *input = &net->tensor[layer->input];
        const int32_t rows = input->reach - reach + layer->window / 2 + 1;
        if (input->rows < rows) input->rows = rows;
        if (layer->added != NO_TENSOR) {
            struct tensor *added = &net->tensor[layer->added];
            if (added->rows < added->reach - reach + 1) added->rows = added->reach - reach + 1;
        }
    }
}

static int read_network(struct network *net, struct reader *reader, struct stored_layer *stored) {
    const int32_t magic = number(reader);
    net->layers = number(reader);
    net->factor = number(reader);
    net->tensor[0].channels = IMAGE_CHANNELS;
    net->tensor[0].stride = GROUP;
    net->tensor[0].zero = number(reader);
    if (reader->failed || magic != MAGIC || !within(net->layers, 1, MOST_LAYERS) ||
        !within(net->factor, 1, MOST_FACTOR) || !within(net->tensor[0].zero, 0, 255))
        return ANCHORSR_DAMAGED;
    net->tensors = net->layers + 1;
    for (int32_t i = 0; i < net->layers; i++) {
        const int error = read_layer(net, i, reader, &stored[i]);
        if (error) return error;
    }
    const int32_t made = IMAGE_CHANNELS * net->factor * net->factor;
    if (reader->at != reader->end || net->layer[net->layers - 1].outputs != made)
        return ANCHORSR_DAMAGED;
    return ANCHORSR_OK;
}

int anchorsr_load(const uint8_t *bytes, size_t length, int32_t set, anchorsr_network **loaded) {
    if (!bytes || !loaded || !set_number(set)) return ANCHORSR_BAD_CALL;
    *loaded = NULL;
    struct network *net = calloc(1, sizeof *net);
    if (!net) return ANCHORSR_NO_MEMORY;
    net->set = set_number(set);
    struct stored_layer stored[MOST_LAYERS];
    struct reader reader = {bytes, bytes + length, 0};
    int error = read_network(net, &reader, stored);
    struct arena arena = {NULL, 0};
    for (int writes = 0; writes < 2 && !error; writes++) {
        arena.used = 0;
        for (int32_t i = 0; i < net->layers && !error; i++)
            error = load_layer(net, &net->layer[i], stored[i], &arena);
        if (writes || error) continue;
        net->memory = calloc(1, arena.used + ALIGNMENT);
        if (!net->memory) error = ANCHORSR_NO_MEMORY;
        const uintptr_t address = (uintptr_t)net->memory + ALIGNMENT - 1;
        arena.memory = (uint8_t *)(address / ALIGNMENT * ALIGNMENT);
    }
    if (error) {
        anchorsr_free(net);
        return error;
    }
    plan_rows(net);
    *loaded = net;
    return ANCHORSR_OK;
}

void anchorsr_free(anchorsr_network *net) {
    if (!net) return;
    free(net->memory);
    free(net);
}
