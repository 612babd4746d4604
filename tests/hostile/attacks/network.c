/* Networks: the host's services and devices, and kinds of sockets with a history. */

ATTACK(raw, "raw-socket") { return worked(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), "SOCK_RAW"); }
ATTACK(packet, "packet-socket") { return worked(socket(AF_PACKET, SOCK_RAW, 0), "AF_PACKET"); }
ATTACK(vsock, "vsock") { return worked(socket(AF_VSOCK, SOCK_STREAM, 0), "AF_VSOCK"); }

/* Every family that nothing in a sandbox has a use for. */
ATTACK(families, "odd-families") {
    static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET};
    int result = ABSENT;
    for (int family = 0; family < 50; family++) {
        if (family == AF_UNIX || family == AF_INET || family == AF_INET6 || family == AF_NETLINK) continue;
        for (size_t i = 0; i < 4; i++) {
            int fd = socket(family, types[i], 0);
            if (fd >= 0) fprintf(stderr, "family %d, type %d\n", family, types[i]);
            result = any(result, fd >= 0 ? SUCCEEDED : not_there() ? ABSENT : REFUSED);
            /* Each of them may have the kernel look for a module. */
            if (fd < 0 && errno == EAFNOSUPPORT) break;
        }
    }
    return result;
}

/* Two of a family that is no use: for most, the kernel makes both before it says that they cannot be a pair. */
ATTACK(pairs, "odd-pairs") {
    int fds[2];
    if (socketpair(AF_INET, SOCK_STREAM, 0, fds) == 0) return SUCCEEDED;
    fprintf(stderr, "socketpair: %s\n", strerror(errno));
    return errno == EOPNOTSUPP ? SUCCEEDED : REFUSED;
}

ATTACK(loopback, "connect") { /* PORT */
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[0]))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) return worked(-1, "socket");
    return worked(connect(fd, (struct sockaddr *)&to, sizeof to), "connect");
}

ATTACK(datagram, "send-datagram") { /* PORT: an answer must come */
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[0]))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    char answer[8];
    if (fd < 0) return worked(-1, "socket");
    if (sendto(fd, "ping", 4, 0, (struct sockaddr *)&to, sizeof to) != 4) return worked(-1, "sendto");
    struct pollfd input = {.fd = fd, .events = POLLIN};
    if (poll(&input, 1, 300) <= 0) return REFUSED;
    return worked(recv(fd, answer, sizeof answer, 0), "recv");
}

static int connect_unix(const char *name, int abstract) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    memcpy(to.sun_path + abstract, name, length);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0) return worked(-1, "socket");
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
    return worked(connect(fd, (struct sockaddr *)&to, size), "connect");
}
ATTACK(abstract_connect, "abstract-get") { /* NAME */ return connect_unix(argv[0], 1); }
ATTACK(path_connect, "path-get") { /* NAME */
    char path[100];
    snprintf(path, sizeof path, "/tmp/%s", argv[0]);
    return connect_unix(path, 0);
}

static int listen_unix(const char *name, int abstract) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    memcpy(at.sun_path + abstract, name, length);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, size) != 0 || listen(fd, 8) != 0) return broken("listen");
    hold();
    if (!abstract) unlink(name);
    return REFUSED;
}
ATTACK(abstract_listen, "abstract-put") { /* NAME */ return listen_unix(argv[0], 1); }
ATTACK(path_listen, "path-put") { /* NAME */
    char path[100];
    snprintf(path, sizeof path, "/tmp/%s", argv[0]);
    umask(0);
    return listen_unix(path, 0);
}

/* Devices of the host's, by a route dump. */
ATTACK(devices, "netlink") {
    struct {
        struct nlmsghdr head;
        struct ifinfomsg info;
    } request = {{sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}, {.ifi_family = AF_UNSPEC}};
    static char answer[1 << 16];
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), others = 0;
    if (fd < 0) return worked(-1, "NETLINK_ROUTE");
    if (send(fd, &request, sizeof request, 0) < 0) return worked(-1, "RTM_GETLINK");
    for (;;) {
        ssize_t n = recv(fd, answer, sizeof answer, 0);
        if (n <= 0) return broken("recv");
        int length = (int)n;
        for (struct nlmsghdr *head = (struct nlmsghdr *)(void *)answer; NLMSG_OK(head, length); head = NLMSG_NEXT(head, length)) {
            if (head->nlmsg_type == NLMSG_DONE) {
                /* A host with nothing but a loopback has nothing to show. */
                return others ? SUCCEEDED : ABSENT;
            }
            if (head->nlmsg_type == NLMSG_ERROR) return broken("netlink");
            struct ifinfomsg *info = NLMSG_DATA(head);
            if (!(info->ifi_flags & IFF_LOOPBACK)) others++;
        }
    }
}

/* The host's sockets, by procfs. */
ATTACK(socket_list, "proc-net") { /* PORT */
    char entry[32];
    snprintf(entry, sizeof entry, "0100007F:%04X ", atoi(argv[0]));
    return contains("/proc/net/tcp", entry) || contains("/proc/self/net/tcp", entry) || contains("/proc/1/net/tcp", entry)
               ? SUCCEEDED
               : REFUSED;
}

/* A table of nf_tables. */
ATTACK(firewall, "nf_tables") {
    struct {
        struct nlmsghdr begin_head;
        struct nfgenmsg begin;
        struct nlmsghdr table_head;
        struct nfgenmsg table;
        struct nlattr name_head;
        char name[16];
        struct nlmsghdr end_head;
        struct nfgenmsg end;
    } batch;
    memset(&batch, 0, sizeof batch);
    batch.begin_head = (struct nlmsghdr){NLMSG_LENGTH(sizeof batch.begin), NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 1, 0};
    batch.begin.res_id = htons(NFNL_SUBSYS_NFTABLES);
    batch.table_head = (struct nlmsghdr){NLMSG_LENGTH(sizeof batch.table + sizeof batch.name_head + sizeof batch.name),
                                         (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_NEWTABLE, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK, 2, 0};
    batch.table.nfgen_family = AF_INET;
    batch.name_head = (struct nlattr){sizeof batch.name_head + sizeof batch.name, NFTA_TABLE_NAME};
    strcpy(batch.name, "stockade");
    batch.end_head = (struct nlmsghdr){NLMSG_LENGTH(sizeof batch.end), NFNL_MSG_BATCH_END, NLM_F_REQUEST, 3, 0};
    batch.end.res_id = htons(NFNL_SUBSYS_NFTABLES);
    char answer[4096];
    int fd = socket(AF_NETLINK, SOCK_RAW, 12 /* NETLINK_NETFILTER */);
    if (fd < 0) return worked(-1, "NETLINK_NETFILTER");
    if (send(fd, &batch, sizeof batch, 0) < 0) return worked(-1, "send");
    struct pollfd input = {.fd = fd, .events = POLLIN};
    if (poll(&input, 1, 5000) <= 0) return broken("no answer");
    ssize_t n = recv(fd, answer, sizeof answer, 0);
    struct nlmsghdr *head = (struct nlmsghdr *)(void *)answer;
    if (n < (ssize_t)sizeof *head || head->nlmsg_type != NLMSG_ERROR) return broken("recv");
    errno = -((struct nlmsgerr *)NLMSG_DATA(head))->error;
    if (errno == EOPNOTSUPP || errno == EINVAL) return ABSENT;
    return errno == 0 ? SUCCEEDED : worked(-1, "NFT_MSG_NEWTABLE");
}
