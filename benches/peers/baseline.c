// The yardstick: Adam and RMSprop as one plain loop over each tensor, which the compiler vectorises.
//
//   gcc -O3 -march=native -fopenmp -fno-math-errno baseline.c -o baseline -lm
//
// -fno-math-errno lets sqrtf become an instruction; nothing here needs -ffast-math. Stores are ordinary ones.

#define _GNU_SOURCE
#include <math.h>
#include <omp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { LINE = 16 }; // f32 in a cache line

// One array of every tensor's elements, each tensor from a line's start on.
static float *p, *g, *m, *v;

static size_t tensors;
static size_t *len, *start; // start[tensors] is where the last one ends, in lines' multiples

static float *array(size_t index) {
    size_t bytes = start[tensors] * sizeof(float);
    size_t huge = (size_t)2 << 20;
    // Arrays that lie a power of two apart compete for the same cache sets, so each starts some pages further on.
    size_t stagger = index * (5 * 4096 + 13 * 64);
    size_t total = (bytes + stagger + huge - 1) / huge * huge + huge;
    char *mapped = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
        fprintf(stderr, "no memory for %zu bytes\n", total);
        exit(1);
    }
    char *aligned = (char *)(((uintptr_t)mapped + huge - 1) / huge * huge);
    if (bytes >= huge) madvise(aligned, total - (aligned - mapped), MADV_HUGEPAGE);
    return (float *)(aligned + stagger);
}

static void adam(float *restrict p, const float *restrict g, float *restrict m, float *restrict v, size_t n,
                 float step_size, float inv_sqrt_bc2) {
    const float b1 = 0.9f, b2 = 0.999f, c1 = (float)(1 - 0.9), c2 = (float)(1 - 0.999), eps = 1e-8f;
    for (size_t i = 0; i < n; i++) {
        float m1 = b1 * m[i] + c1 * g[i];
        float v1 = b2 * v[i] + c2 * (g[i] * g[i]);
        m[i] = m1;
        v[i] = v1;
        p[i] -= step_size * m1 / (sqrtf(v1) * inv_sqrt_bc2 + eps);
    }
}

static void rmsprop(float *restrict p, const float *restrict g, float *restrict v, size_t n) {
    const float lr = 1e-2f, alpha = 0.99f, c = (float)(1 - 0.99), eps = 1e-8f;
    for (size_t i = 0; i < n; i++) {
        float v1 = alpha * v[i] + c * (g[i] * g[i]);
        v[i] = v1;
        p[i] -= lr * g[i] / (sqrtf(v1) + eps);
    }
}

// What thread k of n has: an equal part of all lines of all tensors, whatever the tensors' lengths.
static void part(int k, int n, size_t *from, size_t *to) {
    size_t lines = start[tensors] / LINE;
    *from = lines * k / n * LINE;
    *to = lines * (k + 1) / n * LINE;
}

static size_t holding(size_t element) {
    size_t lo = 0, hi = tensors;
    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;
        if (start[mid] <= element) lo = mid;
        else hi = mid;
    }
    return lo;
}

static void step(bool is_adam, int t) {
    float step_size = (float)(1e-3 / (1 - pow(0.9, t)));
    float inv_sqrt_bc2 = (float)(1 / sqrt(1 - pow(0.999, t)));
#pragma omp parallel
    {
        size_t from, to;
        part(omp_get_thread_num(), omp_get_num_threads(), &from, &to);
        for (size_t tensor = from < to ? holding(from) : tensors; tensor < tensors && start[tensor] < to; tensor++) {
            size_t a = start[tensor] > from ? start[tensor] : from;
            size_t b = start[tensor] + len[tensor] < to ? start[tensor] + len[tensor] : to;
            if (a >= b) continue;
            if (is_adam) adam(p + a, g + a, m + a, v + a, b - a, step_size, inv_sqrt_bc2);
            else rmsprop(p + a, g + a, v + a, b - a);
        }
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void usage(const char *why) {
    fprintf(stderr, "%s\nusage: baseline --rule adam|rmsprop --lengths FILE [--threads N] [--check]\n", why);
    exit(2);
}

int main(int count, char **args) {
    const char *rule = NULL, *lengths = NULL;
    int threads = 2;
    bool check = false;
    for (int i = 1; i < count; i++) {
        if (!strcmp(args[i], "--check")) check = true;
        else if (i + 1 == count) usage("an option lacks its value, or is unknown");
        else if (!strcmp(args[i], "--rule")) rule = args[++i];
        else if (!strcmp(args[i], "--lengths")) lengths = args[++i];
        else if (!strcmp(args[i], "--threads")) threads = atoi(args[++i]);
        else usage("unknown option");
    }
    if (!rule || !lengths || threads < 1) usage("--rule, --lengths and at least one thread are needed");
    bool is_adam = !strcmp(rule, "adam");
    if (!is_adam && strcmp(rule, "rmsprop")) {
        fprintf(stderr, "no rule %s\n", rule);
        return 3;
    }
    omp_set_dynamic(0);
    omp_set_num_threads(threads);

    FILE *file = fopen(lengths, "r");
    if (!file) usage("the file of lengths cannot be read");
    size_t room = 0, n;
    while (fscanf(file, "%zu", &n) == 1) {
        if (tensors + 1 >= room) {
            room = room ? 2 * room : 64;
            len = realloc(len, room * sizeof *len);
            start = realloc(start, room * sizeof *start);
            if (!len || !start) return 1;
            start[0] = 0;
        }
        len[tensors] = n;
        start[tensors + 1] = start[tensors] + (n + LINE - 1) / LINE * LINE;
        tensors++;
    }
    fclose(file);
    if (!tensors) usage("the file of lengths is empty");

    p = array(0);
    g = array(1);
    m = is_adam ? array(2) : NULL;
    v = array(3);
    // Each thread is the first to touch the pages that it will step.
#pragma omp parallel
    {
        size_t from, to;
        part(omp_get_thread_num(), omp_get_num_threads(), &from, &to);
        for (size_t tensor = from < to ? holding(from) : tensors; tensor < tensors && start[tensor] < to; tensor++) {
            size_t a = start[tensor] > from ? start[tensor] : from;
            size_t b = start[tensor] + len[tensor] < to ? start[tensor] + len[tensor] : to;
            for (size_t e = a; e < b; e++) {
                size_t i = e - start[tensor];
                p[e] = (float)(0.01 * ((double)((i + 31 * tensor) % 97) - 48));
                g[e] = (float)(0.001 * ((double)((i + 17 * tensor) % 89) - 44.5));
                v[e] = 0;
                if (m) m[e] = 0;
            }
        }
    }

    int t = 0;
    if (check) {
        while (t < 3) step(is_adam, ++t);
        for (size_t tensor = 0; tensor < tensors; tensor++) {
            const float *of = p + start[tensor];
            size_t n = len[tensor];
            printf("%s[%.9g, %.9g, %.9g]", tensor ? ", " : "[", of[0], of[n / 2], of[n - 1]);
        }
        printf("]\n");
        return 0;
    }
    while (t < 2) step(is_adam, ++t);
    printf("{\"name\": \"baseline-c\", \"version\": \"gcc %s\", \"device\": \"CPU, %d thread%s\"}\n", __VERSION__,
           threads, threads == 1 ? "" : "s");
    fflush(stdout);
    long steps;
    while (scanf("%ld", &steps) == 1) {
        double began = now();
        for (long i = 0; i < steps; i++) step(is_adam, ++t);
        printf("%.9f\n", now() - began);
        fflush(stdout);
    }
    return 0;
}
