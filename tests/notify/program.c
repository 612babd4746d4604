/* Does what its arguments say, in their order, and prints what came of each. WHAT=VALUE:

   call=N     getppid(2) with N as its argument: what it returned, or the error as a negative number
   fork=N     the same in a child
   storm=N    four threads that make it N times each: how many got it back doubled, how many ENOSYS
   threads=N  the same in as many threads at once, each with its own number: how many got it back doubled, how many ENOSYS
   interrupt=N  the same N times, while a timer interrupts it: how many got it back doubled
   open=PATH  opens and reads it: whether it is closed at an exec, and its first line
   many=PATH  opens it 200 times and closes it: how often it got a descriptor that reads as the first one did
   path=N     open(2) of what is no path: 0 nothing is mapped there, 1 a string without an end
   kcmp=N     kcmp(2), which nobody needs
   listen=N   installs a filter with a listener of its own
   copies=N   how many descriptors from 3 on are open
   most=N     may have no more descriptors than that
   stay=N     sleeps for as long as it may */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static long ask(long number)
{
    long result = syscall(SYS_getppid, number);
    return result == -1 ? -errno : result;
}

static atomic_long doubled, refused;

static void *in_thread(void *number)
{
    long result = ask((long)number);
    if (result == 2 * (long)number) doubled++;
    if (result == -ENOSYS) refused++;
    return 0;
}

static void *again_and_again(void *times)
{
    for (long n = 0; n < (long)times; n++) in_thread((void *)(n + 1));
    return 0;
}

static void tick(int signal)
{
    (void)signal;
}

static int first_line(int fd, char *line, size_t size)
{
    ssize_t len = read(fd, line, size - 1);
    line[len < 0 ? 0 : len] = 0;
    line[strcspn(line, "\n")] = 0;
    return len >= 0;
}

static int own_listener(void)
{
    struct sock_filter allow = { BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW };
    struct sock_fprog program = { 1, &allow };
    int fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    return fd < 0 ? -errno : 0;
}

int main(int count, char **arguments)
{
    char line[256], other[256];
    setvbuf(stdout, 0, _IOLBF, 0);
    for (int i = 1; i < count; i++) {
        char *value = strchr(arguments[i], '=');
        if (!value) return 99;
        *value++ = 0;
        long number = atol(value);
        if (!strcmp(arguments[i], "call")) {
            printf("%ld\n", ask(number));
        } else if (!strcmp(arguments[i], "fork")) {
            pid_t child = fork();
            if (child == 0) _exit(ask(number) & 0x7f);
            int status = 0;
            waitpid(child, &status, 0);
            printf("%d\n", status >> 8);
        } else if (!strcmp(arguments[i], "threads")) {
            pthread_t *threads = calloc(number, sizeof *threads);
            pthread_attr_t small;
            pthread_attr_init(&small);
            pthread_attr_setstacksize(&small, 65536);
            for (long n = 0; n < number; n++)
                if (pthread_create(&threads[n], &small, in_thread, (void *)(n + 1))) return 98;
            for (long n = 0; n < number; n++) pthread_join(threads[n], 0);
            printf("%ld %ld\n", (long)doubled, (long)refused);
        } else if (!strcmp(arguments[i], "storm")) {
            pthread_t threads[4];
            for (int n = 0; n < 4; n++)
                if (pthread_create(&threads[n], 0, again_and_again, (void *)number)) return 98;
            for (int n = 0; n < 4; n++) pthread_join(threads[n], 0);
            printf("%ld %ld\n", (long)doubled, (long)refused);
        } else if (!strcmp(arguments[i], "interrupt")) {
            struct itimerval often = { { 0, 50 }, { 0, 50 } }, never = { 0 };
            struct sigaction action = { .sa_handler = tick, .sa_flags = SA_RESTART };
            sigaction(SIGALRM, &action, 0);
            setitimer(ITIMER_REAL, &often, 0);
            long good = 0;
            for (long n = 1; n <= number; n++) good += ask(n) == 2 * n;
            setitimer(ITIMER_REAL, &never, 0);
            printf("%ld\n", good);
        } else if (!strcmp(arguments[i], "open")) {
            int fd = open(value, O_RDONLY);
            if (fd < 0) printf("%d\n", -errno);
            else printf("%d %s\n", fcntl(fd, F_GETFD) & FD_CLOEXEC, first_line(fd, line, sizeof line) ? line : "unreadable");
        } else if (!strcmp(arguments[i], "many")) {
            long good = 0;
            int fd = open(value, O_RDONLY);
            first_line(fd, line, sizeof line);
            for (int n = 0; n < 200; n++) {
                int next = open(value, O_RDONLY);
                good += next > 2 && first_line(next, other, sizeof other) && !strcmp(line, other);
                if (next > 2) close(next);
            }
            printf("%ld\n", good);
        } else if (!strcmp(arguments[i], "path")) {
            char *pages = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            memset(pages, 'x', 8192);
            munmap(pages + 4096, 4096);
            int fd = open(number ? pages + 4000 : (char *)8, O_RDONLY);
            printf("%d\n", fd < 0 ? -errno : fd);
        } else if (!strcmp(arguments[i], "kcmp")) {
            printf("%ld\n", syscall(SYS_kcmp, 0, 0, 0, 0, 0) == -1 ? -(long)errno : 0);
        } else if (!strcmp(arguments[i], "listen")) {
            printf("%d\n", own_listener());
        } else if (!strcmp(arguments[i], "copies")) {
            int open = 0;
            for (int fd = 3; fd < 1024; fd++) open += fcntl(fd, F_GETFD) != -1;
            printf("%d\n", open);
        } else if (!strcmp(arguments[i], "most")) {
            struct rlimit limit = { number, number };
            printf("%d\n", setrlimit(RLIMIT_NOFILE, &limit));
        } else if (!strcmp(arguments[i], "stay")) {
            for (;;) pause();
        } else {
            return 97;
        }
    }
    return 0;
}
