/* A plain epoll echo: what the kernel charges, and the backend of the TCP proxies.
 *
 *   epoll_echo PORT [--processes N] [--fanout]
 *
 * Answers HELLO with WELCOME and PING with PONG, and sends MESSAGE frames back as they came
 * (protocol/SPEC.md, part 1); it trusts its peer otherwise. One read, at most one write per wake.
 * With --processes the port is shared by SO_REUSEPORT, for more clients than one process may have
 * descriptors. With --fanout a MESSAGE that begins with 'A' or 'B' is not echoed: its other bytes go
 * to all clients, by one plain send() each, as the reference worker's handler of that name would have
 * it; with several processes, each sends to its own. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <signal.h>
#include <unistd.h>

#include "echo.h"

enum { BUFFER = 65536, EVENTS = 1024 };

/* The part of a frame that a read cut off; rare, so it is allocated only then. */
struct rest { size_t used; unsigned char bytes[]; };

static struct rest **rests;
static unsigned char *open_fds;
static int fds_max, fanout, descriptors_end;
/* Of each process: what others have for its clients. */
static int (*inboxes)[2], processes = 1, own;

static void drop(int fd) {
    free(rests[fd]);
    rests[fd] = NULL;
    open_fds[fd] = 0;
    close(fd);
}

static void send_to_all(const unsigned char *frame, size_t bytes) {
    /* One that does not take it is a case that is not measured here; loadgen would miss it. */
    for (int fd = 0; fd < descriptors_end; fd++)
        if (open_fds[fd]) send(fd, frame, bytes, MSG_NOSIGNAL);
}

static void broadcast(const unsigned char *body, size_t bytes) {
    static unsigned char frame[HEADER + BUFFER];
    frame[0] = MESSAGE;
    frame[1] = (unsigned char)(bytes >> 16);
    frame[2] = (unsigned char)(bytes >> 8);
    frame[3] = (unsigned char)bytes;
    memcpy(frame + HEADER, body, bytes);
    for (int i = 0; i < processes; i++)
        if (i != own) send(inboxes[i][1], frame, HEADER + bytes, MSG_NOSIGNAL);
    send_to_all(frame, HEADER + bytes);
}

static void take_from_inbox(void) {
    static unsigned char frame[HEADER + BUFFER];
    ssize_t got = recv(inboxes[own][0], frame, sizeof frame, 0);
    if (got > 0) send_to_all(frame, (size_t)got);
}

/* Turns whole frames in `in` into their answers, in place where they are echoed. Returns bytes
 * consumed; *out_used grows. -1: the client said CLOSE. */
static long answer(const unsigned char *in, size_t used, unsigned char *out, size_t *out_used) {
    size_t at = 0;
    while (used - at >= HEADER) {
        const unsigned char *frame = in + at;
        size_t bytes = HEADER + payload_bytes(frame);
        if (used - at < bytes) break;
        switch (frame[0]) {
        case HELLO:
            memcpy(out + *out_used, welcome, sizeof welcome);
            *out_used += sizeof welcome;
            break;
        case MESSAGE:
            if (fanout && bytes > HEADER && (frame[HEADER] == 'A' || frame[HEADER] == 'B')) {
                broadcast(frame + HEADER + 1, bytes - HEADER - 1);
                break;
            }
            /* fall through */
        case PING:
            memcpy(out + *out_used, frame, bytes);
            if (frame[0] == PING) out[*out_used] = PONG;
            *out_used += bytes;
            break;
        case CLOSE:
            return -1;
        }
        at += bytes;
    }
    return (long)at;
}

static void serve(int fd) {
    static unsigned char in[2 * BUFFER], out[2 * BUFFER + 64];
    size_t kept = 0, out_used = 0;
    if (rests[fd]) {
        kept = rests[fd]->used;
        memcpy(in, rests[fd]->bytes, kept);
        free(rests[fd]);
        rests[fd] = NULL;
    }
    ssize_t got = recv(fd, in + kept, BUFFER, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) got = 0;
    else if (got <= 0) { drop(fd); return; }
    size_t used = kept + (size_t)got;
    long done = answer(in, used, out, &out_used);
    if (out_used && send(fd, out, out_used, MSG_NOSIGNAL) != (ssize_t)out_used) {
        drop(fd); /* A client that does not read is no case that is measured here. */
        return;
    }
    if (done < 0 || used - (size_t)done > BUFFER) { drop(fd); return; }
    size_t left = used - (size_t)done;
    if (left) {
        rests[fd] = malloc(sizeof **rests + left);
        if (!rests[fd]) die("malloc");
        rests[fd]->used = left;
        memcpy(rests[fd]->bytes, in + done, left);
    }
}

static void run(int port) {
    int listener = listen_on(port, SOCK_NONBLOCK), epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = { .events = EPOLLIN, .data.fd = listener }, events[EVENTS];
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event)) die("epoll");
    event.data.fd = inboxes[own][0];
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, inboxes[own][0], &event)) die("epoll_ctl");
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        if (ready < 0 && errno != EINTR) die("epoll_wait");
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == inboxes[own][0]) { take_from_inbox(); continue; }
            if (fd != listener) { serve(fd); continue; }
            for (int n = 0; n < 64; n++) {
                int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (client < 0) break;
                open_fds[client] = 1;
                if (client >= descriptors_end) descriptors_end = client + 1;
                event.events = EPOLLIN;
                event.data.fd = client;
                if (epoll_ctl(epoll, EPOLL_CTL_ADD, client, &event)) die("epoll_ctl");
            }
        }
    }
}

int main(int count, char **args) {
    if (count < 2) { fprintf(stderr, "usage: %s PORT [--processes N] [--fanout]\n", args[0]); return 2; }
    for (int i = 2; i < count; i++) {
        if (!strcmp(args[i], "--fanout")) fanout = 1;
        else if (!strcmp(args[i], "--processes") && i + 1 < count) processes = atoi(args[++i]);
        else { fprintf(stderr, "unknown argument %s\n", args[i]); return 2; }
    }
    fds_max = raise_nofile(1 << 20);
    rests = calloc((size_t)fds_max, sizeof *rests);
    open_fds = calloc((size_t)fds_max, 1);
    inboxes = calloc((size_t)processes, sizeof *inboxes);
    for (int i = 0; i < processes; i++)
        if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, inboxes[i])) die("socketpair");
    pid_t parent = getpid();
    for (int i = 1; i < processes; i++)
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent) return 0;
            own = i;
            break;
        }
    run(atoi(args[1]));
}
