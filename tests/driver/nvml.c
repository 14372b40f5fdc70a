/* A FAKE of NVIDIA's library libnvidia-ml.so.1, for machines without a GPU; see state.h. */
#include "state.h"

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, SMALL = 7, NO_DRIVER = 9,
       NO_FUNCTION = 13, LOST = 15, MISMATCH = 18, UNKNOWN = 999 };
enum { WHOLE = 8 };

typedef struct { int gpu, instance; } Device; /* instance WHOLE: the GPU itself */
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } Memory2;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gi, ci; } Row;
typedef struct { const char *group; unsigned long long soft, hard; } SetLimits;
typedef struct { const char *group; unsigned long long soft, hard, used; } GetLimits;
typedef struct { unsigned int gpu, memory; } Rates;
typedef struct { unsigned int pid; unsigned long long stamp; unsigned int sm, mem, enc, dec; } Sample;

static Device devices[GPUS][WHOLE + 1];

int nvmlInit_v2(void) {
    State *state = fake_state();
    return state ? state->init : NO_DRIVER;
}

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    return nvmlInit_v2();
}

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
    return code == LOST ? "GPU is lost" : code == MISMATCH ? "Driver/library version mismatch"
         : code == NOT_SUPPORTED ? "Not Supported" : code == NO_FUNCTION ? "Function Not Found" : code == NO_DRIVER ? "Driver Not Loaded" : "fake";
}

int nvmlSystemGetDriverVersion(char *text, unsigned int size) {
    snprintf(text, size, "999.1-fake");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = (unsigned int)fake_state()->count;
    return SUCCESS;
}

static int device(int gpu, int instance, Device **found) {
    State *state = fake_state();
    if (gpu < 0 || gpu >= state->count) return INVALID;
    if (state->gpus[gpu].lost) return LOST;
    if (instance != WHOLE && instance >= state->gpus[gpu].instances) return NOT_FOUND;
    *found = &devices[gpu][instance];
    **found = (Device){gpu, instance};
    return SUCCESS;
}

/* What it is now: a handle that was taken before may be of a GPU that is lost, or split anew. */
static int check(const Device *found) {
    Device *ignored;
    return device(found->gpu, found->instance, &ignored);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device **found) {
    return device((int)index, WHOLE, found);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **found) {
    int gpu, instance;
    if (sscanf(uuid, "MIG-%d-%d", &gpu, &instance) == 2) return device(gpu, instance, found);
    for (int n = 0; n < fake_state()->count; n++)
        if (!strcmp(fake_state()->gpus[n].uuid, uuid)) return device(n, WHOLE, found);
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(Device *found, char *text, unsigned int size) {
    if (check(found)) return check(found);
    if (found->instance == WHOLE) snprintf(text, size, "%s", fake_state()->gpus[found->gpu].uuid);
    else snprintf(text, size, "MIG-%d-%d", found->gpu, found->instance);
    return SUCCESS;
}

int nvmlDeviceGetName(Device *found, char *text, unsigned int size) {
    if (check(found)) return check(found);
    const char *name = fake_state()->gpus[found->gpu].name;
    snprintf(text, size, found->instance == WHOLE ? "%s" : "%s MIG 1g.10gb", name);
    return SUCCESS;
}

int nvmlDeviceGetMigMode(Device *found, unsigned int *now, unsigned int *pending) {
    if (check(found)) return check(found);
    *now = *pending = fake_state()->gpus[found->gpu].instances > 0;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(Device *found, unsigned int *count) {
    (void)found;
    *count = 7;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device *found, unsigned int index, Device **instance) {
    return device(found->gpu, (int)index, instance);
}

static int memory_of(Device *found, Memory2 *memory) {
    if (check(found)) return check(found);
    State *state = fake_enter();
    const Gpu *gpu = &state->gpus[found->gpu];
    int code = gpu->no_memory ? NOT_SUPPORTED : SUCCESS;
    memory->total = found->instance == WHOLE ? gpu->total : gpu->total / 7;
    memory->reserved = found->instance == WHOLE ? gpu->reserved : 0;
    memory->free = found->instance == WHOLE ? fake_free(state, found->gpu) : memory->total;
    memory->used = memory->total - memory->reserved - memory->free;
    fake_leave();
    return code;
}

int nvmlDeviceGetMemoryInfo_v2(Device *found, Memory2 *memory) {
    return fake_state()->old > 1 ? NO_FUNCTION : memory_of(found, memory);
}

int nvmlDeviceGetMemoryInfo(Device *found, Memory *memory) {
    Memory2 told;
    int code = memory_of(found, &told);
    /* The first version counts what the driver keeps as used. */
    if (!code) *memory = (Memory){told.total, told.free, told.total - told.free};
    return code;
}

static unsigned int outside(const State *state, const Process *process) {
    int moved = process->space != state->space;
    return (unsigned int)(process->pid + (moved ? state->offset : 0));
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device *found, unsigned int *count, Row *rows) {
    if (fake_state()->old > 1) return NO_FUNCTION;
    if (check(found)) return check(found);
    State *state = fake_enter();
    unsigned int number = 0, space = *count;
    for (int n = 0; n < PROCESSES && state->told != NO_PROCESS; n++) {
        const Process *process = &state->processes[n];
        if (!fake_is_there(state, process, found->gpu)) continue;
        uint64_t used = fake_has(state, process, found->gpu);
        if (state->told == NO_MEMORY || process->untold) used = ~0ull;
        if (number < space) rows[number] = (Row){outside(state, process), used, ~0u, ~0u};
        number++;
    }
    *count = number;
    fake_leave();
    return number > space ? SMALL : SUCCESS;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *found, unsigned int *count, Row *rows) {
    (void)found, (void)rows;
    *count = 0;
    return NOT_SUPPORTED;
}

int nvmlDeviceGetUtilizationRates(Device *found, Rates *rates) {
    if (check(found)) return check(found);
    const Gpu *gpu = &fake_state()->gpus[found->gpu];
    if (gpu->instances) return NOT_SUPPORTED;
    *rates = (Rates){(unsigned int)gpu->busy, 0};
    return SUCCESS;
}

/* As the real one: samples that are newer than `since`, and no answer but "not found" for none. */
int nvmlDeviceGetProcessUtilization(Device *found, Sample *samples, unsigned int *count,
                                    unsigned long long since) {
    if (check(found)) return check(found);
    State *state = fake_enter();
    unsigned int number = 0, space = samples ? *count : 0;
    for (int n = 0; n < PROCESSES; n++) {
        const Process *process = &state->processes[n];
        if (!fake_is_there(state, process, found->gpu) || !process->stamp) continue;
        if (process->stamp <= since) continue;
        if (number < space)
            samples[number] = (Sample){outside(state, process), process->stamp, process->sm, 0, 0, 0};
        number++;
    }
    *count = number;
    fake_leave();
    return !number ? NOT_FOUND : number > space ? SMALL : SUCCESS;
}

/* -- limits of memory for control groups (driver 615) -------------------------------------------- */

static int can_limit(const Device *found, const char *group) {
    if (fake_state()->old) return NO_FUNCTION;
    if (check(found)) return check(found);
    if (fake_state()->gpus[found->gpu].instances) return NOT_SUPPORTED;
    return access(group, F_OK) == 0 ? SUCCESS : NOT_FOUND;
}

/* The slot of a group, or one that is free; limits are gone with their group. */
static Group *limits_of(State *state, const char *path) {
    Group *empty = NULL;
    for (int n = 0; n < GROUPS; n++) {
        Group *group = &state->groups[n];
        if (group->path[0] && access(group->path, F_OK)) memset(group, 0, sizeof *group);
        if (!strcmp(group->path, path)) return group;
        if (!group->path[0] && !empty) empty = group;
    }
    return empty;
}

int nvmlDeviceSetMemoryLimits_v1(Device *found, const SetLimits *limits) {
    int code = can_limit(found, limits->group);
    if (code) return code;
    if (geteuid() != 0) return NO_PERMISSION;
    if (fake_state()->gpus[found->gpu].stubborn) return SUCCESS;
    State *state = fake_enter();
    Group *group = limits_of(state, limits->group);
    if (!group || strlen(limits->group) >= sizeof group->path) abort();
    strcpy(group->path, limits->group);
    group->set[found->gpu] = limits->soft != 0 || limits->hard != ~0ull;
    group->hard[found->gpu] = limits->hard;
    fake_leave();
    return SUCCESS;
}

int nvmlDeviceGetMemoryLimits_v1(Device *found, GetLimits *limits) {
    int code = can_limit(found, limits->group);
    if (code) return code;
    State *state = fake_enter();
    const Group *group = limits_of(state, limits->group);
    int set = group && group->path[0] && group->set[found->gpu];
    limits->soft = 0;
    limits->hard = set ? group->hard[found->gpu] : ~0ull;
    limits->used = 0;
    for (int n = 0; set && n < PROCESSES; n++)
        if (state->processes[n].pid && fake_group(state, &state->processes[n]) == group)
            limits->used += fake_has(state, &state->processes[n], found->gpu);
    fake_leave();
    return SUCCESS;
}
