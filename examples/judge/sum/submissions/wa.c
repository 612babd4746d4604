// expect: AC WA
// The sum does not fit.
#include <stdio.h>

int main(void) {
    int n;
    unsigned sum = 0, x;
    if (scanf("%d", &n) != 1) return 1;
    while (n-- > 0 && scanf("%u", &x) == 1) sum += x;
    printf("%u\n", sum);
    return 0;
}
