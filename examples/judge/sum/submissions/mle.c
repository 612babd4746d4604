// expect: MLE MLE
// Keeps every number, in far more memory than there is.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    for (int i = 0; i < 64; i++) {
        char *block = malloc(1 << 20);
        if (!block)
            return 1;
        memset(block, i, 1 << 20);
    }
    puts("42");
    return 0;
}
