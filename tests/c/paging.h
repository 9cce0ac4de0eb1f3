/*
 * For tests of the pager: a supervisor in a process of its own, whose reports and figures the test sees. The clients
 * are stand-in VMMs, each a process too.
 */
#ifndef UFFD_TESTS_PAGING_H
#define UFFD_TESTS_PAGING_H

#include "check.h"
#include "uffd_pager.h"
#include "vmm.h"

#define PAGING_KINDS   16
#define PAGING_CLIENTS 96
#define PAGING_WORKERS 8

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PAGING_SCALE 8 /* under a sanitizer, tests do so much less */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PAGING_SCALE 8
#endif
#endif
#ifndef PAGING_SCALE
#define PAGING_SCALE 1
#endif

/* Shared between the test, the supervisor, its workers and the clients. */
struct paging_seen {
  _Atomic unsigned reports[PAGING_KINDS]; /* so far, by kind */
  char texts[PAGING_KINDS][512];          /* the last of each */
  _Atomic int errors[PAGING_KINDS];
  _Atomic int workers[PAGING_WORKERS]; /* pids, by index */
  _Atomic unsigned begun;              /* workers so far */
  _Atomic unsigned turns;              /* steps of the supervisor; the fields below are as of the last one */
  struct uffd_pager_status status;
  struct uffd_client_status clients[PAGING_CLIENTS];
  _Atomic unsigned clients_count;
  struct uffd_client_status last; /* of the last client that went, with its figures */
  _Atomic int stepping;           /* the supervisor is inside uffd_pager_step() */
  _Atomic int over;               /* 1 + -result of the last step */
  _Atomic unsigned fds;           /* open in the supervisor */
  /* for the tests themselves: zeros at first */
  _Atomic int flags[16];
  _Atomic uint64_t numbers[8];
};

struct paging {
  void (*before)(struct paging *paging); /* runs in the supervisor's process first; NULL: nothing */
  struct paging_seen *seen;
  pid_t supervisor;
  char directory[64];
  char image[96], socket[96];
  int killed[PAGING_WORKERS]; /* pids */
  uint64_t length;            /* of the image */
  const unsigned char *bytes; /* of the image */
};

/* An image of so many bytes, in a directory of its own. */
void paging_set_up(struct paging *paging, uint64_t length);
/*
 * Starts the supervisor with these options (NULL: none). Fills in the socket, and the image if it is "". Returns when
 * it listens and its workers have started.
 */
void paging_start(struct paging *paging, const struct uffd_pager_opts *opts);
void paging_signal(const struct paging *paging, int signal); /* SIGHUP reloads, SIGTERM drains, SIGUSR1 closes */
void paging_await(const struct paging *paging, uint32_t kind, unsigned count); /* of reports */
void paging_turn(const struct paging *paging); /* waits for figures of the supervisor that are newer than this call */
/* Waits until there are so many clients, all of them in this state. */
void paging_await_clients(const struct paging *paging, unsigned count, uint32_t state);
unsigned paging_reports(const struct paging *paging, uint32_t kind);
void paging_await_over(const struct paging *paging); /* waits until a step says that all is done, or fails */
/* Closes the pager, which may be done already, and returns the last step's result. All its workers are gone then. */
int paging_end(struct paging *paging);
void paging_tear_down(struct paging *paging);

/* Clients */

struct paging_job {
  struct paging *paging;
  uint64_t features;
  unsigned regions; /* 0: 1 */
  struct vmm vmm;
  struct vmm_work work;
  /* Runs in the client after it has handed over. NULL: vmm_work(), which must find no wrong byte. */
  void (*run)(struct paging_job *job);
  uint64_t number; /* the test's */
};
pid_t paging_client(const struct paging_job *job);
void paging_client_ok(pid_t client); /* it must exit with 0 */
/* Kills the client; true if it was still alive. */
bool paging_kill_worker(struct paging *paging, uint32_t index);
void paging_sleep_us(unsigned microseconds);
void paging_await_dead(pid_t process);
bool paging_sleeps(pid_t process);         /* is it in a fault that nobody has answered? Told to root */
unsigned paging_children(pid_t parent);    /* processes whose parent it is */
unsigned paging_entries(const char *path); /* of a directory */

#endif
