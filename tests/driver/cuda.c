/* A FAKE of NVIDIA's library libcuda.so.1, for machines without a GPU; see state.h.
 *
 * Memory of a GPU is memory of the machine that is only promised: it keeps what is copied there, and
 * its address. While a process is locked or checkpointed, calls that the real driver blocks wait.
 */
#include "state.h"

enum { SUCCESS = 0, INVALID = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100,
       INVALID_DEVICE = 101, INVALID_CONTEXT = 201, ILLEGAL = 401, NOT_FOUND = 500,
       NOT_SUPPORTED = 801 };

typedef struct { void *start; uint64_t size; int gpu; } Block;

static int owner, slot = -1, alive = -1, current = -1;
static int shown[GPUS], shown_count;
static Block blocks[256];
static pthread_cond_t runs = PTHREAD_COND_INITIALIZER;
static pthread_mutex_t mine = PTHREAD_MUTEX_INITIALIZER;

static int initialized(void) { return owner == getpid() && slot >= 0; }

static Process *self(State *state) { return &state->processes[slot]; }

/* Which GPUs this process sees, and as what number: CUDA_VISIBLE_DEVICES when it began. */
static void look(const State *state) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    shown_count = 0;
    if (!visible) {
        for (int n = 0; n < state->count; n++) shown[shown_count++] = n;
        return;
    }
    char *text = strdup(visible);
    for (char *name = strtok(text, ","); name && shown_count < GPUS; name = strtok(NULL, ",")) {
        int found = -1;
        char *end;
        long number = strtol(name, &end, 10);
        if (*end == 0 && end != name) found = number >= 0 && number < state->count ? (int)number : -1;
        else
            for (int n = 0; n < state->count; n++)
                if (!strncmp(state->gpus[n].uuid, name, strlen(name))) found = n;
        if (found < 0) break; /* as the real one: what is behind a wrong name is not seen */
        shown[shown_count++] = found;
    }
    free(text);
}

/* Bytes that this process could have of a GPU now. */
static uint64_t left(const State *state, int gpu) {
    uint64_t free = fake_free(state, gpu), allowed = fake_allowed(state, &state->processes[slot], gpu);
    return free < allowed ? free : allowed;
}

static void note_group(Process *process) {
    char line[512];
    FILE *file = fopen("/proc/self/cgroup", "r");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, "0::", 3) && strlen(line) - 4 < sizeof process->group) {
            memcpy(process->group, line + 3, strlen(line) - 4); /* without the end of the line */
        }
    if (file) fclose(file);
}

static void open_files(const State *state) {
    char path[4096];
    const char *names[] = {"dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia0"}, *one[] = {"dev/dxg"};
    const char **all = state->wsl ? one : names;
    for (int n = 0; n < (state->wsl ? 1 : 3); n++) {
        fake_path(path, sizeof path, all[n]);
        if (open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) < 0) abort();
    }
}

int cuInit(unsigned int flags) {
    if (flags) return INVALID;
    if (initialized()) return SUCCESS;
    State *state = fake_enter();
    if (!state || !state->count) {
        fake_leave();
        return NO_DEVICE;
    }
    alive = fake_open("alive");
    slot = -1;
    for (int n = 0; slot < 0 && n < PROCESSES; n++) {
        struct flock byte = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = n, .l_len = 1};
        if (!state->processes[n].pid && fcntl(alive, F_OFD_SETLK, &byte) == 0) slot = n;
    }
    if (slot < 0) abort();
    owner = getpid();
    memset(self(state), 0, sizeof(Process));
    self(state)->pid = owner;
    self(state)->space = fake_space();
    note_group(self(state));
    look(state);
    open_files(state);
    fake_leave();
    return shown_count ? SUCCESS : NO_DEVICE;
}

/* Begins a call that the driver blocks while this process is away. */
static State *call(void) {
    pthread_mutex_lock(&mine);
    for (;;) {
        State *state = fake_enter();
        if (self(state)->state == RUNNING) return state;
        fake_leave();
        pthread_cond_wait(&runs, &mine);
    }
}

static int done(int code) {
    fake_leave();
    pthread_mutex_unlock(&mine);
    return code;
}

int cuDriverGetVersion(int *version) {
    State *state = fake_state();
    if (!state) return INVALID;
    *version = state->version;
    return SUCCESS;
}

int cuDeviceGetCount(int *count) {
    if (!initialized()) return NOT_INITIALIZED;
    *count = shown_count;
    return SUCCESS;
}

int cuDeviceGet(int *device, int number) {
    if (!initialized()) return NOT_INITIALIZED;
    if (number < 0 || number >= shown_count) return INVALID_DEVICE;
    *device = number;
    return SUCCESS;
}

/* From "GPU-" and 32 hexadecimal digits with dashes between them. */
int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    if (!initialized()) return NOT_INITIALIZED;
    if (device < 0 || device >= shown_count) return INVALID_DEVICE;
    const char *text = fake_state()->gpus[shown[device]].uuid + 4;
    for (int n = 0; n < 16; n++, text += 2) {
        unsigned int byte = 0;
        while (*text == '-') text++;
        if (sscanf(text, "%2x", &byte) != 1) return INVALID;
        uuid[n] = (unsigned char)byte;
    }
    return SUCCESS;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    if (!initialized()) return NOT_INITIALIZED;
    if (device < 0 || device >= shown_count) return INVALID_DEVICE;
    *bytes = fake_state()->gpus[shown[device]].total;
    return SUCCESS;
}

int cuDevicePrimaryCtxGetState(int device, unsigned int *flags, int *active) {
    if (!initialized()) return NOT_INITIALIZED;
    if (device < 0 || device >= shown_count) return INVALID_DEVICE;
    State *state = call();
    *flags = 0;
    *active = self(state)->contexts[shown[device]];
    return done(SUCCESS);
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (!initialized()) return NOT_INITIALIZED;
    if (device < 0 || device >= shown_count) return INVALID_DEVICE;
    State *state = call();
    int gpu = shown[device];
    if (!self(state)->contexts[gpu] && left(state, gpu) < state->gpus[gpu].context)
        return done(OUT_OF_MEMORY);
    self(state)->contexts[gpu] = 1;
    *context = &shown[device];
    return done(SUCCESS);
}

int cuCtxSetCurrent(void *context) {
    if (!initialized()) return NOT_INITIALIZED;
    current = context ? *(int *)context : -1;
    return SUCCESS;
}

int cuMemAlloc_v2(uint64_t *address, size_t size) {
    if (!initialized()) return NOT_INITIALIZED;
    if (current < 0) return INVALID_CONTEXT;
    State *state = call();
    int n = 0;
    while (n < 256 && blocks[n].start) n++;
    if (n == 256 || left(state, current) < size) return done(OUT_OF_MEMORY);
    void *start = mmap(NULL, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return done(OUT_OF_MEMORY);
    blocks[n] = (Block){start, size, current};
    self(state)->used[current] += size;
    *address = (uint64_t)(uintptr_t)start;
    return done(SUCCESS);
}

/* Managed memory; here it always lies on the machine. */
int cuMemAllocManaged(uint64_t *address, size_t size, unsigned int flags) {
    (void)flags;
    if (!initialized()) return NOT_INITIALIZED;
    void *start = mmap(NULL, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return OUT_OF_MEMORY;
    *address = (uint64_t)(uintptr_t)start;
    return SUCCESS;
}

int cuMemFree_v2(uint64_t address) {
    if (!initialized()) return NOT_INITIALIZED;
    State *state = call();
    for (int n = 0; n < 256; n++)
        if (blocks[n].start && (uint64_t)(uintptr_t)blocks[n].start == address) {
            munmap(blocks[n].start, blocks[n].size);
            self(state)->used[blocks[n].gpu] -= blocks[n].size;
            memset(&blocks[n], 0, sizeof(Block));
            return done(SUCCESS);
        }
    return done(INVALID);
}

int cuMemcpyHtoD_v2(uint64_t address, const void *from, size_t size) {
    if (!initialized()) return NOT_INITIALIZED;
    call();
    memcpy((void *)(uintptr_t)address, from, size);
    return done(SUCCESS);
}

int cuMemcpyDtoH_v2(void *to, uint64_t address, size_t size) {
    if (!initialized()) return NOT_INITIALIZED;
    call();
    memcpy(to, (void *)(uintptr_t)address, size);
    return done(SUCCESS);
}

int cuMemGetInfo_v2(size_t *free, size_t *total) {
    if (!initialized()) return NOT_INITIALIZED;
    if (current < 0) return INVALID_CONTEXT;
    State *state = call();
    /* As documented of limits: they are what is told, in place of the GPU's own. */
    const Group *group = fake_group(state, self(state));
    *free = left(state, current);
    *total = state->gpus[current].total;
    if (group && group->set[current] && group->hard[current] < *total) *total = group->hard[current];
    return done(SUCCESS);
}

/* -- the process checkpoint ---------------------------------------------------------------------- */

int cuCheckpointProcessGetState(int pid, int *found) {
    State *state = fake_state();
    if (!state || !initialized()) return NOT_INITIALIZED;
    if (pid != getpid()) return INVALID;
    if (state->wsl) return NOT_SUPPORTED;
    if (state->answers[GET_STATE]) return state->answers[GET_STATE];
    *found = self(state)->state;
    return SUCCESS;
}

static int room(const State *state) {
    for (int gpu = 0; gpu < state->count; gpu++) {
        const Process *process = &state->processes[slot];
        uint64_t need = process->contexts[gpu] ? state->gpus[gpu].context + process->used[gpu] : 0;
        if (!state->lies && need > left(state, gpu)) return 0;
    }
    return 1;
}

static int step(int which, int pid, int before, int after) {
    if (!initialized()) return NOT_INITIALIZED;
    if (pid != getpid()) return INVALID;
    pthread_mutex_lock(&mine);
    State *state = fake_enter();
    state->calls[which]++;
    int code = state->answers[which];
    if (state->wsl) code = NOT_SUPPORTED;
    if (!code && self(state)->state != before) code = ILLEGAL;
    if (!code && which == RESTORE && !room(state)) code = OUT_OF_MEMORY;
    if (!code) self(state)->state = after;
    fake_leave();
    if (!code && after == RUNNING) pthread_cond_broadcast(&runs);
    pthread_mutex_unlock(&mine);
    return code;
}

int cuCheckpointProcessLock(int pid, void *args) {
    (void)args;
    return step(LOCK, pid, RUNNING, LOCKED);
}

int cuCheckpointProcessCheckpoint(int pid, void *args) {
    (void)args;
    return step(CHECKPOINT, pid, LOCKED, CHECKPOINTED);
}

int cuCheckpointProcessRestore(int pid, void *args) {
    (void)args;
    return step(RESTORE, pid, CHECKPOINTED, LOCKED);
}

int cuCheckpointProcessUnlock(int pid, void *args) {
    (void)args;
    return step(UNLOCK, pid, LOCKED, RUNNING);
}

/* -- how `cuda-bindings` finds all this ------------------------------------------------------------ */

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status);

static const struct { const char *name; void *function; } table[] = {
    {"cuInit", cuInit},
    {"cuDriverGetVersion", cuDriverGetVersion},
    {"cuDeviceGetCount", cuDeviceGetCount},
    {"cuDeviceGet", cuDeviceGet},
    {"cuDeviceGetUuid", cuDeviceGetUuid_v2},
    {"cuDeviceTotalMem", cuDeviceTotalMem_v2},
    {"cuDevicePrimaryCtxGetState", cuDevicePrimaryCtxGetState},
    {"cuDevicePrimaryCtxRetain", cuDevicePrimaryCtxRetain},
    {"cuCtxSetCurrent", cuCtxSetCurrent},
    {"cuMemAlloc", cuMemAlloc_v2},
    {"cuMemFree", cuMemFree_v2},
    {"cuMemcpyHtoD", cuMemcpyHtoD_v2},
    {"cuMemcpyDtoH", cuMemcpyDtoH_v2},
    {"cuMemGetInfo", cuMemGetInfo_v2},
    {"cuCheckpointProcessGetState", cuCheckpointProcessGetState},
    {"cuCheckpointProcessLock", cuCheckpointProcessLock},
    {"cuCheckpointProcessCheckpoint", cuCheckpointProcessCheckpoint},
    {"cuCheckpointProcessRestore", cuCheckpointProcessRestore},
    {"cuCheckpointProcessUnlock", cuCheckpointProcessUnlock},
    {"cuGetProcAddress", cuGetProcAddress_v2},
};

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags,
                        int *status) {
    (void)version, (void)flags;
    for (size_t n = 0; n < sizeof table / sizeof *table; n++)
        if (!strcmp(table[n].name, name)) {
            *function = table[n].function;
            if (status) *status = 0;
            return SUCCESS;
        }
    *function = NULL;
    if (status) *status = 1;
    return NOT_FOUND;
}

int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
