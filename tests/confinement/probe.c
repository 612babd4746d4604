/* Tries what its arguments say, one after the other, and prints the error number of each, 0 for none. Each is a word and
   up to three values, all separated by commas: read,/etc/passwd */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int opened(int fd)
{
    return fd < 0 ? -1 : close(fd);
}

static int executed(const char *path)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        execl(path, path, (char *)0);
        _exit(errno);
    }
    if (pid < 0 || waitpid(pid, &status, 0) < 0) return -1;
    errno = WEXITSTATUS(status);
    return status == 0 ? 0 : -1;
}

static int internet(int port, int how)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (fd < 0) return -1;
    if (how == 'b') return bind(fd, (void *)&address, sizeof address);
    return connect(fd, (void *)&address, sizeof address);
}

static socklen_t unix_address(struct sockaddr_un *address, const char *name, int abstract)
{
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    strncpy(address->sun_path + abstract, name, sizeof address->sun_path - 2);
    return offsetof(struct sockaddr_un, sun_path) + abstract + strlen(name) + !abstract;
}

/* Binds, listens, connects and passes a byte. */
static int whole_unix(const char *name, int abstract)
{
    struct sockaddr_un address;
    socklen_t len = unix_address(&address, name, abstract);
    int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    char byte = 0;
    if (server < 0 || client < 0 || bind(server, (void *)&address, len) || listen(server, 1)) return -1;
    if (connect(client, (void *)&address, len) || write(client, "x", 1) != 1) return -1;
    int accepted = accept(server, 0, 0);
    return accepted < 0 || read(accepted, &byte, 1) != 1 || byte != 'x' ? -1 : 0;
}

static int pair(void)
{
    int fds[2];
    char byte = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) || write(fds[0], "x", 1) != 1) return -1;
    return read(fds[1], &byte, 1) == 1 && byte == 'x' ? 0 : -1;
}

static int in_child(int flags)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) _exit(unshare(flags) ? errno : 0);
    if (pid < 0 || waitpid(pid, &status, 0) < 0) return -1;
    errno = WEXITSTATUS(status);
    return status == 0 ? 0 : -1;
}

/* How many children there can be at once, up to a number. Printed in the place of an error. */
static int bomb(int most)
{
    int count = 0;
    while (count < most) {
        pid_t pid = fork();
        if (pid < 0) break;
        if (pid == 0) {
            pause();
            _exit(0);
        }
        count++;
    }
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    while (wait(0) > 0) ;
    return count;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        char *word = strtok(argv[i], ","), *a = strtok(0, ","), *b = strtok(0, ","), *c = strtok(0, ",");
        long x = a ? atol(a) : 0, y = b ? atol(b) : 0, z = c ? atol(c) : 0;
        int result = -1, number = -1;
        errno = 0;
#define IS(name) (!strcmp(word, name))
        if (IS("read")) result = opened(open(a, O_RDONLY | O_NONBLOCK));
        else if (IS("write")) result = opened(open(a, O_WRONLY));
        else if (IS("readdir")) result = opened(open(a, O_RDONLY | O_DIRECTORY));
        else if (IS("exec")) result = executed(a);
        else if (IS("rmdir")) result = rmdir(a);
        else if (IS("unlink")) result = unlink(a);
        else if (IS("mkchar")) result = mknod(a, S_IFCHR | 0600, makedev(0, 0));
        else if (IS("mkblock")) result = mknod(a, S_IFBLK | 0600, makedev(7, 0));
        else if (IS("mkdir")) result = mkdir(a, 0755);
        else if (IS("mkreg")) result = mknod(a, S_IFREG | 0644, 0);
        else if (IS("mksock")) result = mknod(a, S_IFSOCK | 0600, 0);
        else if (IS("mkfifo")) result = mkfifo(a, 0600);
        else if (IS("mksym")) result = symlink("x", a);
        else if (IS("link")) result = link(a, b);
        else if (IS("truncate")) result = truncate(a, 0);
        else if (IS("ioctl")) result = ioctl(open(a, O_RDONLY), 0x1234, 0);
        else if (IS("bind")) result = internet(x, 'b');
        else if (IS("connect")) result = internet(x, 'c');
        else if (IS("kill")) result = kill(x, 0);
        else if (IS("abstract")) {
            struct sockaddr_un address;
            socklen_t len = unix_address(&address, a, 1);
            int fd = socket(AF_UNIX, SOCK_STREAM, 0);
            result = fd < 0 ? -1 : connect(fd, (void *)&address, len);
        } else if (IS("unix")) result = whole_unix(a, 0);
        else if (IS("own-abstract")) result = whole_unix(a, 1);
        else if (IS("pair")) result = pair();
        else if (IS("socket")) result = opened(socket(x, y, z));
        else if (IS("socketpair")) {
            int fds[2];
            result = socketpair(x, y, z, fds);
        } else if (IS("send")) result = write(x, "x", 1) == 1 ? 0 : -1;
        else if (IS("io_uring")) {
            char parameters[256] = { 0 };
            result = opened(syscall(SYS_io_uring_setup, 4, parameters));
        } else if (IS("unshare")) result = in_child(x);
        else if (IS("bomb")) number = bomb(x);
        else if (IS("securebits")) number = prctl(PR_GET_SECUREBITS);
        else return 99;
        printf("%s %d\n", word, number >= 0 ? number : result == 0 ? 0 : errno);
        fflush(stdout);
    }
    return 0;
}
