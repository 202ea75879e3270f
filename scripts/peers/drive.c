/* Drives several echo servers in one run, one after the other in short slices, so that a machine
 * whose speed drifts is equally fast for all of them.
 *
 *   drive CLIENTS SLICE_S ROUNDS PAYLOAD_BYTES RATE NAME:PORT:PID...
 *
 * RATE 0: a closed loop, every client has one MESSAGE under way. Else an open loop: so many
 * messages a second, on a schedule, latency counted from the intended time. A slice begins when the
 * one before has been answered in full; its first 60 ms do not count. Every reply is checked for its
 * length. Prints a line of JSON per target and slice. Processor time is the server's own
 * (schedstat: nanoseconds run, all its threads) and the busy time of core 0 without steal. */
#define _GNU_SOURCE
#include <dirent.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "echo.h"

enum { EVENTS = 256, CLIENTS_PER_ADDRESS = 8192 };
static const double WARM_UP_S = 0.06, PATIENCE_S = 10;

struct target { const char *name; int port, pid, epoll, *fds; };
struct times { double core, steal, ran, user, system, generator; };

static double seconds(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static double ran(int pid) {
    char path[64];
    double sum = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *threads = opendir(path);
    if (!threads) die(path);
    for (struct dirent *thread; (thread = readdir(threads));) {
        char stat[400];
        unsigned long long ns;
        snprintf(stat, sizeof stat, "%s/%s/schedstat", path, thread->d_name);
        FILE *file = thread->d_name[0] == '.' ? NULL : fopen(stat, "r");
        if (file && fscanf(file, "%llu", &ns) == 1) sum += ns / 1e9;
        if (file) fclose(file);
    }
    closedir(threads);
    return sum;
}

static struct times look(int pid) {
    struct times times = { .ran = ran(pid), .generator = seconds(CLOCK_PROCESS_CPUTIME_ID) };
    double tick = sysconf(_SC_CLK_TCK);
    unsigned long long v[8], user, system;
    char line[1024], path[64];
    FILE *file = fopen("/proc/stat", "r");
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "cpu0 %llu %llu %llu %llu %llu %llu %llu %llu", v, v + 1, v + 2, v + 3, v + 4,
                   v + 5, v + 6, v + 7) == 8) {
            times.core = (v[0] + v[1] + v[2] + v[5] + v[6]) / tick;
            times.steal = v[7] / tick;
        }
    fclose(file);
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (!(file = fopen(path, "r")) || !fgets(line, sizeof line, file)) die(path);
    fclose(file);
    sscanf(strrchr(line, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system);
    times.user = user / tick;
    times.system = system / tick;
    return times;
}

static void read_all(int fd, void *to, size_t bytes) {
    for (ssize_t got; bytes; bytes -= got, to = (char *)to + got)
        if ((got = read(fd, to, bytes)) <= 0) die("the server closed a connection");
}

static void join(struct target *target, int clients) {
    target->epoll = epoll_create1(EPOLL_CLOEXEC);
    target->fds = calloc(clients, sizeof *target->fds);
    for (int i = 0; i < clients; i++) {
        struct sockaddr_in at = { .sin_family = AF_INET };
        int fd = target->fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK + i / CLIENTS_PER_ADDRESS);
        if (fd < 0 || bind(fd, (void *)&at, sizeof at)) die("bind");
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        at.sin_port = htons(target->port);
        if (connect(fd, (void *)&at, sizeof at)) die("connect");
        unsigned char key[16], hello[64] = { 1, 0, 0, 0, 1, 0, 0 }, answer[WELCOME_BYTES];
        int bytes = snprintf((char *)key, sizeof key, "u%d", i);
        hello[3] = 6 + bytes;
        hello[7] = bytes;
        memcpy(hello + 8, key, bytes);
        if (write(fd, hello, 10 + bytes) != 10 + bytes) die("HELLO");
        read_all(fd, answer, sizeof answer);
        struct epoll_event event = { .events = EPOLLIN, .data.u32 = i };
        epoll_ctl(target->epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

static int by_size(const void *a, const void *b) {
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}

static void send_message(int fd, unsigned char *message, int bytes, double intended) {
    memcpy(message + HEADER, &intended, sizeof intended);
    if (write(fd, message, bytes) != bytes) die("a client's socket is full");
}

static void slice(struct target *target, int clients, double length, int payload, double rate) {
    static unsigned char message[HEADER + 65536], reply[HEADER + 65536];
    static double latencies[1 << 20];
    int bytes = HEADER + payload, turn = 0;
    long open = 0, done = 0, counted = 0;
    double began = seconds(CLOCK_MONOTONIC), from = began + WARM_UP_S, until = from + length, ended = 0;
    struct times before = { 0 }, after = { 0 };
    int counting = 0, stopping = 0;
    message[0] = 3;
    message[2] = payload >> 8;
    message[3] = payload & 255;
    if (rate == 0)
        for (int i = 0; i < clients; i++, open++) send_message(target->fds[i], message, bytes, began);
    double due = began;
    while (open || (rate > 0 && !stopping)) {
        double now = seconds(CLOCK_MONOTONIC);
        if (!counting && now >= from) counting = 1, done = 0, from = now, until = now + length, before = look(target->pid);
        if (counting && !stopping && now >= until)
            stopping = 1, ended = now, after = look(target->pid), counted = done;
        if (stopping && !open) break;
        for (; rate > 0 && !stopping && due <= now; due += 1 / rate, open++, turn = (turn + 1) % clients)
            send_message(target->fds[turn], message, bytes, due);
        struct epoll_event events[EVENTS];
        double pause = rate > 0 && !stopping ? due - seconds(CLOCK_MONOTONIC) : PATIENCE_S;
        if (pause < 0) pause = 0;
        struct timespec limit = { .tv_sec = (long)pause, .tv_nsec = (pause - (long)pause) * 1e9 };
        int ready = epoll_pwait2(target->epoll, events, EVENTS, &limit, NULL);
        if (ready == 0 && pause == PATIENCE_S) {
            fprintf(stderr, "%s: %ld messages were not answered in time\n", target->name, open);
            exit(1);
        }
        for (int i = 0; i < ready; i++) {
            int fd = target->fds[events[i].data.u32];
            double intended;
            read_all(fd, reply, bytes);
            memcpy(&intended, reply + HEADER, sizeof intended);
            if (rate > 0 && counting && done < (long)(sizeof latencies / sizeof *latencies))
                latencies[done] = seconds(CLOCK_MONOTONIC) - intended;
            done++;
            if (rate == 0 && !stopping) send_message(fd, message, bytes, now);
            else open--;
        }
    }
    qsort(latencies, rate > 0 ? counted : 0, sizeof *latencies, by_size);
    double million = counted / 1e6;
    printf("{\"target\":\"%s\",\"messages_per_s\":%.0f,\"ran_s\":%.3f,\"core_s\":%.3f,\"user_s\":%.3f,"
           "\"system_s\":%.3f,\"steal\":%.3f,\"generator\":%.3f,\"p50_us\":%.1f,\"p99_us\":%.1f}\n",
           target->name, counted / (ended - from), (after.ran - before.ran) / million,
           (after.core - before.core) / million, (after.user - before.user) / million,
           (after.system - before.system) / million, (after.steal - before.steal) / (ended - from),
           (after.generator - before.generator) / (ended - from),
           rate > 0 ? latencies[counted / 2] * 1e6 : 0, rate > 0 ? latencies[counted * 99 / 100] * 1e6 : 0);
    fflush(stdout);
}

int main(int count, char **args) {
    if (count < 7) return fputs("see the first comment of drive.c\n", stderr), 2;
    int clients = atoi(args[1]), rounds = atoi(args[3]), payload = atoi(args[4]), targets = count - 6;
    double length = atof(args[2]), rate = atof(args[5]);
    if (payload < 8 || payload > 65535) return fputs("PAYLOAD_BYTES: 8 to 65535\n", stderr), 2;
    struct target *all = calloc(targets, sizeof *all);
    prctl(PR_SET_TIMERSLACK, 1);
    for (int i = 0; i < targets; i++) {
        all[i].name = strtok(args[6 + i], ":");
        all[i].port = atoi(strtok(NULL, ":"));
        all[i].pid = atoi(strtok(NULL, ":"));
        join(&all[i], clients);
    }
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < targets; i++) slice(&all[(i + round) % targets], clients, length, payload, rate);
    return 0;
}
