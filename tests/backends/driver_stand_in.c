/* A stand-in for NVIDIA's driver, libcuda.so.1, without a card: it counts kernel launches instead of running them.
 *
 * Device memory is host memory, zero at first, so that copies work; one device of compute capability 9.0 with the limits of an H100;
 * every function that is not here succeeds and does nothing. With it the host's side of a GPU library runs for real, up
 * to the call that would start a kernel: enough to time that, and to see what a launch is asked for. What kernels
 * compute is not shown by it.
 *
 * gcc -shared -fPIC -o libcuda.so.1 driver_stand_in.c, then LD_LIBRARY_PATH to its folder.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long address;

static int nothing(void) { return 0; }

/* What the last launch was, for who asks by dlsym. */
struct launch {
    uint64_t count, function, grid[3], block[3], shared, stream, arguments[24];
};
struct launch stand_in_last;
uint64_t stand_in_parameters;                /* how many 8-byte parameters of a launch to copy: no more than it has */
uint64_t stand_in_capturing;                 /* whether streams are being captured */
uint64_t stand_in_ordinal;                   /* the device that all memory says it is on */
uint64_t stand_in_allocations, stand_in_synchronizations, stand_in_waits, stand_in_shared_limit;

static __thread void *context;
static int a_context;

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? 101 : 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "stand-in", length); return 0; }
int cuDeviceGetUuid(char *uuid, int device) { memset(uuid, 1, 16); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 1: *value = 1024; break;            /* threads per block */
    case 8: *value = 49152; break;           /* shared memory per block */
    case 10: *value = 32; break;             /* threads per warp */
    case 16: *value = 132; break;            /* multiprocessors */
    case 38: *value = 50 << 20; break;       /* L2 cache */
    case 75: *value = 9; break;              /* compute capability */
    case 76: *value = 0; break;
    case 97: *value = 232448; break;         /* shared memory per block, on request */
    default: *value = 1;
    }
    return 0;
}
int cuDevicePrimaryCtxRetain(void **c, int device) { *c = &a_context; return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }
int cuCtxGetCurrent(void **c) { *c = context; return 0; }
int cuCtxSetCurrent(void *c) { context = c; return 0; }
int cuCtxPushCurrent(void *c) { context = c; return 0; }
int cuCtxPopCurrent(void **c) { *c = context; context = NULL; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuCtxGetApiVersion(void *c, unsigned *version) { *version = 13000; return 0; }
int cuMemGetInfo(size_t *free_bytes, size_t *total) { *free_bytes = *total = (size_t)64 << 30; return 0; }
int cuMemAlloc(address *pointer, size_t size) {
    void *found = NULL;
    ++stand_in_allocations;
    if (posix_memalign(&found, 256, size ? size : 1)) return 2;
    memset(found, 0, size); /* what no kernel writes is the same every time */
    *pointer = (address)found;
    return 0;
}
int cuMemFree(address pointer) { free((void *)pointer); return 0; }
int cuMemcpyHtoD(address to, const void *from, size_t size) { memcpy((void *)to, from, size); return 0; }
int cuMemcpyDtoH(void *to, address from, size_t size) { memcpy(to, (void *)from, size); return 0; }
int cuMemcpyDtoHAsync(void *to, address from, size_t size, void *stream) { return cuMemcpyDtoH(to, from, size); }
int cuMemcpyHtoDAsync(address to, const void *from, size_t size, void *stream) { return cuMemcpyHtoD(to, from, size); }
int cuMemcpyDtoDAsync(address to, address from, size_t size, void *stream) {
    memmove((void *)to, (void *)from, size);
    return 0;
}
int cuPointerGetAttribute(void *data, int attribute, address pointer) {
    if (attribute == 1) *(void **)data = &a_context;
    else if (attribute == 2) *(unsigned *)data = 2; /* of the device */
    else *(int *)data = attribute == 9 ? (int)stand_in_ordinal : 0;
    return 0;
}
int cuPointerGetAttributes(unsigned count, int *attributes, void **data, address pointer) {
    for (unsigned i = 0; i < count; ++i) cuPointerGetAttribute(data[i], attributes[i], pointer);
    return 0;
}
int cuLibraryLoadData(void **library, const void *code, void *a, void *b, unsigned c, void *d, void *e, unsigned f) {
    static uintptr_t next = 0x1000;
    *library = (void *)(next += 16);
    return 0;
}
int cuLibraryGetKernel(void **kernel, void *library, const char *name) { *kernel = (char *)library + 1; return 0; }
int cuKernelGetFunction(void **function, void *kernel) { *function = kernel; return 0; }
int cuKernelGetLibrary(void **library, void *kernel) { *library = (char *)kernel - 1; return 0; }
int cuLibraryGetModule(void **module, void *library) { *module = library; return 0; }
int cuModuleLoadDataEx(void **module, const void *code, unsigned n, void *o, void *v) {
    return cuLibraryLoadData(module, code, 0, 0, 0, 0, 0, 0);
}
int cuModuleGetFunction(void **function, void *module, const char *name) { *function = (char *)module + 1; return 0; }
int cuFuncGetAttribute(int *value, int attribute, void *function) { *value = 0; return 0; }
int cuKernelGetAttribute(int *value, int attribute, void *kernel, int device) { *value = 0; return 0; }
int cuKernelSetAttribute(int attribute, int value, void *kernel, int device) {
    if (attribute == 8) stand_in_shared_limit = value; /* dynamic shared memory */
    return 0;
}
int cuStreamIsCapturing(void *stream, int *status) { *status = stand_in_capturing; return 0; }
int cuStreamCreate(void **stream, unsigned flags) { *stream = malloc(1); return 0; }
int cuStreamSynchronize(void *stream) { ++stand_in_synchronizations; return 0; }
int cuCtxSynchronize(void) { ++stand_in_synchronizations; return 0; }
int cuEventCreate(void **event, unsigned flags) { *event = malloc(1); return 0; }
int cuEventDestroy(void *event) { free(event); return 0; }
int cuEventSynchronize(void *event) { ++stand_in_synchronizations; return 0; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { ++stand_in_waits; return 0; }
int cuGetErrorName(int error, const char **name) { *name = "CUDA_ERROR"; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "an error"; return 0; }

int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **parameters, void **extra) {
    struct launch *l = &stand_in_last;
    const uint64_t count = l->count + 1;
    *l = (struct launch){count, (uint64_t)function, {gx, gy, gz}, {bx, by, bz}, shared, (uint64_t)stream, {0}};
    for (uint64_t i = 0; parameters && i < stand_in_parameters; ++i) l->arguments[i] = *(uint64_t *)parameters[i];
    return 0;
}
struct config {
    unsigned grid[3], block[3], shared;
    void *stream;
};
int cuLaunchKernelEx(const struct config *c, void *function, void **parameters, void **extra) {
    return cuLaunchKernel(function, c->grid[0], c->grid[1], c->grid[2], c->block[0], c->block[1], c->block[2],
                          c->shared, c->stream, parameters, extra);
}

int cuGetProcAddress(const char *name, void **found, int version, uint64_t flags, int *status) {
    void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    *found = self ? dlsym(self, name) : NULL;
    if (!*found) *found = (void *)nothing;
    if (status) *status = 0;
    return 0;
}
int cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
    return cuGetProcAddress(name, found, version, flags, status);
}
