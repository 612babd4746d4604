// expect: TLE TLE
// Takes no CPU time, but for ever.
#include <unistd.h>

int main(void) {
    for (;;) pause();
}
