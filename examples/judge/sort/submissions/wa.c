// expect: AC WA
// One pass of a bubble sort, where n - 1 would do.
#include <stdio.h>

int main(void) {
    int n, a[100];
    if (scanf("%d", &n) != 1 || n > 100) return 1;
    for (int i = 0; i < n; i++) {
        if (scanf("%d", &a[i]) != 1) return 1;
    }
    for (int i = 1; i < n; i++) {
        if (a[i - 1] > a[i]) {
            int swapped = a[i];
            a[i] = a[i - 1];
            a[i - 1] = swapped;
        }
    }
    for (int i = 0; i < n; i++) printf("%d ", a[i]);
    puts("");
    return 0;
}
