/* A stand-in for CUDA's libraries: device memory is memory of the host, copies copy, and kernels do nothing.
 *
 * With it, onnxruntime-gpu loads its CUDA provider on a machine without a GPU: which kernels it has, which nodes it takes, what is
 * bound where, what is captured and replayed, and what happens when memory runs out can all be seen. What is computed cannot.
 * Functions that are not here return 0, success; stand_in.py adds them by name.
 *
 *   STAND_IN_GPUS     how many devices there are, 1 by default
 *   STAND_IN_BYTES    memory of each, 8 GiB by default
 *   STAND_IN_DRIVER   the CUDA version that the driver supports, 13000 by default
 *   STAND_IN_REPORT   a file for the number of kernels, captures, replays and bytes copied each way, written at the end
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101 };
enum { TO_DEVICE = 1, TO_HOST = 2 };
enum { HEADER = 256, DEVICES = 16 };

static size_t setting(const char *name, size_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

/* Devices and their memory. A block begins with its size and its device. */

static __thread int current;
static size_t used[DEVICES];
static long launches, captures, replays, sent, fetched;

static int devices(void) { return (int)setting("STAND_IN_GPUS", 1); }
static size_t memory(void) { return setting("STAND_IN_BYTES", (size_t)8 << 30); }

int cudaGetDeviceCount(int *count) { *count = devices(); return SUCCESS; }
int cudaGetDevice(int *device) { *device = current; return SUCCESS; }
int cudaSetDevice(int device) {
    if (device < 0 || device >= devices()) return INVALID_DEVICE;
    current = device;
    return SUCCESS;
}
int cuDriverGetVersion(int *version) { *version = (int)setting("STAND_IN_DRIVER", 13000); return SUCCESS; }
int cudaDriverGetVersion(int *version) { return cuDriverGetVersion(version); }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return SUCCESS; }

typedef struct { /* the beginning of cudaDeviceProp as CUDA 13 has it */
    char name[256], uuid[16], luid[8];
    unsigned luid_device_node_mask;
    size_t total_global_mem, shared_mem_per_block;
    int regs_per_block, warp_size;
    size_t mem_pitch;
    int max_threads_per_block, max_threads_dim[3], max_grid_size[3];
    size_t total_const_mem;
    int major, minor;
    size_t texture_alignment, texture_pitch_alignment;
    int multi_processor_count;
} Properties;

int cudaGetDeviceProperties(Properties *p, int device) {
    memset(p, 0, 1008);
    strcpy(p->name, "stand-in");
    p->total_global_mem = memory();
    p->shared_mem_per_block = 49152;
    p->regs_per_block = 65536;
    p->warp_size = 32;
    p->max_threads_per_block = 1024;
    for (int i = 0; i < 3; i++) p->max_threads_dim[i] = 1024, p->max_grid_size[i] = 65535;
    p->major = 9;
    p->multi_processor_count = 132;
    return SUCCESS;
}

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
        case 1: *value = 1024; break;  /* threads of a block */
        case 10: *value = 32; break;   /* threads of a warp */
        case 16: *value = 132; break;  /* multiprocessors */
        case 75: *value = 9; break;    /* compute capability 9.0 */
        case 76: *value = 0; break;
        default: *value = 65536;
    }
    return SUCCESS;
}

static int take(void **pointer, size_t size) {
    if (used[current] + size > memory()) return OUT_OF_MEMORY;
    size_t *block = calloc(1, size + HEADER);
    if (!block) return OUT_OF_MEMORY;
    block[0] = size, block[1] = (size_t)current;
    used[current] += size;
    *pointer = (char *)block + HEADER;
    return SUCCESS;
}

static int give_back(void *pointer) {
    if (pointer) {
        size_t *block = (size_t *)((char *)pointer - HEADER);
        used[block[1]] -= block[0];
        free(block);
    }
    return SUCCESS;
}

int cudaMalloc(void **pointer, size_t size) { return take(pointer, size); }
int cudaMallocFromPoolAsync(void **pointer, size_t size, void *pool, void *stream) { return take(pointer, size); }
int cudaFree(void *pointer) { return give_back(pointer); }
int cudaFreeAsync(void *pointer, void *stream) { return give_back(pointer); }
int cudaMallocHost(void **pointer, size_t size) { *pointer = calloc(1, size + 64); return SUCCESS; }
int cudaHostAlloc(void **pointer, size_t size, unsigned flags) { return cudaMallocHost(pointer, size); }
int cudaFreeHost(void *pointer) { free(pointer); return SUCCESS; }
int cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    *total = memory();
    *free_bytes = memory() - used[current];
    return SUCCESS;
}
int cudaPointerGetAttributes(void *attributes, const void *pointer) { memset(attributes, 0, 64); return SUCCESS; }
int cudaMemPoolGetAttribute(void *pool, int attribute, void *value) { memset(value, 0, 8); return SUCCESS; }

/* Copies. Those of edgelm itself name no direction and are not counted. */

static void count(size_t size, int kind) {
    if (kind == TO_DEVICE) sent += (long)size;
    if (kind == TO_HOST) fetched += (long)size;
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
    count(size, kind);
    memmove(to, from, size);
    return SUCCESS;
}
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    return cudaMemcpy(to, from, size, kind);
}
int cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, int kind) {
    if (height > 1 && (to_pitch < width || from_pitch < width)) return 12; /* invalid pitch */
    for (size_t row = 0; row < height; row++)
        cudaMemcpy((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width, kind);
    return SUCCESS;
}
int cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                      int kind, void *stream) {
    return cudaMemcpy2D(to, to_pitch, from, from_pitch, width, height, kind);
}
int cudaMemset(void *pointer, int value, size_t size) { memset(pointer, value, size); return SUCCESS; }
int cudaMemsetAsync(void *pointer, int value, size_t size, void *stream) { return cudaMemset(pointer, value, size); }

/* Handles: anything that is not null. */

static int handle(void **made) { *made = calloc(1, 64); return SUCCESS; }
int cudaStreamCreate(void **made) { return handle(made); }
int cudaStreamCreateWithFlags(void **made, unsigned flags) { return handle(made); }
int cudaEventCreate(void **made) { return handle(made); }
int cudaEventCreateWithFlags(void **made, unsigned flags) { return handle(made); }
int cudaEventElapsedTime(float *milliseconds, void *start, void *end) { *milliseconds = 1; return SUCCESS; }
int cudaMemPoolCreate(void **made, void *properties) { return handle(made); }
int cudaLibraryLoadData(void **made) { return handle(made); }
int cudaLibraryGetKernel(void **made) { return handle(made); }
int cublasCreate_v2(void **made) { return handle(made); }
int cublasLtCreate(void **made) { return handle(made); }
int cublasLtMatmulDescCreate(void **made) { return handle(made); }
int cublasLtMatmulPreferenceCreate(void **made) { return handle(made); }
int cublasLtMatrixLayoutCreate(void **made) { return handle(made); }
int cublasLtMatrixTransformDescCreate(void **made) { return handle(made); }
int cublasLtMatmulAlgoGetHeuristic(void *h, void *op, void *a, void *b, void *c, void *d, void *preference, int wanted,
                                   void *results, int *found) {
    *found = 1;
    return SUCCESS;
}
int cublasGetMathMode(void *h, int *mode) { *mode = 0; return SUCCESS; }

/* Kernels and graphs: counted. */

int cudaLaunchKernel(void) { launches++; return SUCCESS; }
int __cudaLaunchKernel(void) { return cudaLaunchKernel(); }
int cudaLaunchKernelExC(void) { return cudaLaunchKernel(); }
int cudaLaunchCooperativeKernel(void) { return cudaLaunchKernel(); }
int cudaLaunchHostFunc(void *stream, void (*function)(void *), void *data) { function(data); return SUCCESS; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return SUCCESS; }
int cudaStreamBeginCapture(void *stream, int mode) { captures++; return SUCCESS; }
int cudaStreamEndCapture(void *stream, void **graph) { return handle(graph); }
int cudaGraphInstantiate(void **made, void *graph, unsigned long long flags) { return handle(made); }
int cudaGraphLaunch(void *graph, void *stream) { replays++; return SUCCESS; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *f, int size, size_t m, unsigned flags) {
    *blocks = 1;
    return SUCCESS;
}
int cudaFuncGetAttributes(void *attributes, const void *function) { memset(attributes, 0, 128); return SUCCESS; }
int cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version, unsigned long long flags, int *status) {
    *function = NULL;
    if (status) *status = 1;
    return SUCCESS;
}
void **__cudaRegisterFatBinary(void *binary) { static void *handles[8]; return handles; }
void __cudaRegisterFatBinaryEnd(void **handles) {}
void __cudaUnregisterFatBinary(void **handles) {}
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}
unsigned __cudaPushCallConfiguration(void) { return 0; }
int __cudaPopCallConfiguration(void) { return SUCCESS; }
int __cudaGetKernel(void **kernel, const void *function) { *kernel = (void *)function; return SUCCESS; }

const char *cudaGetErrorName(int error) { return error == OUT_OF_MEMORY ? "cudaErrorMemoryAllocation" : "cudaError"; }
const char *cudaGetErrorString(int error) {
    return error == OUT_OF_MEMORY ? "out of memory" : error == INVALID_DEVICE ? "invalid device ordinal" : "no error";
}
size_t cudnnGetVersion(void) { return 8000; } /* too old for attention, whose plans would have to be made */
const char *cudnnGetErrorString(int status) { return "status"; }
const char *cublasGetStatusName(int status) { return "status"; }
const char *cublasGetStatusString(int status) { return "status"; }

__attribute__((destructor)) static void report(void) {
    const char *file = getenv("STAND_IN_REPORT");
    FILE *out = file && launches + captures + replays + sent + fetched ? fopen(file, "w") : NULL;
    if (!out) return;
    fprintf(out, "{\"launches\": %ld, \"captures\": %ld, \"replays\": %ld, \"sent\": %ld, \"fetched\": %ld}\n", launches,
            captures, replays, sent, fetched);
    fclose(out);
}
