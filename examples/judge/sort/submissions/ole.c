// expect: AC OLE
// Prints the least number again and again, and never comes to the greatest.
#include <limits.h>
#include <stdio.h>

int main(void) {
    int n, a[100];
    if (scanf("%d", &n) != 1 || n > 100) return 1;
    for (int i = 0; i < n; i++) {
        if (scanf("%d", &a[i]) != 1) return 1;
    }
    for (int left = n; left > 0;) {
        int least = 0;
        for (int i = 1; i < n; i++) {
            if (a[i] < a[least]) least = i;
        }
        printf("%d\n", a[least]);
        if (a[least] != INT_MIN) left--;
        a[least] = INT_MAX;
    }
    return 0;
}
