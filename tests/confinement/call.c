/* Makes the system calls that its arguments name, and prints what each answered. Without a C library, so that a filter
   has to let nothing pass but what is named. An argument is a letter and numbers: KIND:NR:A:B:C:D:E:F

   c  the call; prints "= RESULT", or "! RESULT" if a handler of SIGSYS ran
   q  the call, without a word
   b  the call; a bit of the exit code says whether it failed with EPERM
   x  the call by its number of x32
   i  the call by int 0x80
   f  the call in a forked child, which is waited for; prints "= STATUS"
   t  the call in a thread, which is waited for
   n  NR children at once, each of which makes the call A; prints the number of those that exited with 0
   s  as c, NR being the call, A times, while a timer interrupts it; prints how often it was answered with an error */

typedef unsigned long u64;

#if defined __x86_64__
enum { WRITE = 1, SIGACTION = 13, SIGRETURN = 15, PAUSE = 34, SETITIMER = 38, CLONE = 56, EXIT = 60, WAIT4 = 61, EXIT_GROUP = 231 };
static long call(u64 nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
    long result;
    register u64 r10 asm("r10") = d;
    register u64 r8 asm("r8") = e;
    register u64 r9 asm("r9") = f;
    asm volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return result;
}
static long old(u64 nr, u64 a, u64 b, u64 c)
{
    long result;
    asm volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c) : "r8", "r9", "r10", "r11", "memory");
    return result;
}
/* clone(2) with a stack of its own: the child makes the call and ends itself. */
asm(".globl thread\nthread:\n"
    "mov %rdi, %r12\n mov %rsi, %r13\n mov %rdx, %rsi\n"
    "mov $0x10f00, %edi\n xor %edx, %edx\n xor %r10d, %r10d\n xor %r8d, %r8d\n mov $56, %eax\n syscall\n"
    "test %rax, %rax\n jnz 1f\n"
    "mov %r12, %rdi\n call in_thread\n"
    "1: ret\n"
    ".globl restore\nrestore: mov $15, %eax\n syscall\n"
    ".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call start\n hlt\n");
long thread(char *what, void *unused, void *stack);
void restore(void);
#else
#error "its calls are those of x86-64"
#endif

static volatile int trapped, done;
static char stack[65536] __attribute__((aligned(16)));

static void handler(int signal)
{
    trapped = 1;
    (void)signal;
}

static void tick(int signal)
{
    (void)signal;
}

static void handle(u64 signal, void (*function)(int))
{
    struct { void (*handler)(int); u64 flags; void (*restorer)(void); u64 mask; } action = { function, 0x14000000, restore, 0 };
    call(SIGACTION, signal, (u64)&action, 0, 8, 0, 0);
}

static void print(char kind, long value)
{
    char text[32];
    int at = sizeof text;
    int negative = value < 0;
    u64 rest = negative ? -(u64)value : (u64)value;
    text[--at] = '\n';
    do text[--at] = '0' + rest % 10; while (rest /= 10);
    if (negative) text[--at] = '-';
    text[--at] = ' ';
    text[--at] = kind;
    call(WRITE, 1, (u64)(text + at), sizeof text - at, 0, 0, 0);
}

static u64 number(char **text)
{
    u64 value = 0;
    if (**text != ':') return 0;
    for (++*text; **text && **text != ':'; ++*text) {
        char c = **text;
        value = value * 16 + (c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return value;
}

static long named(char *text)
{
    u64 nr = number(&text), n[6];
    for (int i = 0; i < 6; i++) n[i] = number(&text);
    return call(nr, n[0], n[1], n[2], n[3], n[4], n[5]);
}

void in_thread(char *text)
{
    named(text);
    done = 1;
    call(EXIT, 0, 0, 0, 0, 0, 0);
}

static long ended(long pid)
{
    int status = 0;
    call(WAIT4, pid, (u64)&status, 0, 0, 0, 0);
    return status;
}

static void leave(int code)
{
    call(EXIT_GROUP, code, 0, 0, 0, 0, 0);
    call(EXIT, code, 0, 0, 0, 0, 0);
}

__attribute__((used)) static void start(u64 *stack_at_start) asm("start");
static void start(u64 *stack_at_start)
{
    char **arguments = (char **)(stack_at_start + 2);
    int code = 0, bit = 1;
    handle(31, handler);
    for (; *arguments; ++arguments) {
        char kind = **arguments, *text = *arguments + 1;
        trapped = 0;
        if (kind == 'c') {
            long result = named(text);
            print(trapped ? '!' : '=', result);
        } else if (kind == 'q') {
            named(text);
        } else if (kind == 'b') {
            if (named(text) == -1) code |= bit;
            bit <<= 1;
        } else if (kind == 'x') {
            u64 nr = number(&text);
            print('=', call(nr | 0x40000000, number(&text), 0, 0, 0, 0, 0));
        } else if (kind == 'i') {
            u64 nr = number(&text);
            print('=', old(nr, number(&text), 0, 0));
        } else if (kind == 'f') {
            long pid = call(CLONE, 17, 0, 0, 0, 0, 0);
            if (pid == 0) {
                named(text);
                leave(0);
            }
            print('=', ended(pid));
        } else if (kind == 't') {
            thread(text, 0, stack + sizeof stack);
            while (!done) ;
            print('=', 0);
        } else if (kind == 'n') {
            u64 many = number(&text), nr = number(&text);
            long good = 0;
            for (u64 i = 0; i < many; i++) {
                if (call(CLONE, 17, 0, 0, 0, 0, 0) == 0) {
                    call(nr, i, 0, 0, 0, 0, 0);
                    leave(0);
                }
            }
            for (u64 i = 0; i < many; i++) good += ended(-1) == 0;
            print('=', good);
        } else if (kind == 's') {
            u64 nr = number(&text), times = number(&text), interval[4] = { 0, 50, 0, 50 };
            long refused = 0;
            handle(14, tick);
            call(SETITIMER, 0, (u64)interval, 0, 0, 0, 0);
            while (times--) {
                long result = call(nr, 0, 0, 0, 0, 0, 0);
                refused += result < 0 && result != -4;
            }
            interval[1] = interval[3] = 0;
            call(SETITIMER, 0, (u64)interval, 0, 0, 0, 0);
            print('=', refused);
        }
    }
    leave(code);
}
