/* An image through a network, row by row.
 *
 * In step s every layer makes one row: the one that lies `reach` rows below row s, where the reach
 * of a tensor is how far down the layers after it look. So in each step a layer finds the rows that
 * it needs just made, and of each tensor only as many are kept as the next layers look back on:
 * three for a chain of 3x3 convolutions, more for what is added several layers later. They lie in
 * rings, row y in place y mod `rows`, with a pixel of zero on each side; beyond the first and the
 * last row of the image lies a row of zeros.
 *
 * A call makes some rows of the output, so that threads take bands. Bands share nothing: each makes
 * for itself the rows around it that it looks at, fewer from layer to layer.
 */

#include "api.h"
#include "kernel.h"

#include <string.h>

enum {
    MOST_WIDTH = 1 << 24,
    CHUNK = 48, /* pixels of the last layer that are made before they are moved to their places;
                   a multiple of every tile's */
};

struct band {
    const struct network *net;
    const uint8_t *image;
    uint8_t *upscaled;
    int32_t height, width, first, end;
    size_t pitch[MOST_LAYERS + 1];   /* bytes from a row to the next */
    uint8_t *ring[MOST_LAYERS + 1];  /* the left margin of place 0; then a row of zeros */
    const uint8_t **groups;
    uint8_t *chunk;
};

static int32_t most(int32_t a, int32_t b) { return a > b ? a : b; }
static int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }

static uint64_t aligned(uint64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* Tiles write whole, and pixels lie on both sides of a row. */
static uint64_t pitch_of(const struct network *net, int32_t tensor, int32_t width) {
    const uint64_t pixels = (uint64_t)round_up(width, net->set->pixels) + 2;
    return aligned(pixels * (uint64_t)net->tensor[tensor].stride + SLACK);
}

/* Give each part of the workspace its place; returns its size. memory may be NULL. */
static uint64_t lay_out(const struct network *net, int32_t width, uint8_t *memory,
                        struct band *band) {
    const uint64_t groups = aligned((uint64_t)net->most_groups * sizeof(uint8_t *));
    const uint64_t pixel = (uint64_t)net->tensor[net->layers].stride;
    const uint64_t chunk = aligned(CHUNK * pixel + SLACK);
    uint64_t used = groups + chunk;
    if (memory) {
        band->groups = (const uint8_t **)(void *)memory;
        band->chunk = memory + groups;
    }
    for (int32_t t = 0; t < net->layers; t++) { /* the last tensor goes to the image at once */
        const uint64_t pitch = pitch_of(net, t, width);
        if (memory) {
            band->pitch[t] = (size_t)pitch;
            band->ring[t] = memory + used;
        }
        used += pitch * ((uint64_t)net->tensor[t].rows + 1);
    }
    return used + ALIGNMENT; /* to begin at a multiple of it */
}

/* The left margin of a row of a tensor, which may lie beyond the image. */
static uint8_t *row_of(const struct band *band, int32_t tensor, int32_t y) {
    const int32_t rows = band->net->tensor[tensor].rows;
    const int32_t place = y < 0 || y >= band->height ? rows : y % rows;
    return band->ring[tensor] + (size_t)place * band->pitch[tensor];
}

static void fill_margins(const struct band *band) {
    const struct network *net = band->net;
    for (int32_t t = 0; t < net->layers; t++) {
        const struct tensor *tensor = &net->tensor[t];
        for (int32_t place = 0; place < tensor->rows; place++)
            memset(band->ring[t] + (size_t)place * band->pitch[t], tensor->zero,
                   (size_t)tensor->stride);
        memset(band->ring[t] + (size_t)tensor->rows * band->pitch[t], tensor->zero, band->pitch[t]);
    }
}

/* RGB to pixels of 4 bytes, of which the last one means nothing: its weights are 0. */
static void take_image_row(const struct band *band, int32_t y) {
    const uint8_t *from = band->image + (size_t)y * (size_t)band->width * 3;
    uint8_t *to = row_of(band, 0, y) + GROUP;
    for (int32_t x = 0; x + 1 < band->width; x++, from += 3, to += GROUP) memcpy(to, from, GROUP);
    memcpy(to, from, 3);
    to[3] = 0;
    memset(to + GROUP, band->net->tensor[0].zero, GROUP);
}

/* Where the groups of a layer lie for the pixel x of row y. */
static void point(const struct band *band, const struct layer *layer, int32_t y, int32_t x) {
    const uint8_t *rows[3];
    const int32_t around = layer->window / 2;
    for (int32_t i = 0; i < layer->window; i++)
        rows[i] = row_of(band, layer->input, y + i - around) +
                  (size_t)(x + 1 - around) * (size_t)layer->input_stride;
    const uint8_t **groups = band->groups;
    for (const struct run *run = layer->run; run < layer->run + layer->runs; run++)
        for (int32_t i = 0; i < groups_of(run); i++)
            *groups++ = rows[run->groups[i].row] + run->groups[i].offset;
}

static const uint8_t *added_from(const struct band *band, const struct layer *layer, int32_t y,
                                 int32_t x) {
    if (layer->added == NO_TENSOR) return NULL;
    return row_of(band, layer->added, y) + (size_t)(x + 1) * (size_t)layer->added_stride;
}

static void make_row(const struct band *band, int32_t index, int32_t y) {
    const struct instruction_set *set = band->net->set;
    const struct layer *layer = &band->net->layer[index];
    const size_t stride = (size_t)layer->stride;
    uint8_t *out = row_of(band, index + 1, y) + stride;
    point(band, layer, y, 0);
    const struct row row = {band->groups, added_from(band, layer, y, 0), out,
                            round_up(band->width, set->pixels)};
    set->make_row(layer, &row);
    memset(out + (size_t)band->width * stride, band->net->tensor[index + 1].zero, stride);
}

/* Depth-to-space: each pixel's channels are `factor` pieces, one for each row of the output. */
static void scatter(const struct band *band, int32_t y, int32_t x, int32_t pixels) {
    const struct network *net = band->net;
    const size_t factor = (size_t)net->factor, piece = 3 * factor;
    const size_t stride = (size_t)net->tensor[net->layers].stride;
    for (size_t part = 0; part < factor; part++) {
        const size_t row = (size_t)y * factor + part;
        uint8_t *to = band->upscaled + (row * (size_t)band->width + (size_t)x) * piece;
        const uint8_t *from = band->chunk + part * piece;
        int32_t p = 0;
        /* 16 bytes at once, of which the next piece overwrites what is too much. */
        for (; piece < 16 && p + 6 < pixels; p++, from += stride, to += piece) memcpy(to, from, 16);
        for (; p < pixels; p++, from += stride, to += piece) memcpy(to, from, piece);
    }
}

static void make_output_row(const struct band *band, int32_t y) {
    const struct network *net = band->net;
    const struct layer *layer = &net->layer[net->layers - 1];
    for (int32_t x = 0; x < band->width; x += CHUNK) {
        const int32_t pixels = least(CHUNK, band->width - x);
        point(band, layer, y, x);
        const struct row row = {band->groups, added_from(band, layer, y, x), band->chunk,
                                round_up(pixels, net->set->pixels)};
        net->set->make_row(layer, &row);
        scatter(band, y, x, pixels);
    }
}

uint64_t anchorsr_workspace(const anchorsr_network *net, int32_t width) {
    if (!net || width < 1 || width > MOST_WIDTH) return 0;
    return lay_out(net, width, NULL, NULL);
}

int anchorsr_run(const anchorsr_network *net, const uint8_t *image, uint64_t image_bytes,
                 int32_t height, int32_t width, int32_t first, int32_t end, uint8_t *upscaled,
                 uint64_t upscaled_bytes, uint8_t *workspace, uint64_t workspace_bytes) {
    if (!net || !image || !upscaled || !workspace || height < 1 || width < 1 ||
        width > MOST_WIDTH || first < 0 || first >= end || end > height)
        return ANCHORSR_BAD_CALL;
    const uint64_t bytes = (uint64_t)height * (uint64_t)width * 3;
    const uint64_t enlarged = (uint64_t)net->factor * (uint64_t)net->factor;
    if (image_bytes != bytes || upscaled_bytes / enlarged != bytes || upscaled_bytes % enlarged ||
        workspace_bytes < anchorsr_workspace(net, width))
        return ANCHORSR_BAD_CALL;

    struct band band = {.net = net, .image = image, .upscaled = upscaled,
                        .height = height, .width = width, .first = first, .end = end};
    const uintptr_t address = (uintptr_t)workspace + ALIGNMENT - 1;
    lay_out(net, width, (uint8_t *)(address / ALIGNMENT * ALIGNMENT), &band);
    fill_margins(&band);
    for (int32_t step = first - 2 * net->tensor[0].reach; step < end; step++) {
        for (int32_t t = 0; t <= net->layers; t++) {
            const int32_t reach = net->tensor[t].reach, y = step + reach;
            if (y < most(0, first - reach) || y >= least(height, end + reach)) continue;
            if (t == 0)
                take_image_row(&band, y);
            else if (t < net->layers)
                make_row(&band, t - 1, y);
            else
                make_output_row(&band, y);
        }
    }
    return ANCHORSR_OK;
}
