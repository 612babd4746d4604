// expect: CE
// Has the compiler read the judge's files, and tell of them in its errors. They are not there.
#include "/etc/passwd"

int main(void) {
    return 0;
}
