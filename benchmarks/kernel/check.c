/* Runs stored cases through the kernel on every instruction set there is, and compares each byte.
 *
 *     check CASES [FUZZ]
 *
 * CASES are 32-bit numbers and bytes, as benchmarks/kernel_checks.py writes them: number of cases;
 * for each the sizes of the network, the image's height and width, the factor, then the network,
 * the image and what the exact executor makes of it. FUZZ: how many damaged forms of each network
 * are loaded, and run where they load. Made for sanitizers, emulators and WebAssembly, where Python
 * is not. Prints the instruction sets, and exits with 1 on any difference.
 */

#include "api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef __wasm__
#include <pthread.h>
#endif

struct job {
    const anchorsr_network *net;
    const uint8_t *image;
    uint8_t *upscaled;
    int32_t height, width, factor, first, end;
    int error;
};

static void *run(void *pointer) {
    struct job *job = pointer;
    const uint64_t pixels = (uint64_t)job->height * (uint64_t)job->width;
    const uint64_t size = anchorsr_workspace(job->net, job->width);
    uint8_t *workspace = malloc((size_t)size);
    if (!workspace) {
        job->error = ANCHORSR_NO_MEMORY;
        return NULL;
    }
    memset(workspace, 0xA5, (size_t)size); /* what is there before must not matter */
    const uint64_t made = 3 * pixels * (uint64_t)(job->factor * job->factor);
    job->error = anchorsr_run(job->net, job->image, 3 * pixels, job->height, job->width, job->first,
                              job->end, job->upscaled, made, workspace, size);
    free(workspace);
    return NULL;
}

/* In one band, or in two at once. */
static int run_bands(struct job job, int32_t bands) {
    struct job jobs[2] = {job, job};
    if (bands == 2) jobs[0].end = jobs[1].first = job.height / 2;
#ifndef __wasm__
    pthread_t threads[2];
    for (int32_t i = 0; i < bands; i++)
        if (pthread_create(&threads[i], NULL, run, &jobs[i])) return ANCHORSR_NO_MEMORY;
    for (int32_t i = 0; i < bands; i++) pthread_join(threads[i], NULL);
#else
    for (int32_t i = 0; i < bands; i++) run(&jobs[i]);
#endif
    return jobs[0].error ? jobs[0].error : jobs[1].error;
}

static uint32_t draw(uint32_t *state) { return *state = *state * 1664525u + 1013904223u; }

/* Damage a few bytes, mostly of the first numbers, or cut the end off. */
static size_t damage(uint8_t *bytes, size_t length, uint32_t *state) {
    if (draw(state) >> 30 == 0) length = (draw(state) >> 8) % length;
    for (int i = 0; i < 3 && length; i++) {
        const size_t reach = draw(state) >> 31 && length > 80 ? 80 : length;
        bytes[(draw(state) >> 8) % reach] = (uint8_t)(draw(state) >> 24);
    }
    return length;
}

static void fuzz(const uint8_t *stored, size_t length, int32_t set, int times, const uint8_t *image,
                 int32_t height, int32_t width, int *loaded) {
    uint32_t state = (uint32_t)length;
    for (int i = 0; i < times; i++) {
        uint8_t *bytes = malloc(length);
        memcpy(bytes, stored, length);
        const size_t left = damage(bytes, length, &state);
        uint8_t *exact = malloc(left + 1); /* so that a byte too far is seen */
        memcpy(exact, bytes, left);
        anchorsr_network *net;
        if (!anchorsr_load(exact, left, set, &net)) {
            (*loaded)++;
            for (int32_t factor = 1; factor <= 8; factor++) {
                const size_t size = (size_t)height * (size_t)width * 3 * (size_t)(factor * factor);
                uint8_t *upscaled = malloc(size);
                struct job job = {net, image, upscaled, height, width, factor, 0, height, 0};
                run(&job);
                free(upscaled);
            }
            anchorsr_free(net);
        }
        free(exact);
        free(bytes);
    }
}

static int32_t number(FILE *file) {
    int32_t value = 0;
    if (fread(&value, 4, 1, file) != 1) exit(2);
    return value;
}

static uint8_t *bytes_of(FILE *file, size_t count) {
    uint8_t *bytes = malloc(count);
    if (!bytes || fread(bytes, 1, count, file) != count) exit(2);
    return bytes;
}

int main(int count, char **arguments) {
    FILE *file = count > 1 ? fopen(arguments[1], "rb") : NULL;
    if (!file) return 2;
    const int times = count > 2 ? atoi(arguments[2]) : 0;
    int compared = 0, different = 0, loaded = 0;
    const int32_t cases = number(file);
    for (int32_t i = 0; i < cases; i++) {
        const size_t length = (size_t)number(file);
        const int32_t height = number(file), width = number(file), factor = number(file);
        const size_t image_size = (size_t)height * (size_t)width * 3;
        const size_t size = image_size * (size_t)(factor * factor);
        uint8_t *stored = bytes_of(file, length), *image = bytes_of(file, image_size);
        uint8_t *expected = bytes_of(file, size), *upscaled = malloc(size);
        for (int32_t set = 0; anchorsr_set_name(set); set++) {
            if (!anchorsr_available(set)) continue;
            anchorsr_network *net;
            const int error = anchorsr_load(stored, length, set, &net);
            for (int32_t bands = 1; !error && bands <= 2 && bands <= height; bands++) {
                struct job job = {net, image, upscaled, height, width, factor, 0, height, 0};
                memset(upscaled, 77, size);
                const int failed = run_bands(job, bands);
                compared++;
                if (!failed && !memcmp(upscaled, expected, size)) continue;
                different++;
                printf("case %d, %s, %d bands: error %d or other bytes\n", (int)i,
                       anchorsr_set_name(set), (int)bands, failed);
            }
            if (error) {
                different++;
                printf("case %d, %s: error %d\n", (int)i, anchorsr_set_name(set), error);
            } else {
                anchorsr_free(net);
            }
            fuzz(stored, length, set, times, image, height < 4 ? height : 4, width, &loaded);
        }
        free(stored), free(image), free(expected), free(upscaled);
    }
    fclose(file);
    printf("instruction sets:");
    for (int32_t set = 0; anchorsr_set_name(set); set++)
        if (anchorsr_available(set)) printf(" %s", anchorsr_set_name(set));
    printf("\n%d results compared, %d different; %d damaged networks run\n", compared, different,
           loaded);
    return different != 0;
}
