/* What the plain echoes, and what drives them, have in common. */
#pragma once
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>

/* Of the edge protocol (protocol/SPEC.md, part 1). */
enum { HELLO = 1, WELCOME, MESSAGE, PING, PONG, GOAWAY, CLOSE };
enum { HEADER = 4, WELCOME_BYTES = HEADER + 26 };

__attribute__((unused))
static const unsigned char welcome[WELCOME_BYTES] = {
    WELCOME, 0, 0, 26, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0,
};

static void die(const char *what) { perror(what); exit(1); }

static inline size_t payload_bytes(const unsigned char *frame) {
    return (size_t)frame[1] << 16 | frame[2] << 8 | frame[3];
}

/* A listener on loopback; its port may be shared. */
static inline int listen_on(int port, int flags) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0), one = 1;
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (bind(fd, (void *)&at, sizeof at) || listen(fd, 65535)) die("listen");
    return fd;
}

/* Raises the limit on descriptors as far as it goes; returns it, or `most` if that is less. */
static inline int raise_nofile(int most) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur > (rlim_t)most ? most : (int)limit.rlim_cur;
}
