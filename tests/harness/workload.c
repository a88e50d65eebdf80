/* workload: what the containers of system tests run. Static, so that an image needs nothing else.
 *
 *   workload ticks [MS]       prints "tick 0", "tick 1", ... every MS milliseconds (10), until SIGTERM
 *   workload serve PORT       answers each line on each TCP connection with the same line, until SIGTERM
 *   workload sleep            until SIGTERM
 *   workload exit CODE        ends at once
 *   workload spin             uses a whole processor until SIGTERM
 *   workload eat MIB [RATE]   fills so much memory, at RATE MiB a second, then waits until SIGTERM
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void end(int number) {
  (void)number;
  _exit(0);
}

static int ticks(long milliseconds) {
  struct timespec next;
  char line[64];
  clock_gettime(CLOCK_MONOTONIC, &next);
  for (unsigned long number = 0;; ++number) {
    const int size = snprintf(line, sizeof line, "tick %lu\n", number);
    for (int written = 0; written < size;) {
      const ssize_t now = write(STDOUT_FILENO, line + written, (size_t)(size - written));
      if (now < 0 && errno != EINTR) return 1;
      if (now > 0) written += (int)now;
    }
    next.tv_nsec += milliseconds * 1000000;
    while (next.tv_nsec >= 1000000000) next.tv_nsec -= 1000000000, ++next.tv_sec;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL) == EINTR) {
    }
  }
}

static int serve(int port, int protocol) {
  enum { most = 256 };
  struct pollfd watched[most];
  char bytes[4096];
  int count = 1;
  const int on = 1, off = 0;
  const int listener = socket(AF_INET6, SOCK_STREAM, protocol);
  struct sockaddr_in6 address;
  memset(&address, 0, sizeof address);
  address.sin6_family = AF_INET6;
  address.sin6_port = htons((uint16_t)port);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (bind(listener, (struct sockaddr*)&address, sizeof address) || listen(listener, 64)) {
    perror("workload: listen");
    return 1;
  }
  printf("serving on %d\n", port);
  fflush(stdout);
  watched[0].fd = listener;
  watched[0].events = POLLIN;
  for (;;) {
    if (poll(watched, (nfds_t)count, -1) < 0) continue;
    for (int i = count - 1; i > 0; --i) {
      if (!watched[i].revents) continue;
      const ssize_t got = read(watched[i].fd, bytes, sizeof bytes);
      if (got <= 0 || write(watched[i].fd, bytes, (size_t)got) != got) {
        close(watched[i].fd);
        watched[i] = watched[--count];
      }
    }
    if ((watched[0].revents & POLLIN) && count < most) {
      watched[count].fd = accept(listener, NULL, NULL);
      watched[count].events = POLLIN;
      watched[count].revents = 0;
      if (watched[count].fd >= 0) ++count;
    }
  }
}

static int eat(long mebibytes, long rate) {
  const size_t size = (size_t)mebibytes << 20;
  const struct timespec pause_of_mebibyte = {0, rate > 1 ? 1000000000 / rate : 0};
  char* memory = malloc(size);
  if (!memory) return 1;
  for (size_t at = 0; at < size; at += 4096) {
    ((volatile char*)memory)[at] = 1;
    if (rate > 1 && at % (1 << 20) == 0) nanosleep(&pause_of_mebibyte, NULL);
  }
  for (;;) pause();
}

int main(int count, char** arguments) {
  const char* what = count > 1 ? arguments[1] : "";
  const long number = count > 2 ? atol(arguments[2]) : 0;
  signal(SIGTERM, end);
  signal(SIGPIPE, SIG_IGN);
  if (!strcmp(what, "ticks")) return ticks(number ? number : 10);
  if (!strcmp(what, "serve")) return serve((int)number, IPPROTO_TCP);
  if (!strcmp(what, "serve-sctp")) return serve((int)number, IPPROTO_SCTP);
  if (!strcmp(what, "exit")) return (int)number;
  if (!strcmp(what, "eat")) return eat(number, count > 3 ? atol(arguments[3]) : 0);
  if (!strcmp(what, "spin")) {
    for (volatile unsigned long turns = 0;; ++turns) {
    }
  }
  if (!strcmp(what, "sleep")) {
    for (;;) pause();
  }
  fprintf(stderr, "workload: what? ticks, serve, serve-sctp, sleep, spin, eat or exit\n");
  return 2;
}
