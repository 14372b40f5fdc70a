/* What a process sees of a FAKE driver through its files; preloaded, see state.h.
 *
 * The driver's files seem to lie in /dev, and the namespace of process numbers in which the fake
 * driver counts seems to be the machine's first: tests may run in a container themselves.
 */
#include "state.h"

#include <dlfcn.h>

static ssize_t shown(char *target, ssize_t length, size_t size) {
    char folder[4096], first[64];
    if (length <= 0 || !fake_state()) return length;
    fake_path(folder, sizeof folder, "dev/");
    size_t skip = strlen(folder) - strlen("/dev/");
    if ((size_t)length > skip && !strncmp(target, folder, strlen(folder))) {
        memmove(target, target + skip, (size_t)length - skip);
        return length - (ssize_t)skip;
    }
    snprintf(first, sizeof first, "pid:[%llu]", (unsigned long long)fake_state()->space);
    if ((size_t)length == strlen(first) && !strncmp(target, first, strlen(first))) {
        const char *told = "pid:[4026531836]";
        if (strlen(told) > size) return length;
        memcpy(target, told, strlen(told));
        return (ssize_t)strlen(told);
    }
    return length;
}

ssize_t readlink(const char *path, char *target, size_t size) {
    static ssize_t (*real)(const char *, char *, size_t);
    if (!real) real = (ssize_t (*)(const char *, char *, size_t))dlsym(RTLD_NEXT, "readlink");
    return shown(target, real(path, target, size), size);
}

ssize_t readlinkat(int folder, const char *path, char *target, size_t size) {
    static ssize_t (*real)(int, const char *, char *, size_t);
    if (!real) real = (ssize_t (*)(int, const char *, char *, size_t))dlsym(RTLD_NEXT, "readlinkat");
    return shown(target, real(folder, path, target, size), size);
}
