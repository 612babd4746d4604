// expect: CE
// There is no such function.
#include <stdlib.h>

int main(void) {
    sort();
    return 0;
}
