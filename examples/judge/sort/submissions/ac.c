// expect: AC AC
#include <stdio.h>
#include <stdlib.h>

static int compare(const void *a, const void *b) {
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

int main(void) {
    int n;
    if (scanf("%d", &n) != 1 || n < 0) return 1;
    int *a = calloc((size_t)n + 1, sizeof *a);
    if (!a) return 1;
    for (int i = 0; i < n; i++) {
        if (scanf("%d", &a[i]) != 1) return 1;
    }
    qsort(a, (size_t)n, sizeof *a, compare);
    for (int i = 0; i < n; i++) printf("%d\n", a[i]);
    return 0;
}
