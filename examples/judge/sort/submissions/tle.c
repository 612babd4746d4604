// expect: AC TLE
// Shuffles until it is sorted: six orders are soon gone through, those of sixteen numbers are not.
#include <stdio.h>
#include <stdlib.h>

static int sorted(const int *a, int n) {
    for (int i = 1; i < n; i++) {
        if (a[i - 1] > a[i]) return 0;
    }
    return 1;
}

int main(void) {
    int n, a[100];
    if (scanf("%d", &n) != 1 || n > 100) return 1;
    for (int i = 0; i < n; i++) {
        if (scanf("%d", &a[i]) != 1) return 1;
    }
    while (!sorted(a, n)) {
        for (int i = n - 1; i > 0; i--) {
            int j = rand() % (i + 1), swapped = a[i];
            a[i] = a[j];
            a[j] = swapped;
        }
    }
    for (int i = 0; i < n; i++) printf("%d ", a[i]);
    puts("");
    return 0;
}
