/* The state of a FAKE of NVIDIA's driver, for machines without a GPU.
 *
 * Its libraries libcuda.so.1 and libnvidia-ml.so.1 share one file, and `fake_driver.py` changes it:
 * the layout is written there a second time. The environment variable FAKE_DRIVER names the folder
 * of the file. A process has a slot while it holds the lock of one byte of the file "alive"; as with
 * the real driver, what it has on a GPU is gone when it ends, unless a child has inherited its files.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { GPUS = 4, PROCESSES = 160, GROUPS = 32, MAGIC = 0x47505531 };
enum { RUNNING, LOCKED, CHECKPOINTED, FAILED };
/* What NVML tells of processes: all, no memory ([N/A]), or no process. */
enum { TOLD, NO_MEMORY, NO_PROCESS };
/* The steps of a checkpoint, as indices of `answers`. */
enum { GET_STATE, LOCK, CHECKPOINT, RESTORE, UNLOCK, STEPS };

typedef struct {
    char uuid[48], name[64];
    uint64_t total, reserved; /* bytes; the second is what the driver keeps to itself */
    uint64_t context;         /* bytes that a context of CUDA takes */
    uint64_t others;          /* bytes of programs that NVML does not list */
    int32_t lost;             /* it has fallen off the bus */
    int32_t no_memory;        /* it has none of its own, as on a GB10 */
    int32_t instances;        /* of MIG; 0: it is whole */
    int32_t place;            /* on the bus */
    int32_t busy;             /* its utilisation in per cent, by whomever */
    int32_t stubborn;         /* it says that it takes limits, and does not */
} Gpu;

typedef struct {
    int32_t pid, state; /* as its own namespace of process numbers counts; 0: nobody's slot */
    uint64_t space;     /* of process numbers: its inode */
    uint64_t used[GPUS];
    int32_t contexts[GPUS];
    uint32_t sm;        /* of the last sample of its utilisation, in per cent */
    uint32_t untold;    /* NVML does not tell its memory */
    uint64_t stamp;     /* of that sample, in microseconds since 1970 */
    char group[128];    /* its control group when it began, as the system tells it */
} Process;

/* Limits of memory for a control group. */
typedef struct {
    char path[160]; /* of its folder; empty: nobody's slot */
    int32_t set[GPUS];
    uint64_t hard[GPUS];
} Group;

typedef struct {
    uint32_t magic, size;
    uint64_t space;          /* of process numbers that NVML counts in: the machine's */
    int32_t offset;          /* between numbers of other spaces and those */
    int32_t told;            /* what NVML tells of processes */
    int32_t wsl;             /* as under WSL2: one file /dev/dxg, no checkpoint */
    int32_t version;         /* of CUDA */
    int32_t init;            /* what NVML answers when it is begun */
    int32_t lies;            /* a checkpoint is told as done, and the memory stays */
    int32_t answers[STEPS];  /* of a step, in place of doing it; 0: it is done */
    int32_t calls[STEPS];    /* how often each was asked for */
    int32_t count;
    int32_t old;             /* 1: it keeps no limits for control groups; 2: it is ancient */
    Gpu gpus[GPUS];
    Process processes[PROCESSES];
    Group groups[GROUPS];
} State;

static pthread_mutex_t fake_mutex = PTHREAD_MUTEX_INITIALIZER;
static int fake_lock = -1;

static void fake_path(char *path, size_t size, const char *name) {
    snprintf(path, size, "%s/%s", getenv("FAKE_DRIVER") ? getenv("FAKE_DRIVER") : "/nowhere", name);
}

static int fake_open(const char *name) {
    char path[4096];
    fake_path(path, sizeof path, name);
    return open(path, O_RDWR | O_CLOEXEC);
}

/* The state, mapped once; NULL where there is none. */
static State *fake_state(void) {
    static State *state;
    if (state) return state;
    int file = fake_open("state");
    if (file < 0) return NULL;
    void *found = mmap(NULL, sizeof(State), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (found == MAP_FAILED) return NULL;
    State *read = found;
    if (read->magic != MAGIC || read->size != sizeof(State)) abort(); /* another layout */
    return state = read;
}

/* Slots of processes that have ended are empty again. */
static void fake_sweep(State *state) {
    int file = fake_open("alive");
    for (int n = 0; file >= 0 && n < PROCESSES; n++) {
        struct flock byte = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = n, .l_len = 1};
        if (!state->processes[n].pid) continue;
        if (fcntl(file, F_OFD_GETLK, &byte) == 0 && byte.l_type == F_UNLCK)
            memset(&state->processes[n], 0, sizeof(Process));
    }
    if (file >= 0) close(file);
}

/* Begins to look at the state, or to change it; nobody else does meanwhile. */
static State *fake_enter(void) {
    State *state = fake_state();
    pthread_mutex_lock(&fake_mutex);
    fake_lock = fake_open("state");
    if (fake_lock >= 0) flock(fake_lock, LOCK_EX);
    if (state) fake_sweep(state);
    return state;
}

static void fake_leave(void) {
    if (fake_lock >= 0) close(fake_lock);
    fake_lock = -1;
    pthread_mutex_unlock(&fake_mutex);
}

static uint64_t fake_space(void) {
    struct stat found;
    return stat("/proc/self/ns/pid", &found) == 0 ? (uint64_t)found.st_ino : 0;
}

static int fake_is_there(const State *state, const Process *process, int gpu) {
    return process->pid && process->contexts[gpu] &&
           (process->state != CHECKPOINTED || state->lies);
}

static uint64_t fake_has(const State *state, const Process *process, int gpu) {
    return fake_is_there(state, process, gpu) ? state->gpus[gpu].context + process->used[gpu] : 0;
}

/* Bytes in use of a GPU, those of the driver itself left out. */
static uint64_t fake_used(const State *state, int gpu) {
    uint64_t used = state->gpus[gpu].others;
    for (int n = 0; n < PROCESSES; n++) used += fake_has(state, &state->processes[n], gpu);
    return used;
}

/* The limits for a process's group; NULL where there are none. */
static const Group *fake_group(const State *state, const Process *process) {
    size_t own = strlen(process->group);
    for (int n = 0; own > 1 && n < GROUPS; n++) {
        size_t length = strlen(state->groups[n].path);
        if (length > own && !strcmp(state->groups[n].path + length - own, process->group))
            return &state->groups[n];
    }
    return NULL;
}

/* Bytes that a process may still take of a GPU by the limit of its group, which counts all in it. */
static uint64_t fake_allowed(const State *state, const Process *process, int gpu) {
    const Group *group = fake_group(state, process);
    if (!group || !group->set[gpu]) return ~0ull;
    uint64_t used = 0;
    for (int n = 0; n < PROCESSES; n++)
        if (state->processes[n].pid && fake_group(state, &state->processes[n]) == group)
            used += fake_has(state, &state->processes[n], gpu);
    return used < group->hard[gpu] ? group->hard[gpu] - used : 0;
}

static uint64_t fake_free(const State *state, int gpu) {
    uint64_t all = state->gpus[gpu].total - state->gpus[gpu].reserved, used = fake_used(state, gpu);
    return used < all ? all - used : 0;
}
