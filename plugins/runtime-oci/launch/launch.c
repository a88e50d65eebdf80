/* pintle-oci-launch: puts itself where the container's processes shall be, then becomes the OCI runtime.
 *
 *   pintle-oci-launch [--tasks FILE]... [--cgroup2 FOLDER] [--show FOLDER AT] [--terminal] -- PROGRAM [ARGUMENT]...
 *
 * conmon starts the OCI runtime as its child, and conmon itself has to stay outside of the container's cgroup. Moving a process
 * from outside costs a grace period of the kernel (6 to 12 ms), joining by oneself does not: on v1 the single-threaded
 * process writes "0" into the `tasks` files; on v2 it is cloned into the cgroup (CLONE_INTO_CGROUP), and the first process only waits
 * and ends as the clone ended. With --terminal, standard input becomes the controlling terminal of a new session, so that
 * the runtime hears of changed window sizes. With --show, the runtime sees a folder of the node at another place too, where root of
 * a user namespace can reach it: the folders above the first are closed to all but the node's root. The mount is the runtime's alone
 * and goes with it.
 *
 * It is linked statically and does nothing else, because it runs once for each container and each command in one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(const char* what, const char* path) {
  fprintf(stderr, "pintle-oci-launch: %s %s: %s\n", what, path, strerror(errno));
  exit(126);
}

static void write_zero(const char* path) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, "0", 1) != 1) fail("join the cgroup by", path);
  close(fd);
}

/* Returns in the process that goes on inside of the cgroup. */
static void enter_unified(const char* folder) {
  const int fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail("open the cgroup", folder);
  const pid_t parent = getpid();
  struct clone_args arguments = {0};
  arguments.flags = CLONE_INTO_CGROUP;
  arguments.exit_signal = SIGCHLD;
  arguments.cgroup = (uint64_t)fd;
  const long child = syscall(SYS_clone3, &arguments, sizeof arguments);
  if (child < 0) fail("be cloned into the cgroup", folder);
  close(fd);
  if (child == 0) {
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) _exit(126);
    return;
  }
  int status = 0;
  while (waitpid((pid_t)child, &status, 0) < 0) {
    if (errno != EINTR) fail("wait for", "the runtime");
  }
  if (WIFSIGNALED(status)) _exit(128 + WTERMSIG(status));
  _exit(WEXITSTATUS(status));
}

static void show(const char* folder, const char* at) {
  if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) != 0) fail("make a mount namespace for", folder);
  if (mount(folder, at, NULL, MS_BIND | MS_REC, NULL) != 0) fail("show the container's folder at", at);
}

int main(int argc, char** argv) {
  const char *unified = NULL, *shown = NULL, *shown_at = NULL;
  int terminal = 0, i = 1;
  for (; i < argc && strcmp(argv[i], "--") != 0; ++i) {
    if (strcmp(argv[i], "--terminal") == 0) {
      terminal = 1;
    } else if (strcmp(argv[i], "--tasks") == 0 && i + 1 < argc) {
      write_zero(argv[++i]);
    } else if (strcmp(argv[i], "--cgroup2") == 0 && i + 1 < argc) {
      unified = argv[++i];
    } else if (strcmp(argv[i], "--show") == 0 && i + 2 < argc) {
      shown = argv[++i];
      shown_at = argv[++i];
    } else {
      fprintf(stderr, "pintle-oci-launch: unknown argument '%s'\n", argv[i]);
      return 126;
    }
  }
  if (i + 1 >= argc) {
    fprintf(stderr, "usage: pintle-oci-launch [--tasks FILE]... [--cgroup2 FOLDER] [--show FOLDER AT] [--terminal] -- PROGRAM [ARGUMENT]...\n");
    return 126;
  }
  if (unified) enter_unified(unified);
  if (shown) show(shown, shown_at);
  if (terminal) {
    setsid();
    if (ioctl(STDIN_FILENO, TIOCSCTTY, 0) != 0) fail("take the terminal", "standard input");
  }
  execv(argv[i + 1], argv + i + 1);
  fail("execute", argv[i + 1]);
}
