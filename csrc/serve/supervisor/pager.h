/*
 * The supervisor's state. One thread, one epoll descriptor. No function of this room waits, and none touches a client's
 * memory.
 *
 * A client's userfaultfd is closed only when the client is dead, or complete, or has said that it needs no pager: the
 * last close turns missing pages into zeros.
 *
 * Arrows of this room, from the file that calls to the one that is called:
 * - configure -> {options, entrance, control, image, report}; single -> {client, link}
 * - pager -> {options, forget, link, control, scrape, liveness, slot, task, client, order, toll}
 * - liveness -> {slot, blame, worker, report}: which workers hang
 * - slot -> {task, client, worker, forget}: processes in their slots
 * - task -> {children, client, blame, image, worker, stage}: who serves whom
 * - children -> {client, refused, report, worker}
 * - control -> {status, metrics, order, image}; scrape -> metrics -> {refusal, sum}
 * - link -> {entrance, arrival, client, keep, refused, toll}: connections
 * - arrival -> {client, image, helper, keep, looker}: clients that are not served yet
 * - forget -> {link, arrival, control, scrape, client, worker}
 * - client -> {record, looker, image, report, stage, worker}; {client, refused, link} -> share: what one may have
 * - refused -> client; {client, refused, children, link, image} -> looker -> family
 * - image -> {report, worker}; {worker, toll} -> poll; status -> {report, sum}; report -> {stage, sum}
 */
#ifndef UFFD_SERVE_PAGER_H
#define UFFD_SERVE_PAGER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "serve/paper/book.h"
#include "serve/supervisor/keep.h"
#include "serve/supervisor/poll.h"
#include "serve/supervisor/refusal.h"
#include "serve/supervisor/toll.h"
#include "uffd_pager.h"

struct uffd_announced;
struct uffd_arrival;
struct uffd_control;
struct uffd_entrance;
struct uffd_given;
struct uffd_helper;
struct uffd_image;
struct uffd_link;
struct uffd_looker;
struct uffd_question;
struct uffd_refused;
struct uffd_scrape;
struct uffd_slot;
struct uffd_supervised;
struct uffd_worker;

/* A report that is kept. */
struct uffd_trouble {
  struct uffd_pager_report report;
  char text[512];
};

struct uffd_pager {
  /* set once */
  int pid;                     /* of the process that made it: a forked child may only close it */
  struct uffd_pager_opts opts; /* our own copies of the strings */
  int epoll_fd, timer_fd, order_fd;
  struct uffd_poll control_poll, timer_poll, order_poll;
  struct uffd_toll toll;
  /* any thread */
  _Atomic uint32_t orders; /* UFFD_ORDER_* */
  /* the supervisor's thread */
  struct uffd_entrance *entrances; /* NULL: they are shut */
  uint64_t doors_opened;           /* so far, in the numbers of the kept ones */
  uint64_t connections;            /* so far */
  struct uffd_control *control;
  struct uffd_scrape *scrape;
  struct uffd_link *links;
  uint32_t links_count;
  struct uffd_supervised *clients;
  uint32_t clients_count;
  uint32_t forks_count;             /* of them: forked children */
  uint64_t fds_limit;               /* of this process, and of its workers */
  uint64_t fds_extra;               /* descriptors that clients sent after their userfaultfds */
  uint64_t clients_ended;           /* so far */
  struct uffd_announced *announced; /* forked children whose books have not come yet; the oldest first */
  struct uffd_refused *refused_list;
  uint32_t refused_kept;
  uint32_t recording;                /* helpers that write records */
  uint64_t refused_ns, refused_step; /* when to check them again; the pause after that */
  struct uffd_image *images;         /* the newest first; NULL: the user's function makes all contents */
  struct uffd_image *current;        /* that new clients get; NULL: none, or one is chosen for each */
  struct uffd_arrival *arrivals;     /* clients that wait until they are told, the oldest first */
  uint32_t opening_count;            /* of them: a helper works */
  uint64_t images_opened;            /* so far */
  bool opening;                      /* a helper opens another one */
  struct uffd_sentence opened;       /* why the last one could not be opened; "" */
  int record_fd;                     /* the folder of the records; -1: none */
  struct uffd_helper *helpers;
  struct uffd_looker *looker;        /* NULL: none is needed yet */
  struct uffd_looker *stuck_lookers; /* those that do not come back, and are to die */
  uint32_t stuck_count;
  uint64_t looker_retry_ns;        /* no other is started before */
  struct uffd_question *questions; /* for it, in their order */
  uint64_t look_ns;                /* when to look at the images again */
  struct uffd_worker *workers;
  uint64_t workers_started;      /* so far */
  uint64_t workers_ready;        /* so far */
  struct uffd_worker *abandoned; /* killed, and not dead yet */
  uint64_t alive_ns;             /* when to check again whether workers hang */
  uint64_t hangs;                /* so far */
  uint64_t reloads;              /* begun so far */
  struct uffd_slot *slots;
  bool draining;
  bool closing;
  int error; /* no worker can be started: told by uffd_pager_step() */
  uint64_t last_id;
  struct uffd_given *given; /* that this process was started with */
  size_t given_count;
  struct uffd_keep keep;
  uint64_t last_refused;                       /* number of those that are kept */
  struct uffd_trouble troubles[UFFD_TROUBLES]; /* the i-th at [i % UFFD_TROUBLES] */
  uint64_t troubles_count;                     /* so far */
  uint64_t clients_come, refused, restarts;    /* so far */
  uint64_t refusals[UFFD_REFUSALS];            /* of the refused, by reason */
  struct uffd_figures past;                    /* of the clients that are gone, together */
};

#endif
