/* provider.c: the model server of the benchmarks. HTTP/1.1 on 127.0.0.1, one thread, keep-alive.
 *
 *   provider PORT
 *
 * GET lists the model "bench". POST answers a chat completion, or an event stream if the body has "stream":true.
 * The body says how: "user":"events=100 delay_us=100000 size=330" (events of a stream, the pause between two,
 * bytes of text). Only the first and last 4 KiB of a body are looked at. Requests need a content-length.
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
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SEEN = 4096, FULL = 1 << 20, KEPT = 1 << 18 };

struct buffer { char *bytes; size_t start, end, room; };
struct peer {
    int fd, events_left;
    long delay_us;
    uint64_t due;
    char model[128];
    struct buffer in, out;
    struct peer *next, *previous; /* in the line of paced streams, by due time */
    int in_line;
};

static int poll_fd;
static struct peer *line_first, *line_last;
static const char TEXT[] = "The quick brown fox jumps over the lazy dog while the gateway passes on each word unchanged. ";

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

static char *reserve(struct buffer *b, size_t more) {
    if (b->end + more > b->room) b->bytes = realloc(b->bytes, b->room = (b->end + more) * 2 + 4096);
    return b->bytes + b->end;
}
static void put(struct buffer *b, const char *bytes, size_t size) {
    memcpy(reserve(b, size), bytes, size);
    b->end += size;
}
static void drop(struct buffer *b) {
    b->start = b->end = 0;
    if (b->room > KEPT) { free(b->bytes); b->bytes = NULL; b->room = 0; }
}

static void leave_line(struct peer *p) {
    if (!p->in_line) return;
    if (p->previous) p->previous->next = p->next; else line_first = p->next;
    if (p->next) p->next->previous = p->previous; else line_last = p->previous;
    p->in_line = 0;
}
static void join_line(struct peer *p) {
    struct peer *before = line_last;
    while (before && before->due > p->due) before = before->previous;
    p->previous = before;
    p->next = before ? before->next : line_first;
    if (p->next) p->next->previous = p; else line_last = p;
    if (before) before->next = p; else line_first = p;
    p->in_line = 1;
}

static void watch(struct peer *p, int operation, int what) {
    struct epoll_event e = {.events = what, .data.ptr = p};
    epoll_ctl(poll_fd, operation, p->fd, &e);
}
static void forget(struct peer *p) {
    leave_line(p);
    close(p->fd);
    free(p->in.bytes);
    free(p->out.bytes);
    free(p);
}

/* Send what is in the buffer; -1: the peer is gone. */
static int flush_out(struct peer *p) {
    while (p->out.start < p->out.end) {
        ssize_t n = send(p->fd, p->out.bytes + p->out.start, p->out.end - p->out.start, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) return -1;
        if (n < 0) { watch(p, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT | EPOLLRDHUP); return 0; }
        p->out.start += n;
    }
    drop(&p->out);
    return 0;
}

static void put_answer(struct peer *p, const char *body, size_t size) {
    reserve(&p->out, 160);
    p->out.end += sprintf(p->out.bytes + p->out.end,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\nserver: bench\r\n\r\n", size);
    put(&p->out, body, size);
}
static void put_completion(struct peer *p, long size) {
    char *body = malloc(size + 1024);
    int k = sprintf(body, "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"%s\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"", p->model);
    for (long done = 0; done < size; done++) body[k++] = TEXT[done % (sizeof TEXT - 1)];
    k += sprintf(body + k, "\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":21,"
        "\"completion_tokens\":64,\"total_tokens\":85},\"system_fingerprint\":\"fp_bench\"}");
    put_answer(p, body, k);
    free(body);
}
static void put_event(struct peer *p) {
    char event[512], size[16];
    int k = sprintf(event, "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
        "\"model\":\"%s\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"token word \"},\"finish_reason\":null}]}\n\n", p->model);
    put(&p->out, size, sprintf(size, "%x\r\n", k));
    put(&p->out, event, k);
    put(&p->out, "\r\n", 2);
}

/* Send the events that are due; -1: the peer is gone. */
static int go_on(struct peer *p) {
    static const char END[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    while (p->events_left > 0) {
        put_event(p);
        if (--p->events_left == 0) put(&p->out, END, sizeof END - 1);
        if (flush_out(p) < 0) return -1;
        if (!p->events_left || (!p->delay_us && p->out.end - p->out.start < FULL)) continue;
        p->due = p->delay_us ? p->due + p->delay_us : now_us() + 1000; /* a slow reader is looked at again */
        join_line(p);
        return 0;
    }
    return 0;
}

static const char *find(const char *body, size_t size, const char *word) {
    size_t seen = size < SEEN ? size : SEEN;
    const char *found = memmem(body, seen, word, strlen(word));
    return found ? found : memmem(body + size - seen, seen, word, strlen(word));
}
static long option(const char *body, size_t size, const char *name, long otherwise) {
    const char *found = find(body, size, name);
    return found ? atol(found + strlen(name)) : otherwise;
}
static void read_model(struct peer *p, const char *body, size_t size) {
    const char *found = find(body, size, "\"model\"");
    strcpy(p->model, "bench");
    if (found) sscanf(found + 7, " : \"%120[^\"]", p->model);
}

static int answer(struct peer *p, int post, const char *body, size_t size) {
    static const char HEAD[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    static const char LIST[] = "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"created\":1,\"owned_by\":\"bench\"}]}";
    if (!post) { put_answer(p, LIST, sizeof LIST - 1); return flush_out(p); }
    read_model(p, body, size);
    if (!find(body, size, "\"stream\": true") && !find(body, size, "\"stream\":true")) {
        put_completion(p, option(body, size, "size=", 330));
        return flush_out(p);
    }
    put(&p->out, HEAD, sizeof HEAD - 1);
    p->events_left = option(body, size, "events=", 64);
    p->delay_us = option(body, size, "delay_us=", 0);
    p->due = now_us();
    return go_on(p);
}

/* Answer the requests that are whole; -1: the peer is gone or talks nonsense. */
static int serve(struct peer *p) {
    while (!p->events_left && p->in.end) {
        char *head = p->in.bytes, *end = memmem(head, p->in.end, "\r\n\r\n", 4);
        if (!end) return p->in.end > 65536 ? -1 : 0;
        *end = 0;
        char *length = strcasestr(head, "\r\ncontent-length:");
        size_t size = length ? strtoul(length + 17, NULL, 10) : 0, whole = end + 4 - head + size;
        *end = '\r';
        if (p->in.end < whole) { reserve(&p->in, whole - p->in.end); return 0; }
        int gone = answer(p, *head == 'P', end + 4, size);
        memmove(head, head + whole, p->in.end - whole);
        p->in.end -= whole;
        if (!p->in.end) drop(&p->in);
        if (gone) return -1;
    }
    return 0;
}
static int take_in(struct peer *p) {
    for (;;) {
        reserve(&p->in, 65536);
        ssize_t n = recv(p->fd, p->in.bytes + p->in.end, p->in.room - p->in.end, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN)) return -1;
        if (n < 0) return serve(p);
        p->in.end += n;
    }
}

static void admit(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct peer *p = calloc(1, sizeof *p);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        p->fd = fd;
        watch(p, EPOLL_CTL_ADD, EPOLLIN | EPOLLRDHUP);
    }
}
static void serve_line(void) {
    uint64_t t = now_us();
    while (line_first && line_first->due <= t) {
        struct peer *p = line_first;
        leave_line(p);
        if (go_on(p) < 0 || serve(p) < 0) forget(p);
    }
}

int main(int count, char **arguments) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct rlimit files;
    if (count != 2) return 2;
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    address.sin_port = htons(atoi(arguments[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) { perror("provider"); return 1; }
    poll_fd = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, ready[512];
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        uint64_t t = now_us();
        int wait = !line_first ? -1 : line_first->due > t ? (int)((line_first->due - t + 999) / 1000) : 0;
        int n = epoll_wait(poll_fd, ready, 512, wait);
        for (int i = 0; i < n; i++) {
            struct peer *p = ready[i].data.ptr;
            if (!p) { admit(listener); continue; }
            int gone = ready[i].events & (EPOLLERR | EPOLLHUP);
            if (!gone && ready[i].events & EPOLLOUT) {
                gone = flush_out(p) < 0;
                if (!gone && !p->out.end) watch(p, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP);
            }
            if (gone || (ready[i].events & (EPOLLIN | EPOLLRDHUP) && take_in(p) < 0)) forget(p);
        }
        serve_line();
    }
}
