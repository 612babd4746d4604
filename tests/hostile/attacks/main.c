/* The last of the files: what goes before is in the same program. */
extern const struct attack *const __start_attacks[], *const __stop_attacks[];

int main(int argc, char **argv) {
    alarm(60);
    signal(SIGPIPE, SIG_DFL);
    if (argc < 2) return BROKEN;
    for (const struct attack *const *entry = __start_attacks; entry < __stop_attacks; entry++)
        if (strcmp((*entry)->name, argv[1]) == 0) return (*entry)->run(argc - 2, argv + 2);
    fprintf(stderr, "no attack %s\n", argv[1]);
    return BROKEN;
}
