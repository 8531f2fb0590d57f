/* Load generator for servers of the ZooKeeper protocol: one thread, epoll, frames encoded once, many requests in flight.
 *
 *   load run   ADDRESSES get|set|create|exists|ping CONNECTIONS DEPTH PAYLOAD WARM_UP SECONDS PIDS
 *   load idle  ADDRESSES SESSIONS SECONDS PIDS          open sessions, keep them alive by pings
 *   load watch ADDRESSES WATCHERS ROUNDS PIDS           time from a set to the last watcher's notification
 *   load fill  ADDRESSES NODES CONNECTIONS DEPTH PAYLOAD PIDS
 *
 * ADDRESSES is ipv4:port[,ipv4:port...], connections are spread over them in turn. PIDS are the servers' process ids,
 * whose CPU time is read at both ends of what is counted. "create" alternates create and delete of a node of the
 * connection's own, each counted as an operation. Every reply's xid and err are checked: the first wrong one ends the
 * program with status 1 and one sentence. A request's latency runs from the write it left with to the read that held its
 * reply. One line of JSON on standard output; times in seconds, latencies in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { OP_CREATE = 1, OP_DELETE = 2, OP_EXISTS = 3, OP_GET = 4, OP_SET = 5, OP_SYNC = 9, OP_PING = 11, OP_CLOSE = -11 };
enum { XID_EVENT = -1, XID_PING = -2 };
enum { NODE_EXISTS = -110, KEYS = 100, MAX_PIDS = 16, MAX_ADDRESSES = 16, MAX_FRAME = 1 << 20 };
enum { HANDSHAKES = 25 /* Java's listening socket has a backlog of 50 */, SESSION_MS = 30000 };

static struct sockaddr_in addresses[MAX_ADDRESSES];
static int address_count;
static int pids[MAX_PIDS], pid_count;

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *room(size_t size) {
    void *memory = calloc(1, size);
    if (!memory) die("no memory for %zu bytes", size);
    return memory;
}

/* ---- CPU time ---- */

typedef struct { double own, servers, machine; } Cpu;

static Cpu cpu_now(void) {
    Cpu cpu = {0, 0, 0};
    double tick = 1.0 / (double)sysconf(_SC_CLK_TCK);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    cpu.own = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    for (int i = 0; i < pid_count; i++) {
        char name[64], text[1024];
        snprintf(name, sizeof name, "/proc/%d/stat", pids[i]);
        FILE *file = fopen(name, "r");
        if (!file) die("server process %d has gone", pids[i]);
        size_t size = fread(text, 1, sizeof text - 1, file);
        fclose(file);
        text[size] = 0;
        char *after = strrchr(text, ')');
        unsigned long long user, system;
        if (!after || sscanf(after + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) != 2)
            die("%s: cannot be read", name);
        cpu.servers += (double)(user + system) * tick;
    }
    FILE *file = fopen("/proc/stat", "r");
    unsigned long long user, nice, system, idle, wait, irq, soft;
    if (!file || fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle, &wait, &irq, &soft) != 7)
        die("/proc/stat: cannot be read");
    fclose(file);
    cpu.machine = (double)(user + nice + system + irq + soft) * tick;
    return cpu;
}

static void print_cpu(Cpu before, Cpu after) {
    double own = after.own - before.own, servers = after.servers - before.servers;
    double other = after.machine - before.machine - own - servers;
    printf("\"own_cpu\": %.4f, \"server_cpu\": %.4f, \"other_cpu\": %.4f", own, servers, other > 0 ? other : 0);
}

/* ---- latencies: 64 buckets for each power of two of nanoseconds, so a quantile is exact to 1.6 % ---- */

enum { SUB_BITS = 6, SUB = 1 << SUB_BITS };
static uint64_t histogram[(64 - SUB_BITS + 1) * SUB];

static void count_latency(uint64_t ns) {
    int shift = ns < SUB ? 0 : 63 - __builtin_clzll(ns) - SUB_BITS;
    histogram[ns < SUB ? ns : (uint64_t)(shift + 1) * SUB + ((ns >> shift) - SUB)]++;
}

static double quantile_us(double share) {
    uint64_t total = 0, seen = 0;
    size_t buckets = sizeof histogram / sizeof *histogram;
    for (size_t i = 0; i < buckets; i++) total += histogram[i];
    for (size_t i = 0; i < buckets; i++) {
        seen += histogram[i];
        if (seen && (double)seen >= share * (double)total) {
            if (i < SUB) return (double)i / 1000;
            return (double)((SUB + i % SUB) << (i / SUB - 1)) / 1000;
        }
    }
    return 0;
}

/* ---- frames ---- */

static char *put_int(char *at, int32_t value) {
    uint32_t big = htobe32((uint32_t)value);
    memcpy(at, &big, 4);
    return at + 4;
}

static char *put_long(char *at, int64_t value) {
    uint64_t big = htobe64((uint64_t)value);
    memcpy(at, &big, 8);
    return at + 8;
}

static char *put_buffer(char *at, const void *data, int size) {
    at = put_int(at, size);
    memcpy(at, data, (size_t)size);
    return at + size;
}

static char *put_string(char *at, const char *text) { return put_buffer(at, text, (int)strlen(text)); }

static int32_t get_int(const char *at) {
    uint32_t big;
    memcpy(&big, at, 4);
    return (int32_t)be32toh(big);
}

/* A whole request; its size. ``data`` of ``size`` bytes goes into create and set; ``watch`` into get and exists. */
static int encode(char *frame, int32_t xid, int op, const char *path, const char *data, int size, int watch) {
    char *at = put_int(put_int(frame + 4, xid), op);
    if (op == OP_GET || op == OP_EXISTS) {
        at = put_string(at, path);
        *at++ = (char)watch;
    } else if (op == OP_SYNC) {
        at = put_string(at, path);
    } else if (op == OP_SET) {
        at = put_int(put_buffer(put_string(at, path), data, size), -1);
    } else if (op == OP_DELETE) {
        at = put_int(put_string(at, path), -1);
    } else if (op == OP_CREATE) {
        at = put_int(put_buffer(put_string(at, path), data, size), 1);
        at = put_int(put_string(put_string(put_int(at, 31), "world"), "anyone"), 0);
    }
    put_int(frame, (int32_t)(at - frame - 4));
    return (int)(at - frame);
}

/* ---- blocking calls, for making ready ---- */

static void send_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) die("send: %s", strerror(errno));
        data += sent;
        size -= (size_t)sent;
    }
}

static void read_all(int fd, char *data, size_t size) {
    while (size) {
        ssize_t got = recv(fd, data, size, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) die("the server hung up");
        if (got < 0) die("recv: %s", strerror(errno));
        data += got;
        size -= (size_t)got;
    }
}

static int read_frame(int fd, char *frame, int limit) {
    char head[4];
    read_all(fd, head, 4);
    int size = get_int(head);
    if (size < 0 || size > limit) die("a frame of %d bytes", size);
    read_all(fd, frame, (size_t)size);
    return size;
}

/* The err of the reply to a request sent before. */
static int read_reply(int fd, int32_t xid) {
    static char frame[MAX_FRAME];
    if (read_frame(fd, frame, sizeof frame) < 16) die("a reply shorter than its header");
    if (get_int(frame) != xid) die("a reply with xid %d instead of %d", get_int(frame), xid);
    return get_int(frame + 12);
}

/* Sessions on new blocking sockets, connections spread over the addresses. */
static void open_sessions(int *fds, int count, int first) {
    char shake[64], frame[256];
    char *at = put_int(put_long(put_int(put_long(put_int(shake + 4, 0), 0), SESSION_MS), 0), 16);
    memset(at, 0, 17);
    put_int(shake, (int32_t)(at + 17 - shake - 4));
    size_t size = (size_t)(at + 17 - shake);
    for (int done = 0; done < count; done += HANDSHAKES) {
        int batch = count - done < HANDSHAKES ? count - done : HANDSHAKES;
        for (int i = done; i < done + batch; i++) {
            int one = 1;
            struct timeval patience = {120, 0};
            fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            if (fds[i] < 0) die("socket %d: %s", i, strerror(errno));
            setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
            if (connect(fds[i], (struct sockaddr *)&addresses[(first + i) % address_count], sizeof *addresses))
                die("connect %d: %s", i, strerror(errno));
            send_all(fds[i], shake, size);
        }
        for (int i = done; i < done + batch; i++) {
            if (read_frame(fds[i], frame, sizeof frame) < 36) die("a handshake shorter than its record");
            if (get_int(frame + 4) <= 0) die("the server refused a session");
        }
    }
}

static void close_session(int fd) {
    char frame[32];
    int size = encode(frame, 0x7ffffff0, OP_CLOSE, "", NULL, 0, 0);
    send_all(fd, frame, (size_t)size);
    read_reply(fd, 0x7ffffff0);
    close(fd);
}

static int call(int fd, int op, const char *path, const char *data, int size) {
    static int32_t xid;
    char *frame = room((size_t)size + 512);
    int length = encode(frame, ++xid, op, path, data, size, 0);
    send_all(fd, frame, (size_t)length);
    free(frame);
    return read_reply(fd, xid);
}

static void must(int error, const char *what, int or_this) {
    if (error && error != or_this) die("%s: err %d", what, error);
}

/* ---- connections under load ---- */

typedef struct {
    int fd, depth, kinds; /* requests of ``kinds`` sorts, in turn */
    char *frames[2];
    int sizes[2], reply_sizes[2]; /* a reply size of 0: any */
    int32_t next_xid, expected_xid;
    int next_kind, expected_kind, fixed_xid, watching_out;
    uint64_t *sent_at; /* ring of ``depth`` */
    int ring_head, ring_tail, in_flight;
    char *in, *out;
    int in_size, in_room, out_size, out_done;
    int64_t left; /* requests still to send; -1: without end */
    int (*renew)(void *connection); /* writes the next frame's path, if it changes */
    int64_t serial;
    int stride;
} Connection;

static int poller;

static void queue_requests(Connection *c, int count, uint64_t now) {
    if (c->left >= 0 && count > c->left) count = (int)c->left;
    if (c->left >= 0) c->left -= count;
    for (int i = 0; i < count; i++) {
        char *frame = c->frames[c->next_kind];
        if (c->renew) c->renew(c);
        if (!c->fixed_xid) put_int(frame + 4, c->next_xid++ & 0x3fffffff);
        memcpy(c->out + c->out_size, frame, (size_t)c->sizes[c->next_kind]);
        c->out_size += c->sizes[c->next_kind];
        if (++c->next_kind == c->kinds) c->next_kind = 0;
        c->sent_at[c->ring_tail] = now;
        if (++c->ring_tail == c->depth) c->ring_tail = 0;
    }
    c->in_flight += count;
}

static void flush_out(Connection *c) {
    while (c->out_done < c->out_size) {
        ssize_t sent = send(c->fd, c->out + c->out_done, (size_t)(c->out_size - c->out_done), MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno != EAGAIN) die("send: %s", strerror(errno));
        if (sent < 0) break;
        c->out_done += (int)sent;
    }
    int blocked = c->out_done < c->out_size;
    if (!blocked) c->out_done = c->out_size = 0;
    if (blocked != c->watching_out) {
        struct epoll_event event = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0u), .data.ptr = c};
        if (epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event)) die("epoll: %s", strerror(errno));
        c->watching_out = blocked;
    }
}

/* Read once, check the replies, send as many requests again; how many replies came. */
static int receive(Connection *c, int counting) {
    ssize_t got = recv(c->fd, c->in + c->in_size, (size_t)(c->in_room - c->in_size), 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (got == 0) die("the server hung up");
    if (got < 0) die("recv: %s", strerror(errno));
    uint64_t now = now_ns();
    int at = 0, replies = 0;
    c->in_size += (int)got;
    while (c->in_size - at >= 20) {
        int size = get_int(c->in + at);
        if (size < 16 || size > c->in_room - 4) die("a reply of %d bytes", size);
        if (c->in_size - at < size + 4) break;
        int32_t expected = c->fixed_xid ? XID_PING : c->expected_xid++ & 0x3fffffff;
        if (!c->in_flight) die("a reply that nothing asked for");
        if (get_int(c->in + at + 4) != expected) die("a reply with xid %d instead of %d", get_int(c->in + at + 4), expected);
        if (get_int(c->in + at + 16)) die("a reply with err %d", get_int(c->in + at + 16));
        int wanted = c->reply_sizes[c->expected_kind];
        if (wanted && size != wanted) die("a reply of %d bytes instead of %d", size, wanted);
        if (++c->expected_kind == c->kinds) c->expected_kind = 0;
        if (counting) count_latency(now - c->sent_at[c->ring_head]);
        if (++c->ring_head == c->depth) c->ring_head = 0;
        c->in_flight--;
        at += size + 4;
        replies++;
    }
    c->in_size -= at;
    memmove(c->in, c->in + at, (size_t)c->in_size);
    if (replies) queue_requests(c, replies, now);
    return replies;
}

static void join_loop(Connection *c, int fd, int depth, int in_room) {
    int largest = c->sizes[0] > c->sizes[1] ? c->sizes[0] : c->sizes[1];
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    c->fd = fd;
    c->depth = depth;
    c->sent_at = room(sizeof(uint64_t) * (size_t)depth);
    c->in_room = in_room;
    c->in = room((size_t)in_room);
    /* At most ``depth`` requests are unanswered, but answered ones may still be in the buffer's sent front. */
    c->out = room((size_t)largest * (size_t)depth * 2);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) die("epoll: %s", strerror(errno));
}

/* Drop the part of the output that has left, so that its room can be used again. */
static void compact_out(Connection *c) {
    if (!c->out_done) return;
    memmove(c->out, c->out + c->out_done, (size_t)(c->out_size - c->out_done));
    c->out_size -= c->out_done;
    c->out_done = 0;
}

static int64_t turn(int counting, int timeout_ms) {
    struct epoll_event events[256];
    int64_t replies = 0;
    int ready = epoll_wait(poller, events, 256, timeout_ms);
    if (ready < 0 && errno != EINTR) die("epoll: %s", strerror(errno));
    for (int i = 0; i < ready; i++) {
        Connection *c = events[i].data.ptr;
        compact_out(c);
        if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) replies += receive(c, counting);
        flush_out(c);
    }
    return replies;
}

/* ---- the four modes ---- */

/* The next of the keys, so that a connection never asks for the same one twice running. */
static int renew_key(void *connection) {
    Connection *c = connection;
    char digits[8];
    snprintf(digits, sizeof digits, "%04d", (int)(c->serial++ % KEYS));
    memcpy(c->frames[0] + 16 + strlen("/bench/key"), digits, 4);
    return 0;
}

static void make_keys(const char *data, int payload) {
    int fd;
    char path[64];
    open_sessions(&fd, 1, 0);
    must(call(fd, OP_CREATE, "/bench", "", 0), "create /bench", NODE_EXISTS);
    for (int i = 0; i < KEYS; i++) {
        snprintf(path, sizeof path, "/bench/key%04d", i);
        must(call(fd, OP_CREATE, path, "", 0), path, NODE_EXISTS);
        must(call(fd, OP_SET, path, data, payload), path, 0);
    }
    close_session(fd);
}

static void mode_run(char **argument) {
    const char *work = argument[0];
    int connections = atoi(argument[1]), depth = atoi(argument[2]), payload = atoi(argument[3]);
    double warm_up = atof(argument[4]), seconds = atof(argument[5]);
    if (connections < 1 || depth < 1 || payload < 0 || payload > MAX_FRAME / 2) die("connections, depth or payload out of range");
    int op = !strcmp(work, "get") ? OP_GET : !strcmp(work, "set") ? OP_SET : !strcmp(work, "create") ? OP_CREATE
           : !strcmp(work, "exists") ? OP_EXISTS : !strcmp(work, "ping") ? OP_PING : 0;
    if (!op) die("unknown workload %s", work);
    char *data = room((size_t)payload + 1), path[64];
    memset(data, 'x', (size_t)payload);
    make_keys(data, payload);
    int *fds = room(sizeof(int) * (size_t)connections);
    Connection *all = room(sizeof(Connection) * (size_t)connections);
    open_sessions(fds, connections, 0);
    for (int i = 0; i < connections && i < address_count; i++) /* a member may still be behind the keys' last write */
        must(call(fds[i], OP_SYNC, "/", NULL, 0), "sync", 0);
    for (int i = 0; i < connections; i++) {
        Connection *c = &all[i];
        c->left = -1;
        c->kinds = op == OP_CREATE ? 2 : 1;
        c->fixed_xid = op == OP_PING;
        c->serial = i * 7; /* connections begin at different keys */
        if (op == OP_GET || op == OP_SET || op == OP_EXISTS) c->renew = renew_key;
        snprintf(path, sizeof path, op == OP_CREATE ? "/bench/own%04d" : "/bench/key%04d", op == OP_CREATE ? i : i % KEYS);
        for (int kind = 0; kind < c->kinds; kind++) {
            c->frames[kind] = room((size_t)payload + 512);
            int which = kind ? OP_DELETE : op;
            c->sizes[kind] = encode(c->frames[kind], XID_PING, which, path, data, payload, 0);
            c->reply_sizes[kind] = which == OP_GET ? 16 + 4 + payload + 68 : which == OP_CREATE ? 16 + 4 + (int)strlen(path)
                                 : which == OP_SET || which == OP_EXISTS ? 16 + 68 : 16;
        }
        int reply = (c->reply_sizes[0] > c->reply_sizes[1] ? c->reply_sizes[0] : c->reply_sizes[1]) + 4;
        join_loop(c, fds[i], depth, reply * (depth < 64 ? depth : 64) + 4096);
    }
    for (int i = 0; i < connections; i++) {
        queue_requests(&all[i], depth, now_ns());
        flush_out(&all[i]);
    }
    uint64_t until = now_ns() + (uint64_t)(warm_up * 1e9);
    while (now_ns() < until) turn(0, 100);
    Cpu before = cpu_now();
    uint64_t began = now_ns(), now = began;
    int64_t operations = 0;
    until = began + (uint64_t)(seconds * 1e9);
    while (now < until) {
        operations += turn(1, 100);
        now = now_ns();
    }
    Cpu after = cpu_now();
    if (!operations) die("no reply in %g s", seconds);
    for (int i = 0; i < connections; i++) all[i].left = all[i].next_kind; /* a create is still followed by its delete */
    for (int i = 0; i < connections; i++) { /* end the sessions, so that none expires during the next measurement */
        while (all[i].in_flight) turn(0, 100);
        epoll_ctl(poller, EPOLL_CTL_DEL, fds[i], NULL);
        fcntl(fds[i], F_SETFL, 0);
        close_session(fds[i]);
    }
    double elapsed = (double)(now - began) / 1e9;
    printf("{\"operations\": %lld, \"seconds\": %.4f, \"rate\": %.1f, \"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f, ",
           (long long)operations, elapsed, (double)operations / elapsed, quantile_us(0.5), quantile_us(0.99), quantile_us(0.999));
    print_cpu(before, after);
    puts("}");
}

static void ping_all(int *fds, int count) {
    char frame[16], reply[64];
    int size = encode(frame, XID_PING, OP_PING, "", NULL, 0, 0);
    for (int i = 0; i < count; i++) send_all(fds[i], frame, (size_t)size);
    for (int i = 0; i < count; i++) {
        if (read_frame(fds[i], reply, sizeof reply) != 16 || get_int(reply) != XID_PING || get_int(reply + 12))
            die("session %d: its ping was not answered", i);
    }
}

static void mode_idle(char **argument) {
    int count = atoi(argument[0]);
    double seconds = atof(argument[1]);
    if (count < 1) die("sessions out of range");
    int *fds = room(sizeof(int) * (size_t)count), rounds = 0;
    uint64_t began = now_ns();
    open_sessions(fds, count, 0);
    double opened = (double)(now_ns() - began) / 1e9;
    Cpu before = cpu_now();
    uint64_t start = now_ns(), until = start + (uint64_t)(seconds * 1e9);
    do { /* a ping of each every third of the timeout, as clients do; the first and the last always */
        ping_all(fds, count);
        rounds++;
        uint64_t next = start + (uint64_t)rounds * (SESSION_MS / 3) * 1000000u, wake = next < until ? next : until, now = now_ns();
        if (wake > now) usleep((useconds_t)((wake - now) / 1000));
    } while (now_ns() < until);
    ping_all(fds, count);
    Cpu after = cpu_now();
    printf("{\"sessions\": %d, \"opened\": %.4f, \"pings\": %lld, ", count, opened, (long long)(rounds + 1) * count);
    print_cpu(before, after);
    puts("}");
    fflush(stdout); /* the caller reads the servers' memory while the sessions are still open */
    getchar();
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void mode_watch(char **argument) {
    int count = atoi(argument[0]), rounds = atoi(argument[1]), setter;
    if (count < 1 || rounds < 1 || rounds > 1000) die("watchers or rounds out of range");
    int *fds = room(sizeof(int) * (size_t)count);
    char frame[128], event[512];
    double *told = room(sizeof(double) * (size_t)rounds), *answered = room(sizeof(double) * (size_t)rounds);
    open_sessions(&setter, 1, 0);
    must(call(setter, OP_CREATE, "/watched", "x", 1), "create /watched", NODE_EXISTS);
    open_sessions(fds, count, 1);
    Cpu cpu = {0, 0, 0};
    for (int round = 0; round < rounds; round++) {
        int size = encode(frame, round + 1, OP_GET, "/watched", NULL, 0, 1);
        for (int i = 0; i < count; i++) send_all(fds[i], frame, (size_t)size);
        for (int i = 0; i < count; i++) must(read_reply(fds[i], round + 1), "get of /watched", 0);
        Cpu before = cpu_now();
        uint64_t began = now_ns();
        must(call(setter, OP_SET, "/watched", "y", 1), "set of /watched", 0);
        answered[round] = (double)(now_ns() - began) / 1e6;
        for (int i = 0; i < count; i++) {
            if (read_frame(fds[i], event, sizeof event) < 16 || get_int(event) != XID_EVENT) die("watcher %d: no notification", i);
        }
        told[round] = (double)(now_ns() - began) / 1e6;
        Cpu after = cpu_now();
        cpu.own += after.own - before.own;
        cpu.servers += after.servers - before.servers;
        cpu.machine += after.machine - before.machine;
    }
    qsort(told, (size_t)rounds, sizeof *told, by_size);
    qsort(answered, (size_t)rounds, sizeof *answered, by_size);
    printf("{\"watchers\": %d, \"rounds\": %d, \"told_ms\": %.3f, \"answered_ms\": %.3f, ", count, rounds, told[rounds / 2], answered[rounds / 2]);
    print_cpu((Cpu){0, 0, 0}, cpu);
    puts("}");
}

enum { SERIAL_DIGITS = 9 };

/* Nodes are /fill/pPPPPPP/nSSSSSSSSS, a thousand below each parent: serial numbers go round the connections. */
static int renew_path(void *connection) {
    Connection *c = connection;
    char text[64];
    int size = snprintf(text, sizeof text, "/fill/p%06lld/n%0*lld", (long long)(c->serial / 1000), SERIAL_DIGITS, (long long)c->serial);
    memcpy(c->frames[0] + 16, text, (size_t)size);
    c->serial += c->stride;
    return 0;
}

static void mode_fill(char **argument) {
    int64_t nodes = atoll(argument[0]);
    int connections = atoi(argument[1]), depth = atoi(argument[2]), payload = atoi(argument[3]), fd;
    if (nodes < 1 || nodes > 100000000 || connections < 1 || connections > nodes || depth < 1 || payload < 0 || payload > MAX_FRAME / 2)
        die("nodes, connections, depth or payload out of range");
    char *data = room((size_t)payload + 1), path[64];
    memset(data, 'x', (size_t)payload);
    open_sessions(&fd, 1, 0);
    must(call(fd, OP_CREATE, "/fill", "", 0), "create /fill", NODE_EXISTS);
    for (int64_t parent = 0; parent * 1000 < nodes; parent++) {
        snprintf(path, sizeof path, "/fill/p%06lld", (long long)parent);
        must(call(fd, OP_CREATE, path, "", 0), path, NODE_EXISTS);
    }
    close_session(fd);
    int *fds = room(sizeof(int) * (size_t)connections);
    Connection *all = room(sizeof(Connection) * (size_t)connections);
    open_sessions(fds, connections, 0);
    for (int i = 0; i < connections; i++) {
        Connection *c = &all[i];
        c->left = (nodes - i + connections - 1) / connections;
        c->kinds = 1;
        c->serial = i;
        c->stride = connections;
        c->renew = renew_path;
        c->frames[0] = room((size_t)payload + 512);
        c->sizes[0] = encode(c->frames[0], 0, OP_CREATE, "/fill/p000000/n000000000", data, payload, 0);
        c->reply_sizes[0] = 16 + 4 + 24;
        join_loop(c, fds[i], depth, 65536);
    }
    Cpu before = cpu_now();
    uint64_t began = now_ns();
    for (int i = 0; i < connections; i++) {
        queue_requests(&all[i], depth, now_ns());
        flush_out(&all[i]);
    }
    int64_t made = 0;
    uint64_t progress = began;
    while (made < nodes) {
        int64_t replies = turn(1, 1000);
        made += replies;
        uint64_t now = now_ns();
        if (replies) progress = now;
        else if (now - progress > 120000000000u) {
            int in_flight = 0, unsent = 0, waiting = 0;
            for (int i = 0; i < connections; i++) {
                in_flight += all[i].in_flight;
                unsent += all[i].out_size - all[i].out_done;
                if (all[i].in_flight) waiting++;
            }
            die("no reply for two minutes: %lld of %lld nodes made, %d requests unanswered on %d connections, %d bytes unsent",
                (long long)made, (long long)nodes, in_flight, waiting, unsent);
        }
    }
    Cpu after = cpu_now();
    double elapsed = (double)(now_ns() - began) / 1e9;
    printf("{\"nodes\": %lld, \"seconds\": %.4f, \"rate\": %.1f, \"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f, ",
           (long long)nodes, elapsed, (double)nodes / elapsed, quantile_us(0.5), quantile_us(0.99), quantile_us(0.999));
    print_cpu(before, after);
    puts("}");
}

static void parse_addresses(char *text) {
    for (char *part = strtok(text, ","); part; part = strtok(NULL, ",")) {
        char *colon = strrchr(part, ':');
        if (!colon || address_count == MAX_ADDRESSES) die("addresses are ipv4:port, at most %d", MAX_ADDRESSES);
        *colon = 0;
        struct sockaddr_in *address = &addresses[address_count++];
        address->sin_family = AF_INET;
        address->sin_port = htons((uint16_t)atoi(colon + 1));
        if (inet_pton(AF_INET, part, &address->sin_addr) != 1) die("%s is not an IPv4 address", part);
    }
    if (!address_count) die("no address");
}

static void parse_pids(char *text) {
    for (char *part = strtok(text, ","); part; part = strtok(NULL, ",")) {
        if (pid_count == MAX_PIDS) die("at most %d processes", MAX_PIDS);
        pids[pid_count++] = atoi(part);
    }
}

int main(int count, char **argument) {
    static const struct { const char *name; int arguments; void (*run)(char **); } modes[] = {
        {"run", 6, mode_run}, {"idle", 2, mode_idle}, {"watch", 2, mode_watch}, {"fill", 4, mode_fill}};
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    poller = epoll_create1(EPOLL_CLOEXEC);
    for (size_t i = 0; count > 2 && i < sizeof modes / sizeof *modes; i++) {
        if (strcmp(argument[1], modes[i].name)) continue;
        if (count != modes[i].arguments + 4) die("%s takes an address list, %d arguments and process ids", argument[1], modes[i].arguments);
        parse_addresses(argument[2]);
        parse_pids(argument[count - 1]);
        modes[i].run(argument + 3);
        return 0;
    }
    die("usage: load run|idle|watch|fill ADDRESSES ... PIDS");
}
