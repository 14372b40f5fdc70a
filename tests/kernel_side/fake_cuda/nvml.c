/* A FAKE of NVIDIA's library libnvidia-ml.so.1, for machines without a GPU.
 *
 * The environment variable FAKE_GPU names a folder. A file in it whose name begins with "GPU-" and
 * has no dot is a GPU, with its bytes in it; <uuid>.<pid> holds the bytes that a process uses of
 * it. Where there is a file "outside", processes are numbered as they are outside of a container.
 * Where there is a file "noload", the driver is not loaded.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NOT_FOUND = 6, SMALL = 7, NO_DRIVER = 9 };

typedef struct { char uuid[64]; } Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gi, ci; } Process;
typedef struct { unsigned int gpu, memory; } Rates;

static Device devices[8];
static unsigned int known;

static int number(const char *name, unsigned long long *value) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("FAKE_GPU"), name);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (fscanf(file, "%llu", value) != 1) *value = 0;
    fclose(file);
    return 1;
}

int nvmlInit_v2(void) {
    unsigned long long ignored;
    return number("noload", &ignored) ? NO_DRIVER : SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    DIR *folder = opendir(getenv("FAKE_GPU"));
    for (struct dirent *entry; folder && known < 8 && (entry = readdir(folder));)
        if (!strncmp(entry->d_name, "GPU-", 4) && !strchr(entry->d_name, '.'))
            snprintf(devices[known++].uuid, sizeof devices[0].uuid, "%.63s", entry->d_name);
    if (folder) closedir(folder);
    *count = known;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device **device) {
    *device = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device) {
    for (unsigned int index = 0; index < known; index++)
        if (!strcmp(devices[index].uuid, uuid)) return nvmlDeviceGetHandleByIndex_v2(index, device);
    return NOT_FOUND;
}

static unsigned int processes(Device *device, Process *found, unsigned int room) {
    unsigned long long ignored;
    unsigned int count = 0, outside = number("outside", &ignored) ? 1000000 : 0;
    size_t length = strlen(device->uuid);
    DIR *folder = opendir(getenv("FAKE_GPU"));
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (!strncmp(entry->d_name, device->uuid, length) && entry->d_name[length] == '.') {
            Process row = {(unsigned)atoi(entry->d_name + length + 1) + outside, 0, ~0u, ~0u};
            number(entry->d_name, &row.used);
            if (count < room) found[count] = row;
            count++;
        }
    if (folder) closedir(folder);
    return count;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned int *count, Process *found) {
    unsigned int room = *count;
    *count = processes(device, found, room);
    return *count > room ? SMALL : SUCCESS;
}

int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    Process found[64];
    unsigned int count = processes(device, found, 64);
    number(device->uuid, &memory->total);
    memory->used = 0;
    for (unsigned int index = 0; index < count; index++) memory->used += found[index].used;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Device *device, Rates *rates) {
    (void)device;
    rates->gpu = rates->memory = 0;
    return SUCCESS;
}

int nvmlDeviceGetUUID(Device *device, char *text, unsigned int size) {
    snprintf(text, size, "%s", device->uuid);
    return SUCCESS;
}
