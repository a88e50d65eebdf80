/* pintle-pod-init: the first process of a process namespace that the containers of a pod share.
 *
 *   pintle-pod-init SANDBOX [USER_NAMESPACE]      prints the first process' PID and ends; that one stays until it is killed
 *
 * A process namespace lives as long as its first process, which also has to reap what is orphaned in it. This one does that
 * and nothing else. Containers see it as process 1, so it has nothing for them to reach through /proc/1: no file but /dev/null, a
 * root of its own that is empty and read-only, a user without rights, and it cannot be traced.
 *
 * It is linked statically, because its root holds no libraries and its memory is counted for each pod.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { nobody = 65534 };

static void fail(const char* what) {
  dprintf(STDERR_FILENO, "pintle-pod-init: %s: %s\n", what, strerror(errno));
  _exit(1);
}

/* An empty, read-only root in a mount namespace of its own. */
static void leave_the_nodes_files(void) {
  if (unshare(CLONE_NEWNS) != 0) fail("unshare the mounts");
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) fail("keep mounts to itself");
  if (mount("none", "/proc", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=1,mode=555") != 0) fail("make an empty root");
  if (chdir("/proc") != 0 || syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0) fail("enter the empty root");
  if (chdir("/") != 0) fail("enter the empty root");
  if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0) fail("make the root read-only");
}

static void drop_rights(void) {
  if (setgroups(0, NULL) != 0 || setresgid(nobody, nobody, nobody) != 0 || setresuid(nobody, nobody, nobody) != 0) fail("drop rights");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) fail("drop rights");
}

/* The process namespace will belong to it. Root of the node is nobody in there, so root of the pod is taken on. */
static void enter_user_namespace(const char* path) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || setns(fd, CLONE_NEWUSER) != 0) fail("enter the user namespace");
  if (setgroups(0, NULL) != 0 || setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0) fail("become root of the user namespace");
  close(fd);
}

int main(int argc, char* argv[]) {
  if (argc != 2 && argc != 3) {
    fprintf(stderr, "usage: pintle-pod-init SANDBOX [USER_NAMESPACE]\n");
    return 2;
  }
  if (argc == 3) enter_user_namespace(argv[2]);
  if (unshare(CLONE_NEWPID) != 0) fail("unshare the process namespace");
  int ready[2];
  if (pipe2(ready, O_CLOEXEC) != 0) fail("make a pipe");
  const pid_t first = fork();
  if (first < 0) fail("fork");
  if (first > 0) {
    /* Told only once it holds nothing of the node's. */
    char byte;
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1) return 1;
    return dprintf(STDOUT_FILENO, "%d\n", (int)first) > 0 ? 0 : 1;
  }
  const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  sigset_t all;
  sigfillset(&all);
  if (setsid() < 0 || sigprocmask(SIG_SETMASK, &all, NULL) != 0) fail("set up signals");
  leave_the_nodes_files();
  drop_rights();
  if (write(ready[1], "x", 1) != 1) fail("report");
  for (int fd = 0; fd < 3; ++fd) dup2(nothing, fd);
  syscall(SYS_close_range, 3u, ~0u, 0u);
  for (;;) {
    sigset_t children;
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    sigwaitinfo(&children, NULL);
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
  }
}
