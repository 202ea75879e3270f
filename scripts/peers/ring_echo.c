/* A plain io_uring echo: what each way to receive charges. No worker, no outboxes, no limits.
 *
 *   ring_echo PORT poll|stay|held|select|multishot [busy]
 *
 * Answers HELLO with WELCOME and sends other frames back as they came, and trusts its clients: a frame
 * that a receive cut off ends it. `poll` is what the gateway does: a poll parks the client, and what it
 * says is received into a buffer shared by all. `stay` does so with a poll that stays armed (5.13): it
 * tells once of what arrives, and something more may be there after it. `held` parks it in a receive that has a buffer of its
 * own, `select` in one that takes a buffer when something comes (5.19), `multishot` in one that also
 * stays (6.0). With busy it never sleeps. One ring, direct descriptors, DEFER_TASKRUN (6.1). */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "echo.h"

enum { ENTRIES = 1024, COMPLETIONS = 8192, BUFFERS = 4096, BUFFER = 2048, GROUP = 1 };
enum kind { ACCEPT = 1, PARK, RECV, SEND, REMOVE };
static enum { POLL, STAY, HELD, SELECT, MULTISHOT } way;

static int ring, busy;
static unsigned *sq_tail, *sq_head, sq_mask, local_tail, *cq_head, *cq_tail, cq_mask;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;
static unsigned char *buffers;
static struct io_uring_buf_ring *given;
static unsigned short given_tail, free_count, free_list[BUFFERS];

static void enter(unsigned wait) {
    unsigned queued = local_tail - __atomic_load_n(sq_head, __ATOMIC_ACQUIRE);
    __atomic_store_n(sq_tail, local_tail, __ATOMIC_RELEASE);
    if (syscall(__NR_io_uring_enter, ring, queued, wait, IORING_ENTER_GETEVENTS, NULL, 0) < 0 &&
        errno != EINTR && errno != EBUSY && errno != EAGAIN) die("io_uring_enter");
}

static struct io_uring_sqe *entry(int op, enum kind kind, unsigned buffer, unsigned slot) {
    if (local_tail - __atomic_load_n(sq_head, __ATOMIC_ACQUIRE) == ENTRIES) enter(0);
    struct io_uring_sqe *sqe = &sqes[local_tail++ & sq_mask];
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = (uint8_t)op;
    sqe->fd = (int)slot;
    sqe->flags = IOSQE_FIXED_FILE;
    sqe->user_data = (uint64_t)kind << 56 | (uint64_t)buffer << 32 | slot;
    return sqe;
}

static void set_up(void) {
    struct io_uring_params params = { .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                               IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE,
                                      .cq_entries = COMPLETIONS };
    ring = (int)syscall(__NR_io_uring_setup, ENTRIES, &params);
    if (ring < 0) die("io_uring_setup");
    size_t bytes = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    sqes = mmap(NULL, params.sq_entries * sizeof *sqes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
    if (at == MAP_FAILED || sqes == MAP_FAILED) die("mmap");
    sq_tail = (void *)(at + params.sq_off.tail);
    sq_head = (void *)(at + params.sq_off.head);
    sq_mask = params.sq_entries - 1;
    unsigned *array = (void *)(at + params.sq_off.array);
    for (unsigned i = 0; i < params.sq_entries; i++) array[i] = i;
    cq_head = (void *)(at + params.cq_off.head);
    cq_tail = (void *)(at + params.cq_off.tail);
    cq_mask = params.cq_entries - 1;
    cqes = (void *)(at + params.cq_off.cqes);
    struct io_uring_rsrc_register files = { .nr = (unsigned)raise_nofile(16384),
                                            .flags = IORING_RSRC_REGISTER_SPARSE };
    if (syscall(__NR_io_uring_register, ring, IORING_REGISTER_FILES2, &files, sizeof files)) die("files");
    buffers = mmap(NULL, (size_t)BUFFERS * BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    given = mmap(NULL, BUFFERS * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffers == MAP_FAILED || given == MAP_FAILED) die("mmap");
    struct io_uring_buf_reg group = { .ring_addr = (uint64_t)given, .ring_entries = BUFFERS, .bgid = GROUP };
    if (way >= SELECT && syscall(__NR_io_uring_register, ring, IORING_REGISTER_PBUF_RING, &group, 1)) die("buffers");
}

static void give_back(unsigned buffer) {
    if (way < SELECT) {
        free_list[free_count++] = (unsigned short)buffer;
        return;
    }
    struct io_uring_buf *at = &given->bufs[given_tail & (BUFFERS - 1)];
    at->addr = (uint64_t)(buffers + (size_t)buffer * BUFFER);
    at->len = BUFFER;
    at->bid = (uint16_t)buffer;
    __atomic_store_n(&given->tail, ++given_tail, __ATOMIC_RELEASE);
}

static struct io_uring_sqe *receive(unsigned slot, int flags) {
    if (!free_count) { fprintf(stderr, "no buffer left\n"); exit(1); }
    unsigned buffer = free_list[--free_count];
    struct io_uring_sqe *sqe = entry(IORING_OP_RECV, RECV, buffer, slot);
    sqe->addr = (uint64_t)(buffers + (size_t)buffer * BUFFER);
    sqe->len = BUFFER;
    sqe->msg_flags = (uint32_t)flags;
    return sqe;
}

static void park(unsigned slot) {
    struct io_uring_sqe *sqe;
    switch (way) {
    case POLL:
    case STAY:
        sqe = entry(IORING_OP_POLL_ADD, PARK, 0, slot);
        sqe->len = way == STAY ? IORING_POLL_ADD_MULTI : 0;
        sqe->poll32_events = POLLIN | POLLRDHUP;
        break;
    case HELD:
        sqe = receive(slot, 0);
        /* Nothing is there yet: without this the kernel tries first. */
        sqe->ioprio = IORING_RECVSEND_POLL_FIRST;
        break;
    default:
        sqe = entry(IORING_OP_RECV, RECV, 0, slot);
        sqe->flags |= IOSQE_BUFFER_SELECT;
        sqe->buf_group = GROUP;
        sqe->ioprio = IORING_RECVSEND_POLL_FIRST | (way == MULTISHOT ? IORING_RECV_MULTISHOT : 0);
    }
}

static void answer(unsigned slot, unsigned buffer, int got) {
    unsigned char *bytes = buffers + (size_t)buffer * BUFFER;
    int used = 0;
    while (got - used >= HEADER) used += HEADER + (int)payload_bytes(bytes + used);
    if (used != got) { fprintf(stderr, "a frame was cut off\n"); exit(1); }
    if (bytes[0] == HELLO) {
        memcpy(bytes, welcome, sizeof welcome);
        got = sizeof welcome;
    }
    struct io_uring_sqe *sqe = entry(IORING_OP_SEND, SEND, buffer, slot);
    sqe->addr = (uint64_t)bytes;
    sqe->len = (uint32_t)got;
    sqe->msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
}

static void complete(const struct io_uring_cqe *cqe) {
    unsigned slot = (uint32_t)cqe->user_data, buffer = cqe->user_data >> 32 & 0xffffff;
    switch (cqe->user_data >> 56) {
    case ACCEPT:
        if (cqe->res < 0 || !(cqe->flags & IORING_CQE_F_MORE)) { fprintf(stderr, "accept: %d\n", cqe->res); exit(1); }
        park((unsigned)cqe->res);
        break;
    case PARK:
        if (cqe->res == -ECANCELED) break;
        if (way == STAY && !(cqe->flags & IORING_CQE_F_MORE)) park(slot);
        receive(slot, MSG_DONTWAIT);
        break;
    case RECV:
        /* Told of twice, or of what another receive has taken. */
        if (way == STAY && cqe->res == -EAGAIN) { give_back(buffer); break; }
        if (cqe->flags & IORING_CQE_F_BUFFER) buffer = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
        if (cqe->res > 0) answer(slot, buffer, cqe->res);
        else if (way < SELECT || cqe->flags & IORING_CQE_F_BUFFER) give_back(buffer);
        if (cqe->res > 0 && way != STAY && !(cqe->flags & IORING_CQE_F_MORE)) park(slot);
        else if (cqe->res <= 0) {
            if (way == STAY) {
                /* An armed poll would keep the socket open. */
                struct io_uring_sqe *removal = entry(IORING_OP_POLL_REMOVE, REMOVE, 0, 0);
                removal->flags = 0;
                removal->addr = (uint64_t)PARK << 56 | slot;
            }
            /* A direct descriptor is closed by its number plus one. */
            struct io_uring_sqe *sqe = entry(IORING_OP_CLOSE, 0, 0, 0);
            sqe->flags = 0;
            sqe->file_index = slot + 1;
        }
        break;
    case SEND:
        give_back(buffer);
    }
}

int main(int count, char **args) {
    static const char *ways[] = { "poll", "stay", "held", "select", "multishot" };
    for (way = 0; count > 2 && way <= MULTISHOT && strcmp(args[2], ways[way]);) way++;
    if (count < 3 || way > MULTISHOT) { fprintf(stderr, "usage: %s PORT poll|stay|held|select|multishot [busy]\n", args[0]); return 2; }
    busy = count > 3 && !strcmp(args[3], "busy");
    int listener = listen_on(atoi(args[1]), 0);
    set_up();
    for (unsigned i = 0; i < BUFFERS; i++) give_back(i);
    struct io_uring_sqe *sqe = entry(IORING_OP_ACCEPT, ACCEPT, 0, (unsigned)listener);
    sqe->flags = 0;
    sqe->ioprio = IORING_ACCEPT_MULTISHOT;
    sqe->file_index = (uint32_t)IORING_FILE_INDEX_ALLOC;
    for (;;) {
        enter(!busy);
        unsigned head = *cq_head, tail = __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE);
        for (; head != tail; head++) complete(&cqes[head & cq_mask]);
        __atomic_store_n(cq_head, head, __ATOMIC_RELEASE);
    }
}
