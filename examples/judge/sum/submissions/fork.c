// expect: AC AC
// Leaves processes behind that hold its stdout and would stay for ever. They end with it.
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static void stay(void) {
    setsid();
    signal(SIGHUP, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    for (;;) pause();
}

int main(void) {
    int n;
    long long sum = 0, x;
    if (scanf("%d", &n) != 1) return 1;
    while (n-- > 0 && scanf("%lld", &x) == 1) sum += x;
    for (int i = 0; i < 8; i++) {
        if (fork() == 0) stay();
    }
    printf("%lld\n", sum);
    return 0;
}
