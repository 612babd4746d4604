/* A plugin with bad intentions, of the same shape. What it tries is told by the text that it is given. 0 is: it worked. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static int open_file(const char *path) {
    char byte;
    int file = open(path, O_RDONLY);
    return file >= 0 && read(file, &byte, 1) == 1 ? 0 : errno;
}

static int connect_to(const char *port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    return s >= 0 && connect(s, (struct sockaddr *)&to, sizeof to) == 0 ? 0 : errno;
}

/* It worked if there are two thousand of it. */
static int fork_bomb(void) {
    for (int i = 0; i < 2000; i++) {
        pid_t pid = fork();
        if (pid < 0) return errno;
        if (pid == 0) {
            pause();
            _exit(0);
        }
    }
    return 0;
}

/* It worked if it has eight GiB. */
static int eat_memory(void) {
    for (int i = 0; i < 128; i++) {
        size_t size = 64 << 20;
        char *memory = malloc(size);
        if (!memory) return errno;
        memset(memory, 1, size);
    }
    return 0;
}

/* It is in the host's memory, of which this is a copy, that the number is known. */
static int use_descriptor(const char *number) {
    char byte = 0;
    int fd = atoi(number);
    return pread(fd, &byte, 1, 0) >= 0 || read(fd, &byte, 1) >= 0 || write(fd, &byte, 1) >= 0 ? 0 : errno;
}

int64_t attack(const char *what, const char *argument) {
    if (!strcmp(what, "a file of the host's")) return open_file(argument);
    if (!strcmp(what, "the network")) return connect_to(argument);
    if (!strcmp(what, "a fork bomb")) return fork_bomb();
    if (!strcmp(what, "all of the memory")) return eat_memory();
    if (!strcmp(what, "a descriptor of the host's")) return use_descriptor(argument);
    if (!strcmp(what, "another program")) return execl("/bin/sh", "sh", "-c", "exit 0", (char *)0) ? errno : 0;
    if (!strcmp(what, "never to answer")) for (;;) ;
    /* Descriptor 3 is the channel to the host. */
    if (!strcmp(what, "nonsense in its answer")) return write(3, "nonsense", 8) == 8 ? EBADMSG : errno;
    if (!strcmp(what, "to flood the host")) for (int i = 0;; i++) if (write(3, &i, sizeof i) < 0) return errno;
    if (!strcmp(what, "to crash")) *(volatile int *)8 = 1;
    return ENOSYS;
}
