/* A host in C: loads m.cubin, reads every port from ports.bin, calls the program twice, writes every
 * port to results.bin.
 */
#include "m.h"

#include <stdio.h>
#include <stdlib.h>

#define CHECK(call) do { CUresult status = (call); if (status) { fprintf(stderr, #call ": %d\n", (int)status); return 1; } } while (0)

static char *whole(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *data = malloc((size_t)size + 1);
    if (!data || fread(data, 1, (size_t)size, file) != (size_t)size)
        return NULL;
    fclose(file);
    return data;
}

int main(void)
{
    char *code = whole("m.cubin"), *data = whole("ports.bin");
    if (!code || !data)
        return 2;
    CUdevice device;
    CUcontext context;
    CUmodule module;
    CUfunction kernels[M_KERNELS];
    CUdeviceptr arena, ports[M_PORTS];
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuModuleLoadData(&module, code));
    CHECK(m_load(module, kernels));
    CHECK(cuMemAlloc(&arena, M_ARENA_BYTES + 1));
    size_t at = 0;
    for (int n = 0; n < M_PORTS; n++) {
        CHECK(cuMemAlloc(&ports[n], m_port_bytes[n]));
        CHECK(cuMemcpyHtoD(ports[n], data + at, m_port_bytes[n]));
        at += m_port_bytes[n];
    }
    CHECK(m_call(kernels, arena, ports, NULL));
    CHECK(m_call(kernels, arena, ports, NULL));
    CHECK(cuStreamSynchronize(NULL));
    at = 0;
    for (int n = 0; n < M_PORTS; n++) {
        CHECK(cuMemcpyDtoH(data + at, ports[n], m_port_bytes[n]));
        at += m_port_bytes[n];
    }
    FILE *file = fopen("results.bin", "wb");
    return !file || fwrite(data, 1, at, file) != at || fclose(file);
}
