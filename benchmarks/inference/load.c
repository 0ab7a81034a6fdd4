/* load.c: the load client of the benchmarks. Keep-alive connections to 127.0.0.1; prints one JSON object.
 *
 *   load PORT PATH BODY_FILE [-c connections] [-d seconds] [-n requests] [-r requests_a_second] [-u ramp_seconds]
 *
 * -d ends the start of new requests (default 5), -u spreads the first ones; what runs then has -g seconds (default 20)
 * to end. Complete: status 200, the body ended as its framing says, an event stream with [DONE] before. latency: from
 * the first byte written to the end of the answer; ttft: to the first event.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum stage { HEAD, BODY, SIZE, CHUNK, CHUNK_END, TRAILER };
struct link {
    int fd, busy, status, stream, done, first, keep;
    enum stage stage;
    long left; /* of the body or chunk; -1: up to the end of the connection, -2: chunked */
    uint64_t began;
    size_t written;
    char line[4096], event[16]; /* of the head; the start of a line of an event stream */
    int line_size, event_size;
};
struct figures { uint32_t *values; size_t count, room; };

static struct sockaddr_in address;
static char *request;
static size_t request_size;
static int poll_fd;
static struct figures latency, ttft;
static uint64_t started, complete, failed, events, bytes;
static char trouble[128];

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}
static void note(struct figures *f, uint64_t value) {
    if (f->count == f->room) f->values = realloc(f->values, (f->room = f->room * 2 + 65536) * sizeof *f->values);
    f->values[f->count++] = value;
}
static int order(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}
static void show(const char *name, struct figures *f) {
    size_t n = f->count;
    qsort(f->values, n, sizeof *f->values, order);
    printf(", \"%s\": {\"p50\": %u, \"p99\": %u, \"max\": %u}", name, n ? f->values[n / 2] : 0,
        n ? f->values[n * 99 / 100] : 0, n ? f->values[n - 1] : 0);
}

static void watch(struct link *l, int operation, int what) {
    struct epoll_event e = {.events = what, .data.ptr = l};
    epoll_ctl(poll_fd, operation, l->fd, &e);
}
static void hang_up(struct link *l) {
    if (l->fd >= 0) close(l->fd);
    l->fd = -1;
}
static void begin(struct link *l) {
    int one = 1, fresh = l->fd < 0;
    if (fresh) {
        l->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connect(l->fd, (void *)&address, sizeof address);
    }
    l->busy = l->keep = 1;
    l->status = l->stream = l->done = l->first = l->line_size = l->event_size = 0;
    l->stage = HEAD;
    l->left = -1;
    l->written = 0;
    l->began = now_us();
    started++;
    watch(l, fresh ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}
static void finish(struct link *l, const char *why) {
    int good = !why && l->status == 200 && (!l->stream || l->done);
    l->busy = 0;
    if (good) { complete++; note(&latency, now_us() - l->began); }
    else {
        failed++;
        snprintf(trouble, sizeof trouble, "%s, status %d, done %d", why ? why : "ended", l->status, l->done);
    }
    if (!good || !l->keep) hang_up(l);
}

/* Look for events in what came; only the start of each line is kept. */
static void take_body(struct link *l, const char *p, size_t n) {
    if (!l->stream) return;
    for (const char *end = p + n; p < end;) {
        const char *stop = memchr(p, '\n', end - p);
        const char *to = stop ? stop : end;
        for (; p < to && l->event_size < 16; p++) l->event[l->event_size++] = *p;
        p = to + 1;
        if (!stop) break;
        if (l->event_size >= 12 && !memcmp(l->event, "data: [DONE]", 12)) l->done = 1;
        else if (l->event_size >= 5 && !memcmp(l->event, "data:", 5)) {
            events++;
            if (!l->first) { l->first = 1; note(&ttft, now_us() - l->began); }
        }
        l->event_size = 0;
    }
}
/* Take a line of the framing; 1: the answer is whole. */
static int take_line(struct link *l) {
    char *s = l->line;
    if (l->stage == SIZE) { l->left = strtol(s, NULL, 16); l->stage = l->left ? CHUNK : TRAILER; }
    else if (l->stage == CHUNK_END) l->stage = SIZE;
    else if (l->stage == TRAILER) return !*s;
    else if (!l->status) l->status = strchr(s, ' ') ? atoi(strchr(s, ' ')) : -1;
    else if (!strncasecmp(s, "content-length:", 15)) l->left = atol(s + 15);
    else if (!strncasecmp(s, "transfer-encoding:", 18)) l->left = -2;
    else if (!strncasecmp(s, "connection: close", 17)) l->keep = 0;
    else if (!strncasecmp(s, "content-type: text/event-stream", 31)) l->stream = 1;
    else if (!*s && l->status == 100) l->status = 0;
    else if (!*s) { l->stage = l->left == -2 ? SIZE : BODY; return !l->left; }
    return 0;
}
/* Read; 1: the answer ended, well or not. */
static int take_in(struct link *l) {
    static char buffer[1 << 18];
    ssize_t n = recv(l->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN) return 0;
    if (n <= 0) {
        l->keep = 0;
        finish(l, n == 0 && l->stage == BODY && l->left == -1 ? NULL : n ? "reset" : "closed");
        return 1;
    }
    bytes += n;
    for (char *p = buffer, *end = buffer + n; p < end;) {
        if (l->stage == BODY || l->stage == CHUNK) {
            long size = end - p;
            if (l->left >= 0 && size > l->left) size = l->left;
            take_body(l, p, size);
            p += size;
            if (l->left < 0 || (l->left -= size)) continue;
            if (l->stage == BODY) { finish(l, NULL); return 1; }
            l->stage = CHUNK_END;
            continue;
        }
        char *stop = memchr(p, '\n', end - p);
        size_t size = (stop ? stop : end) - p;
        if (l->line_size + size >= sizeof l->line) { finish(l, "long line"); return 1; }
        memcpy(l->line + l->line_size, p, size);
        l->line_size += size;
        p += size + 1;
        if (!stop) return 0;
        if (l->line_size && l->line[l->line_size - 1] == '\r') l->line_size--;
        l->line[l->line_size] = 0;
        l->line_size = 0;
        if (take_line(l)) { finish(l, NULL); return 1; }
    }
    return 0;
}
/* Write; 1: that failed. */
static int give_out(struct link *l) {
    ssize_t n = send(l->fd, request + l->written, request_size - l->written, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) { finish(l, "cannot send"); return 1; }
    if (n > 0 && (l->written += n) == request_size) watch(l, EPOLL_CTL_MOD, EPOLLIN);
    return 0;
}

static void read_request(const char *port, const char *path, const char *file) {
    FILE *f = fopen(file, "rb");
    if (!f) { perror(file); exit(2); }
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    rewind(f);
    request = malloc(size + 4096);
    request_size = sprintf(request, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        "Content-Type: application/json\r\nContent-Length: %ld\r\n\r\n", path, port, size);
    request_size += fread(request + request_size, 1, size, f);
    fclose(f);
    address.sin_family = AF_INET;
    address.sin_port = htons(atoi(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
}

int main(int count, char **arguments) {
    double seconds = 5, grace = 20, ramp = 0, rate = 0;
    uint64_t most = ~0ull;
    int connections = 1, option;
    struct rlimit files;
    while ((option = getopt(count, arguments, "c:d:g:n:r:u:")) != -1) switch (option) {
        case 'c': connections = atoi(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'g': grace = atof(optarg); break;
        case 'n': most = atoll(optarg); break;
        case 'r': rate = atof(optarg); break;
        case 'u': ramp = atof(optarg); break;
        default: return 2;
    }
    if (count - optind != 3) return 2;
    read_request(arguments[optind], arguments[optind + 1], arguments[optind + 2]);
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    poll_fd = epoll_create1(0);
    struct link *links = calloc(connections, sizeof *links);
    struct epoll_event ready[512];
    for (int i = 0; i < connections; i++) links[i].fd = -1;
    uint64_t start = now_us(), stop = start + seconds * 1e6, end = stop + grace * 1e6, now;
    int next = 0, busy = 0;
    while ((now = now_us()) < end) {
        int open = ramp > 0 ? (now - start) / (ramp * 1e6) * connections + 1 : connections;
        if (open > connections) open = connections;
        for (int i = busy = 0; i < open; i++) {
            struct link *l = &links[next = (next + 1) % open];
            if (!l->busy && now < stop && started < most && (!rate || started < (now - start) / 1e6 * rate)) begin(l);
        }
        for (int i = 0; i < connections; i++) busy += links[i].busy;
        if (!busy && (now >= stop || started >= most)) break;
        int n = epoll_wait(poll_fd, ready, 512, rate || open < connections ? 1 : 20);
        for (int i = 0; i < n; i++) {
            struct link *l = ready[i].data.ptr;
            if (!l->busy) { hang_up(l); continue; }
            int over = ready[i].events & EPOLLOUT && l->written < request_size && give_out(l);
            if (!over && ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) over = take_in(l);
            if (over && !rate && now_us() < stop && started < most) begin(l);
        }
    }
    printf("{\"started\": %lu, \"complete\": %lu, \"failed\": %lu, \"unfinished\": %d, \"seconds\": %.3f, \"events\": %lu, "
        "\"bytes\": %lu, \"trouble\": \"%s\"", started, complete, failed, busy, (now_us() - start) / 1e6, events, bytes, trouble);
    show("latency_us", &latency);
    show("ttft_us", &ttft);
    printf("}\n");
    return 0;
}
