// expect: CE
#include <stdio.h>

int main(void) {
    printf("%d\n", 6)
    return 0;
}
