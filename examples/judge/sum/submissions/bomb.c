// expect: RE RE
// Forks as often as it can, and fails when it cannot any more.
#include <unistd.h>

int main(void) {
    for (int i = 0; i < 100000; i++) {
        pid_t child = fork();
        if (child < 0)
            return 1;
        if (child == 0)
            pause();
    }
    return 0;
}
