/* What the kernel's library gives to its callers: Python (library.py) and JavaScript (browser/).
 *
 * Every argument is checked, so that none can make it read or write what it should not; only the
 * pointers themselves, and the sizes that go with them, are taken at their word. A network may be
 * run by several threads at once, each with a workspace of its own.
 */

#ifndef ANCHORSR_API_H
#define ANCHORSR_API_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define ANCHORSR_API __declspec(dllexport)
#else
#define ANCHORSR_API __attribute__((visibility("default")))
#endif

/* Raised with every change of these functions or of the stored form: library.py has it too. */
enum { ANCHORSR_VERSION = 1 };

typedef struct network anchorsr_network;

enum {
    ANCHORSR_OK,
    ANCHORSR_BAD_CALL,  /* an argument that is none, or sizes that do not belong together */
    ANCHORSR_DAMAGED,   /* bytes that are no stored network */
    ANCHORSR_TOO_LARGE, /* sums or values that might not fit 32 bits */
    ANCHORSR_NO_MEMORY,
};

ANCHORSR_API int anchorsr_version(void);

/* The name of an instruction set, best first; NULL beyond the last one. */
ANCHORSR_API const char *anchorsr_set_name(int32_t set);

/* Does this processor have it? */
ANCHORSR_API int anchorsr_available(int32_t set);

/* Make a stored network (load.c) ready for an instruction set. */
ANCHORSR_API int anchorsr_load(const uint8_t *bytes, size_t length, int32_t set,
                               anchorsr_network **loaded);
ANCHORSR_API void anchorsr_free(anchorsr_network *net);

/* How many bytes of memory a call needs for an image of a width; 0 for one that is too wide. */
ANCHORSR_API uint64_t anchorsr_workspace(const anchorsr_network *net, int32_t width);

/* Upscale the rows `first` to `end` of an image, uint8 [height][width][3], to
 * [height * factor][width * factor][3], of which it writes those that belong to these rows. */
ANCHORSR_API int anchorsr_run(const anchorsr_network *net, const uint8_t *image,
                              uint64_t image_bytes, int32_t height, int32_t width, int32_t first,
                              int32_t end, uint8_t *upscaled, uint64_t upscaled_bytes,
                              uint8_t *workspace, uint64_t workspace_bytes);

#endif
