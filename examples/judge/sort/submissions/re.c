// expect: AC RE
// Has not thought of more than three numbers.
#include <assert.h>
#include <stdio.h>

static void order(int *a, int *b) {
    if (*a > *b) {
        int swapped = *a;
        *a = *b;
        *b = swapped;
    }
}

int main(void) {
    int n, a[3];
    if (scanf("%d", &n) != 1) return 1;
    assert(n == 3);
    if (scanf("%d %d %d", &a[0], &a[1], &a[2]) != 3) return 1;
    order(&a[0], &a[1]);
    order(&a[1], &a[2]);
    order(&a[0], &a[1]);
    printf("%d %d %d\n", a[0], a[1], a[2]);
    return 0;
}
