/* The lower limit: what the kernel alone costs to answer a request from memory.

   One thread, epoll, keep-alive. Each read that ends in CRLF CRLF is taken for one request and answered with
   the same bytes: a head and the file that was read at the start. Nothing is parsed, looked up or checked,
   and nothing is ever closed by this side but a connection that the client has closed, or, with a third
   argument, one that was answered.

   lower_limit PORT FILE [close] */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_DESCRIPTORS = 1 << 16, MAX_EVENTS = 512, MAX_HEAD = 512 };

static char *answer;
static size_t answer_bytes;
static int closes;

/* How much of an answer each connection still waits for; 0: for a request. */
static size_t left[MAX_DESCRIPTORS];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void load_answer(const char *path) {
    FILE *file = fopen(path, "rb");
    struct stat status;
    if (!file || fstat(fileno(file), &status)) fail(path);
    answer = malloc(MAX_HEAD + status.st_size);
    if (!answer) fail("malloc");
    answer_bytes = snprintf(answer, MAX_HEAD,
                            "HTTP/1.1 200 OK\r\nServer: lower-limit\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
                            "Content-Type: image/jpeg\r\nContent-Length: %lld\r\n"
                            "Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT\r\nETag: \"0-0\"\r\n%s\r\n",
                            (long long)status.st_size, closes ? "Connection: close\r\n" : "");
    if (fread(answer + answer_bytes, 1, status.st_size, file) != (size_t)status.st_size) fail(path);
    answer_bytes += status.st_size;
    fclose(file);
}

static int start_listening(int port) {
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address)) fail("bind");
    if (listen(listener, 4096)) fail("listen");
    return listener;
}

static void accept_all(int poller, int listener) {
    for (int client; (client = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        int on = 1;
        if (client >= MAX_DESCRIPTORS) {
            close(client);
            continue;
        }
        struct epoll_event event = {.events = EPOLLIN, .data.fd = client};
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        left[client] = 0;
        if (epoll_ctl(poller, EPOLL_CTL_ADD, client, &event)) fail("epoll_ctl");
    }
}

static void send_rest(int poller, int client) {
    int waited = left[client] != answer_bytes;
    ssize_t sent = send(client, answer + answer_bytes - left[client], left[client], MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        close(client);
        return;
    }
    if (sent > 0) left[client] -= sent;
    if (left[client] == 0 && closes) {
        close(client);
    } else if ((left[client] != 0) != waited) {
        struct epoll_event event = {.events = left[client] ? EPOLLOUT : EPOLLIN, .data.fd = client};
        epoll_ctl(poller, EPOLL_CTL_MOD, client, &event);
    }
}

static void read_request(int poller, int client) {
    char data[16384];
    ssize_t got = recv(client, data, sizeof data, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) close(client);
    } else if (got >= 4 && !memcmp(data + got - 4, "\r\n\r\n", 4)) {
        left[client] = answer_bytes;
        send_rest(poller, client);
    }
}

int main(int count, char **arguments) {
    if (count < 3) return 2;
    closes = count > 3;
    load_answer(arguments[2]);
    int listener = start_listening(atoi(arguments[1])), poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[MAX_EVENTS];
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event)) fail("epoll");
    for (;;) {
        int ready = epoll_wait(poller, events, MAX_EVENTS, -1);
        for (int number = 0; number < ready; number++) {
            int client = events[number].data.fd;
            if (client == listener) accept_all(poller, listener);
            else if (left[client]) send_rest(poller, client);
            else read_request(poller, client);
        }
    }
}
