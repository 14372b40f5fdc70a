/* A FAKE of NVIDIA's library libnvidia-ml.so.1, for machines without a GPU.
 *
 * It answers the calls that jupyter_gpu_share makes, through NVIDIA's own Python binding, as the
 * scenario in the environment variable FAKE_NVML says:
 *   two      two whole GPUs of 80 GiB, 1 GiB of each kept by the driver
 *   mig      the first GPU is split into seven instances 1g.10gb
 *   none     the driver is there, but no GPU
 *   noload   the driver is not loaded
 *   old      like two, but without the second version of the memory call
 * FAKE_NVML_PIDS holds pid:MiB pairs, separated by commas: what runs on the first GPU. MiB "?"
 * means that the driver does not tell.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, NO_DRIVER = 9,
       NO_FUNCTION = 13 };

typedef struct { int gpu, instance; } Device; /* instance -1: the GPU itself */
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } Memory2;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gi, ci; } Process;
typedef struct { unsigned int gpu, memory; } Rates;
typedef struct { unsigned int pid; unsigned long long stamp; unsigned int sm, mem, enc, dec; } Sample;

static Device devices[2][8];
static const unsigned long long GIB = 1ull << 30;

static int is(const char *name) {
    const char *scenario = getenv("FAKE_NVML");
    return scenario && !strcmp(scenario, name);
}

int nvmlInit_v2(void) { return is("noload") ? NO_DRIVER : SUCCESS; }
int nvmlInitWithFlags(unsigned int flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == NO_DRIVER ? "Driver Not Loaded" : "fake"; }

int nvmlSystemGetDriverVersion(char *text, unsigned int size) {
    snprintf(text, size, "999.1-fake");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = is("none") ? 0 : 2;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device **device) {
    if (index > 1) return INVALID;
    *device = &devices[index][7];
    (*device)->gpu = (int)index;
    (*device)->instance = -1;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned int *count) {
    (void)device;
    *count = 8; /* more than there are: the last one is not found */
    return SUCCESS;
}

int nvmlDeviceGetMigMode(Device *device, unsigned int *current, unsigned int *pending) {
    if (device->gpu == 1 && is("mig")) return NOT_SUPPORTED; /* a GPU that cannot be split */
    *current = *pending = is("mig") && device->gpu == 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned int index, Device **instance) {
    if (index > 6) return NOT_FOUND;
    *instance = &devices[device->gpu][index];
    (*instance)->gpu = device->gpu;
    (*instance)->instance = (int)index;
    return SUCCESS;
}

int nvmlDeviceGetUUID(Device *device, char *text, unsigned int size) {
    if (device->instance < 0) snprintf(text, size, "GPU-%d", device->gpu);
    else snprintf(text, size, "MIG-%d-%d", device->gpu, device->instance);
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device) {
    int gpu, instance;
    if (sscanf(uuid, "GPU-%d", &gpu) == 1) return nvmlDeviceGetHandleByIndex_v2((unsigned)gpu, device);
    if (sscanf(uuid, "MIG-%d-%d", &gpu, &instance) != 2) return INVALID;
    return nvmlDeviceGetMigDeviceHandleByIndex(&devices[gpu][7], (unsigned)instance, device);
}

int nvmlDeviceGetName(Device *device, char *text, unsigned int size) {
    snprintf(text, size, device->instance < 0 ? "NVIDIA A100-SXM4-80GB"
                                              : "NVIDIA A100-SXM4-80GB MIG 1g.10gb");
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    memory->total = device->instance < 0 ? 80 * GIB : 10 * GIB;
    memory->used = memory->free = memory->total / 2;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(Device *device, Memory2 *memory) {
    if (is("old")) return NO_FUNCTION;
    memory->total = device->instance < 0 ? 80 * GIB : 10 * GIB;
    memory->reserved = device->instance < 0 ? GIB : GIB / 4;
    memory->used = memory->free = memory->total / 2;
    return SUCCESS;
}

static unsigned int processes(Process *found) {
    unsigned int count = 0;
    char *text = strdup(getenv("FAKE_NVML_PIDS") ? getenv("FAKE_NVML_PIDS") : "");
    for (char *pair = strtok(text, ","); pair; pair = strtok(NULL, ","), count++) {
        char *amount = strchr(pair, ':') + 1;
        if (!found) continue;
        found[count].pid = (unsigned)atoi(pair);
        found[count].used = *amount == '?' ? ~0ull : strtoull(amount, NULL, 10) << 20;
        found[count].gi = found[count].ci = ~0u;
    }
    free(text);
    return count;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned int *count, Process *found) {
    unsigned int number = device->gpu == 0 ? processes(NULL) : 0;
    if (*count < number) {
        *count = number;
        return SMALL;
    }
    if (number) processes(found);
    *count = number;
    return SUCCESS;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *device, unsigned int *count, Process *found) {
    (void)device, (void)found;
    *count = 0;
    return NOT_SUPPORTED;
}

int nvmlDeviceGetUtilizationRates(Device *device, Rates *rates) {
    if (is("mig")) return NOT_SUPPORTED;
    rates->gpu = device->gpu == 0 ? 40 : 5;
    rates->memory = 0;
    return SUCCESS;
}

int nvmlDeviceGetProcessUtilization(Device *device, Sample *found, unsigned int *count,
                                    unsigned long long since) {
    (void)since;
    Process rows[64];
    unsigned int number = device->gpu == 0 && device->instance < 0 ? processes(rows) : 0;
    if (!number) return NOT_FOUND;
    if (!found) {
        *count = number;
        return SMALL;
    }
    for (unsigned int n = 0; n < number; n++) {
        memset(&found[n], 0, sizeof found[n]);
        found[n].pid = rows[n].pid;
        found[n].sm = 40;
        found[n].stamp = (unsigned long long)time(NULL) * 1000000;
    }
    *count = number;
    return SUCCESS;
}
