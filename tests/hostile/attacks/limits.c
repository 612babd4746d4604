/* Using up what others need. Each stops at a number, so that it ends where nothing stops it. */

ATTACK(forks, "forks") { /* N */
    int wanted = atoi(argv[0]), result = SUCCEEDED, count = 0;
    pid_t *children = calloc((size_t)wanted, sizeof *children);
    for (; count < wanted; count++) {
        children[count] = fork();
        if (children[count] == 0) {
            pause();
            _exit(0);
        }
        if (children[count] < 0) {
            result = worked(-1, "fork");
            break;
        }
    }
    fprintf(stderr, "%d children\n", count);
    for (int i = 0; i < count; i++) kill(children[i], SIGKILL);
    while (wait(NULL) > 0) {
    }
    return result;
}

/* Each of them forks again, until it cannot; what is not stopped is N tasks for a while. */
ATTACK(bomb, "fork-bomb") { /* N */
    int wanted = atoi(argv[0]);
    int *count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t first = getpid();
    signal(SIGCHLD, SIG_IGN);
    for (int tries = 0; tries < 500 && __atomic_load_n(count, __ATOMIC_RELAXED) < wanted; tries++) {
        pid_t child = fork();
        if (child == 0) __atomic_add_fetch(count, 1, __ATOMIC_RELAXED);
    }
    if (getpid() != first) {
        sleep(20);
        _exit(0);
    }
    /* Until all that there are have had their turn. */
    for (int before = -1, now = 0; before != now && now < wanted; usleep(500000)) {
        before = now;
        now = __atomic_load_n(count, __ATOMIC_RELAXED);
    }
    fprintf(stderr, "%d tasks\n", *count);
    return *count >= wanted ? SUCCEEDED : REFUSED;
}

static int waits(void *none) {
    (void)none;
    pause();
    return 0;
}
ATTACK(threads, "threads") { /* N */
    for (int i = 0; i < atoi(argv[0]); i++) {
        char *stack = malloc(16384);
        int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
        if (clone(waits, stack + 16384, flags, NULL) < 0) return worked(-1, "clone");
    }
    return SUCCEEDED;
}

ATTACK(raise_limit, "raise-limit") {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_max++;
    return worked(setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
}

ATTACK(open_files, "open-files") { /* N */
    int wanted = atoi(argv[0]);
    for (int i = 0; i < wanted; i++)
        if (open("/dev/null", O_RDONLY) < 0) {
            fprintf(stderr, "%d files\n", i);
            return worked(-1, "open");
        }
    return SUCCEEDED;
}

ATTACK(fill, "fill") { /* PATH MEGABYTES */
    static char block[1 << 20];
    int fd = open(argv[0], O_CREAT | O_WRONLY | O_TRUNC, 0600), result = SUCCEEDED;
    if (fd < 0) return broken(argv[0]);
    memset(block, 'x', sizeof block);
    for (int i = 0; i < atoi(argv[1]) && result == SUCCEEDED; i++)
        result = write(fd, block, sizeof block) == sizeof block ? SUCCEEDED : worked(-1, "write");
    unlink(argv[0]);
    return result;
}

ATTACK(inodes, "inodes") { /* DIRECTORY N */
    int wanted = atoi(argv[1]), result = SUCCEEDED, count = 0;
    if (chdir(argv[0]) != 0) return broken(argv[0]);
    for (; count < wanted; count++) {
        char name[32];
        snprintf(name, sizeof name, "f%d", count);
        if (mknod(name, S_IFREG | 0600, 0) != 0) {
            result = worked(-1, "mknod");
            break;
        }
    }
    fprintf(stderr, "%d files\n", count);
    for (int i = 0; i < count; i++) {
        char name[32];
        snprintf(name, sizeof name, "f%d", i);
        unlink(name);
    }
    return result;
}

/* Room for that many pages in pipes: only the room, the pages come with the data. */
ATTACK(pipes, "pipes") { /* N */
    int room = 0, wanted = atoi(argv[0]);
    for (int i = 0; i < 400 && room < wanted; i++) {
        int ends[2];
        if (pipe(ends) != 0) return worked(-1, "pipe");
        int bytes = fcntl(ends[0], F_SETPIPE_SZ, 1 << 20);
        if (bytes < 0) return worked(-1, "F_SETPIPE_SZ");
        room += bytes / 4096;
    }
    return SUCCEEDED;
}

ATTACK(many_terminals, "many-terminals") { /* N */
    for (int i = 0; i < atoi(argv[0]); i++)
        if (open("/dev/ptmx", O_RDWR | O_NOCTTY) < 0) return i == 0 ? worked(-1, "ptmx") : REFUSED;
    return SUCCEEDED;
}

ATTACK(memory, "memory") { /* MEGABYTES */
    for (int i = 0; i < atoi(argv[0]); i++) {
        char *block = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block == MAP_FAILED) return worked(-1, "mmap");
        memset(block, 'x', 1 << 20);
    }
    return SUCCEEDED;
}

ATTACK(outlast, "outlast") { /* MILLISECONDS, deaf to all that can be ignored */
    for (int signal = 1; signal < 65; signal++)
        if (signal != SIGALRM) sigaction(signal, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        if (fork() == 0) {
            setsid();
            usleep(200000);
            _exit(0);
        }
        usleep(20000);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < atol(argv[0]));
    return SUCCEEDED;
}

ATTACK(flood, "flood") { /* MEGABYTES */
    static char block[1 << 20];
    for (int i = 0; i < atoi(argv[0]); i++)
        for (size_t done = 0; done < sizeof block;) {
            ssize_t n = write(1, block + done, sizeof block - done);
            if (n <= 0) return REFUSED;
            done += (size_t)n;
        }
    return SUCCEEDED;
}

ATTACK(watches, "inotify") { /* N instances, which are counted for the user who made the sandbox too */
    for (int i = 0; i < atoi(argv[0]); i++)
        if (inotify_init1(0) < 0) return worked(-1, "inotify_init1");
    return SUCCEEDED;
}

/* As many tasks as can be had, and it holds them. */
ATTACK(crowd, "crowd") {
    int count = 0;
    setpgid(0, 0);
    for (pid_t child; count < 200 && (child = fork()) >= 0; count++)
        if (child == 0) {
            pause();
            _exit(0);
        }
    fprintf(stderr, "%d\n", count);
    hold();
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    return REFUSED;
}

/* Whether there is no room for a single task. */
ATTACK(starved, "starved") {
    pid_t child = fork();
    if (child == 0) _exit(0);
    if (child < 0) note("fork");
    return child < 0 ? SUCCEEDED : REFUSED;
}
