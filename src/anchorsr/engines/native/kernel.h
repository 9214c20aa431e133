/* A fused kernel for small integer super-resolution networks: what its parts share.
 *
 * A network is a list of layers, each a 3x3 or 1x1 convolution whose result is rounded to a byte
 * and to which another tensor may be added. Rows of the image flow through all layers while they
 * are in the cache (stream.c); of each tensor only the few rows that are still needed are kept.
 * What is fast is one function for each instruction set, which makes one row of one layer.
 *
 * Numbers. A stored byte is the graph's int8 value + 128, so that a zero point of -128 is byte 0
 * and an image's byte is itself. The arithmetic is the exact executor's:
 *
 *     sum    = bias + sum of (byte - zero) * weight                      int32
 *     value  = (float)sum * multiplier, rounded half to even             one float32 product
 *     result = value + zero_point, limited to low..high                  a byte
 *
 * (byte - zero) * weight is byte * weight - zero * weight; the second part does not depend on the
 * image and goes into the bias when a network is loaded (load.c).
 *
 * Words. The channels of a pixel lie side by side; 4 of them are a "group", which a lane of a
 * vector multiplies by 4 weights. Two groups are a "step" of the inner loop, or four, where an
 * instruction set gains from it. As many outputs as a vector has lanes are a "block". A "tile" is what is in registers at once: some pixels times one
 * or several blocks; these blocks are a "run", and read their groups in the same order.
 */

#ifndef ANCHORSR_KERNEL_H
#define ANCHORSR_KERNEL_H

#include <stddef.h>
#include <stdint.h>

enum {
    GROUP = 4,
    NO_TENSOR = -1,
    MOST_LAYERS = 64,
    MOST_CHANNELS = 256,
    MOST_FACTOR = 8,
    ALIGNMENT = 64,
    SLACK = 64,          /* bytes after a row that may be read, and mean nothing */
};

/* Where a group lies: in which row of the convolution's window, and how many bytes after that
 * row's first pixel. */
struct group {
    int32_t row, offset;
};

struct run {
    int32_t first_output, blocks;
    int32_t fours, twos;         /* steps of four groups, and then steps of two */
    const struct group *groups;
    const int8_t *weights;       /* for each group [blocks][lanes][GROUP] */
};

static inline int32_t groups_of(const struct run *run) { return 4 * run->fours + 2 * run->twos; }

/* Tensor 0 is the image; tensor i + 1 is what layer i makes. */
struct tensor {
    int32_t channels;
    int32_t stride;  /* bytes from a pixel to the next */
    int32_t zero;    /* the byte that stands for 0, as which pixels beyond the image count */
    int32_t reach;   /* how many rows further down than the output it has to be */
    int32_t rows;    /* how many of its rows are kept */
};

struct layer {
    int32_t input;     /* a tensor, and its stride */
    int32_t input_stride;
    int32_t window;    /* 3 or 1: rows and columns that an output depends on */
    int32_t outputs, stride;
    int32_t zero_point, low, high;
    int32_t added;     /* a tensor, or NO_TENSOR */
    int32_t added_stride;
    int32_t added_offset;  /* what the sum of two bytes lacks to be the byte of the sum */
    const uint8_t *copied; /* [stride] NULL, or the channel of the image added to each output */
    const int32_t *bias;   /* [stride] */
    const float *multipliers;  /* [stride] */
    int32_t runs;
    const struct run *run;
};

/* What makes a row of a layer, or a part of it. */
struct row {
    const uint8_t *const *groups;  /* where each group of each run lies for the first pixel */
    const uint8_t *added;          /* the first pixel of the tensor that is added, or NULL */
    uint8_t *out;
    int32_t pixels;                /* a multiple of the tile's */
};

/* How the groups of a run are ordered into steps. */
enum order {
    ADJACENT, /* a step is 8 bytes side by side; where there are no more channels, weights are 0 */
    WOVEN,    /* the same, with the weights of both groups of an output side by side */
    FREE,     /* groups without channels are left out */
    MATCHED,  /* the products that share 16 bits in a step fit them: see order.c */
};

struct instruction_set {
    const char *name;
    int (*available)(void);
    int32_t lanes, blocks, pixels; /* of a tile; fewer blocks where no more are left */
    enum order order;
    int32_t centre; /* what the instructions take from each byte before they multiply it */
    void (*make_row)(const struct layer *, const struct row *);
};

/* sets.c: an instruction set that this processor has, or NULL. */
const struct instruction_set *set_number(int32_t set);

struct network {
    const struct instruction_set *set;
    int32_t tensors, layers, factor;
    struct tensor tensor[MOST_LAYERS + 1];
    struct layer layer[MOST_LAYERS];
    int32_t most_groups;  /* of a layer, over all of its runs */
    void *memory;         /* what the layers point into */
};

static inline int32_t round_up(int32_t number, int32_t to) { return (number + to - 1) / to * to; }

/* order.c: order the groups of a run, whose first output and blocks are given, and count its steps.
 * Groups and weights are written where `groups` and `packed` point, unless these are NULL.
 * weights: [outputs][window][window][channels] of the whole layer. 0 where there is no memory. */
int order_run(const struct instruction_set *set, const struct layer *layer,
              const struct tensor *input, const int8_t *weights, struct run *run,
              struct group *groups, int8_t *packed);

#endif
