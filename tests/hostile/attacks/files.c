/* Files: the host's, and ways out of the root. */

static int open_any(int argc, char **argv, int flags) {
    int result = ABSENT;
    for (int i = 0; i < argc; i++) {
        if (open(argv[i], flags | O_NONBLOCK | O_NOCTTY) >= 0) {
            fprintf(stderr, "%s can be opened\n", argv[i]);
            return SUCCEEDED;
        }
        int missing = errno == ENOENT;
        note(argv[i]);
        result = any(result, missing ? ABSENT : REFUSED);
    }
    return result;
}

/* Only opened, never written to. */
ATTACK(open_write, "open-write") { return open_any(argc, argv, O_WRONLY); }
ATTACK(open_read, "open-read") { return open_any(argc, argv, O_RDONLY); }

ATTACK(read_file, "read") { /* PATH TEXT */
    if (holds(argv[0], argv[1])) return SUCCEEDED;
    note(argv[0]);
    return REFUSED;
}

ATTACK(create, "create") { /* PATH */ return worked(open(argv[0], O_WRONLY | O_CREAT | O_EXCL, 0644), argv[0]); }

ATTACK(leave_set_uid, "leave-set-uid") { /* PATH: the test looks at what is left */
    if (open(argv[0], O_WRONLY | O_CREAT | O_EXCL, 0755) < 0) return broken(argv[0]);
    return chmod(argv[0], 06755) == 0 ? REFUSED : broken("chmod");
}

ATTACK(change, "change") { /* PATH of a file: each way to change it, to what it is */
    int result = worked(open(argv[0], O_WRONLY), "open");
    result = any(result, worked(chmod(argv[0], 0644), "chmod"));
    result = any(result, worked(utimensat(AT_FDCWD, argv[0], NULL, 0), "utimensat"));
    return any(result, worked(unlink(argv[0]), "unlink"));
}

ATTACK(mknod_character, "mknod") { /* PATH */
    int result = worked(mknod(argv[0], S_IFCHR | 0600, makedev(1, 5)), "mknod");
    unlink(argv[0]);
    return result;
}

ATTACK(raw_disk, "raw-disk") { /* PATH MAJOR MINOR */
    char block[512];
    if (mknod(argv[0], S_IFBLK | 0600, makedev((unsigned)atoi(argv[1]), (unsigned)atoi(argv[2]))) != 0) return worked(-1, "mknod");
    int fd = open(argv[0], O_RDONLY);
    int result = worked(fd < 0 ? -1 : read(fd, block, sizeof block), "the disk");
    unlink(argv[0]);
    return result;
}

/* The text, by a path that is relative to wherever one is. */
static int found_here(const char *path, const char *text) {
    while (*path == '/') path++;
    return holds(path, text);
}

static int climbed(const char *path, const char *text) {
    for (int i = 0; i < 64; i++) {
        if (found_here(path, text)) return SUCCEEDED;
        if (chdir("..") != 0) break;
    }
    note("the climb");
    return REFUSED;
}

/* The working directory stays outside of the new root. */
ATTACK(double_chroot, "double-chroot") { /* PATH TEXT */
    if (chdir("/tmp") != 0 || (mkdir("jail", 0755) != 0 && errno != EEXIST)) return broken("/tmp/jail");
    if (chroot("jail") != 0) return worked(-1, "chroot");
    return climbed(argv[0], argv[1]);
}

/* A directory that was open before leads out. */
ATTACK(descriptor_chroot, "fd-chroot") { /* PATH TEXT */
    int fd = open("/", O_RDONLY | O_DIRECTORY);
    if (chdir("/tmp") != 0 || (mkdir("jail", 0755) != 0 && errno != EEXIST)) return broken("/tmp/jail");
    if (chdir("jail") != 0 || chroot(".") != 0) return worked(-1, "chroot");
    if (fchdir(fd) != 0) return worked(-1, "fchdir");
    int result = climbed(argv[0], argv[1]);
    if (chroot(".") == 0 && holds(argv[0], argv[1])) result = SUCCEEDED;
    return result;
}

/* Somebody renames the working directory out of the root. */
ATTACK(renamed, "renamed-away") { /* DIRECTORY PATH TEXT */
    if (chdir(argv[0]) != 0) return broken(argv[0]);
    turn();
    return climbed(argv[1], argv[2]);
}

/* Down where no path leads, and up again, further than it was down. */
ATTACK(overlong, "overlong") { /* DIRECTORY PATH TEXT */
    char name[251];
    memset(name, 'x', 250);
    name[250] = 0;
    if (chdir(argv[0]) != 0) return broken(argv[0]);
    for (int i = 0; i < 40; i++)
        if ((mkdir(name, 0755) != 0 && errno != EEXIST) || chdir(name) != 0) return broken("mkdir");
    char *path = malloc(1 << 20);
    char cwd[1 << 15];
    fprintf(stderr, "%s\n", syscall(SYS_getcwd, cwd, sizeof cwd) < 0 ? strerror(errno) : "getcwd");
    path[0] = 0;
    for (int i = 0; i < 1000; i++) strcat(path, "../");
    for (int i = 0; i < 4; i++)
        if (chdir(path) != 0) return worked(-1, "chdir");
    if (found_here(argv[1], argv[2])) return SUCCEEDED;
    memset(path, '/', 5000);
    strcpy(path + 5000, argv[1]);
    return holds(path, argv[2]) ? SUCCEEDED : REFUSED;
}

/* What is open though it was not handed over. */
ATTACK(descriptors, "descriptors") { /* TEXT, what "marker" begins with */
    int result = REFUSED;
    for (int fd = 3; fd < 4096; fd++) {
        char found[256] = {0};
        if (fcntl(fd, F_GETFD) < 0) continue;
        fprintf(stderr, "descriptor %d is open\n", fd);
        int marker = openat(fd, "marker", O_RDONLY);
        if (pread(marker >= 0 ? marker : fd, found, sizeof found - 1, 0) > 0 && strstr(found, argv[0])) result = SUCCEEDED;
    }
    return result;
}

/* Up from where the program was started. */
ATTACK(working_directory, "cwd") { /* PATH TEXT */
    if (holds("marker", argv[1])) return SUCCEEDED;
    return climbed(argv[0], argv[1]);
}

/* "Shocker": a file by its number, whatever the root is. */
ATTACK(handle, "file-handle") { /* a directory of the same file system, TYPE, BYTES in hex, TEXT */
    struct {
        struct file_handle head;
        unsigned char bytes[128];
    } handle;
    size_t length = strlen(argv[2]) / 2;
    handle.head.handle_bytes = (unsigned)length;
    handle.head.handle_type = atoi(argv[1]);
    for (size_t i = 0; i < length; i++) {
        unsigned byte;
        sscanf(argv[2] + 2 * i, "%2x", &byte);
        handle.head.f_handle[i] = (unsigned char)byte;
    }
    int directory = open(argv[0], O_RDONLY | O_DIRECTORY);
    if (directory < 0) return broken(argv[0]);
    int fd = open_by_handle_at(directory, &handle.head, O_RDONLY);
    if (fd < 0) return worked(-1, "open_by_handle_at");
    char text[256] = {0};
    return read(fd, text, sizeof text - 1) > 0 && strstr(text, argv[3]) ? SUCCEEDED : REFUSED;
}

/* Such a handle, for the test. */
ATTACK(handle_of, "handle-of") { /* PATH */
    struct {
        struct file_handle head;
        unsigned char bytes[128];
    } handle;
    int mount_id;
    handle.head.handle_bytes = sizeof handle.bytes;
    if (name_to_handle_at(AT_FDCWD, argv[0], &handle.head, &mount_id, 0) != 0) return ABSENT;
    printf("%d ", handle.head.handle_type);
    for (unsigned i = 0; i < handle.head.handle_bytes; i++) printf("%02x", handle.head.f_handle[i]);
    printf("\n");
    return REFUSED;
}

/* What was handed over for reading, opened again for writing. */
ATTACK(reopen, "reopen") { return worked(open("/proc/self/fd/0", O_WRONLY), "/proc/self/fd/0"); }

/* What is not its content. */
ATTACK(handed, "handed-file") {
    int result = worked(fchmod(0, 0600), "fchmod");
    result = any(result, worked(futimens(0, NULL), "futimens"));
    return any(result, worked(chmod("/proc/self/fd/0", 0600), "chmod"));
}

/* A mount in a directory that somebody else writes to, the way it is done by path. */
ATTACK(mount_by_path, "mount-by-path") { /* SOURCE TARGET FILE: what must not be there then */
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return worked(-1, "private");
    if (mount(argv[0], argv[1], NULL, MS_BIND, NULL) != 0) return worked(-1, "bind");
    return access(argv[2], F_OK) == 0 ? SUCCEEDED : REFUSED;
}

/* Whether a procfs is a procfs. */
ATTACK(false_proc, "false-proc") {
    return access("/proc/self/fake", F_OK) == 0 ? SUCCEEDED : REFUSED;
}
