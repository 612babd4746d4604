/* Channels between two that should not know of each other: NAME-put holds something, NAME-get looks for it. */

ATTACK(shm_put, "shm-put") { /* KEY */
    int id = shmget(atoi(argv[0]), 4096, IPC_CREAT | IPC_EXCL | 0666);
    if (id < 0) return broken("shmget");
    hold();
    shmctl(id, IPC_RMID, NULL);
    return REFUSED;
}
ATTACK(shm_get, "shm-get") { /* KEY */
    int id = shmget(atoi(argv[0]), 0, 0);
    return worked(id < 0 || shmat(id, NULL, 0) == (void *)-1 ? -1 : 0, "shmget");
}

ATTACK(msg_put, "msg-put") { /* KEY */
    struct {
        long kind;
        char text[4];
    } message = {1, "abc"};
    int id = msgget(atoi(argv[0]), IPC_CREAT | IPC_EXCL | 0666);
    if (id < 0 || msgsnd(id, &message, 4, 0) != 0) return broken("msgsnd");
    hold();
    msgctl(id, IPC_RMID, NULL);
    return REFUSED;
}
ATTACK(msg_get, "msg-get") { /* KEY */
    struct msqid_ds state;
    int id = msgget(atoi(argv[0]), 0);
    return worked(id < 0 ? -1 : msgctl(id, IPC_STAT, &state), "msgget");
}

ATTACK(sem_put, "sem-put") { /* KEY */
    int id = semget(atoi(argv[0]), 1, IPC_CREAT | IPC_EXCL | 0666);
    if (id < 0) return broken("semget");
    hold();
    semctl(id, 0, IPC_RMID);
    return REFUSED;
}
ATTACK(sem_get, "sem-get") { /* KEY */
    int id = semget(atoi(argv[0]), 0, 0);
    return worked(id < 0 ? -1 : semctl(id, 0, GETVAL), "semget");
}

ATTACK(mq_put, "mq-put") { /* NAME */
    char name[100];
    snprintf(name, sizeof name, "/%s", argv[0]);
    umask(0);
    if (mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0666, NULL) < 0) return errno == ENOSYS ? ABSENT : broken("mq_open");
    hold();
    mq_unlink(name);
    return REFUSED;
}
ATTACK(mq_get, "mq-get") { /* NAME */
    char name[100];
    snprintf(name, sizeof name, "/%s", argv[0]);
    return worked(mq_open(name, O_RDWR), "mq_open");
}

static int file_put(const char *directory, const char *name) {
    char path[200];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    umask(0);
    if (open(path, O_CREAT | O_EXCL | O_RDWR, 0666) < 0) return broken(path);
    hold();
    unlink(path);
    return REFUSED;
}
static int file_get(const char *directory, const char *name) {
    char path[200];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return worked(open(path, O_RDWR), path);
}
ATTACK(dev_shm_put, "dev-shm-put") { /* NAME */ return file_put("/dev/shm", argv[0]); }
ATTACK(dev_shm_get, "dev-shm-get") { /* NAME */ return file_get("/dev/shm", argv[0]); }
ATTACK(tmp_put, "tmp-put") { /* NAME */ return file_put("/tmp", argv[0]); }
ATTACK(tmp_get, "tmp-get") { /* NAME */ return file_get("/tmp", argv[0]); }

/* Locks on a file by a name that both have. */
static int lock_file(const char *name, int flags) {
    char path[200];
    snprintf(path, sizeof path, "/tmp/%s", name);
    umask(0);
    return open(path, flags, 0666);
}
ATTACK(lock_put, "lock-put") { /* NAME */
    int fd = lock_file(argv[0], O_CREAT | O_RDWR);
    if (fd < 0 || flock(fd, LOCK_EX) != 0) return broken("flock");
    hold();
    return REFUSED;
}
ATTACK(lock_get, "lock-get") { /* NAME: whether somebody has it */
    int fd = lock_file(argv[0], O_CREAT | O_RDWR);
    if (fd < 0) return worked(-1, "open");
    return flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK ? SUCCEEDED : REFUSED;
}

/* The same on a file that both can only read: the programs themselves. */
ATTACK(shared_lock_put, "shared-lock-put") { /* a number */
    int fd = open("/usr/bin/env", O_RDONLY);
    struct flock range = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = atol(argv[0]), .l_len = 1};
    if (fd < 0 || fcntl(fd, F_SETLK, &range) != 0) return broken("F_SETLK");
    hold();
    return REFUSED;
}
ATTACK(shared_lock_get, "shared-lock-get") { /* a number */
    int fd = open("/usr/bin/env", O_RDONLY);
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = atol(argv[0]), .l_len = 1};
    if (fd < 0) return broken("/usr/bin/env");
    if (fcntl(fd, F_GETLK, &range) != 0) return worked(-1, "F_GETLK");
    return range.l_type != F_UNLCK ? SUCCEEDED : REFUSED;
}

/* One opens a file of the host's again and again; the other watches it. */
ATTACK(watched_put, "watched-put") {
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;; usleep(20000)) close(open("/usr/bin/tac", O_RDONLY));
    }
    hold();
    return REFUSED;
}
ATTACK(watched_get, "watched-get") {
    int watches = inotify_init1(IN_CLOEXEC);
    if (watches < 0 || inotify_add_watch(watches, "/usr/bin/tac", IN_OPEN) < 0) return worked(-1, "inotify");
    struct pollfd input = {.fd = watches, .events = POLLIN};
    return poll(&input, 1, 2000) > 0 ? SUCCEEDED : REFUSED;
}

/* A name of a terminal of one in the other's /dev/pts. */
ATTACK(pty_put, "pty-put") {
    int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY), zero = 0;
    unsigned number;
    if (fd < 0 || ioctl(fd, TIOCSPTLCK, &zero) != 0 || ioctl(fd, TIOCGPTN, &number) != 0) return broken("/dev/ptmx");
    fprintf(stderr, "%u\n", number);
    hold();
    return REFUSED;
}
