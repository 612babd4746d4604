// expect: MLE MLE
// Has a child use up the memory, which the kernel ends for that, and answers right all the same.
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    int n;
    long long sum = 0, value;
    if (fork() == 0) {
        volatile char *all = malloc(256 << 20);
        for (size_t i = 0; i < 256 << 20; i += 4096)
            all[i] = 1;
        _exit(0);
    }
    wait(NULL);
    scanf("%d", &n);
    while (n-- > 0 && scanf("%lld", &value) == 1)
        sum += value;
    printf("%lld\n", sum);
    return 0;
}
