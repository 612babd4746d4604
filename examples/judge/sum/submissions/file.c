// expect: OLE OLE
// Fills the disk instead of printing.
#include <stdio.h>
#include <string.h>

int main(void) {
    char block[4096];
    FILE *file = fopen("/tmp/big", "w");
    memset(block, 'x', sizeof block);
    for (int i = 0; i < 1000; i++)
        fwrite(block, 1, sizeof block, file);
    return 0;
}
