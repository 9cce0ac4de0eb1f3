/*
 * Races with forked children: R6, R13, R14, R17. A child touches memory, and does nothing else with the library.
 * Inline, only R14 and descriptors that live on are left: the rest needs EVENT_FORK, which test_inline.c sees refused.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "loop/loop.h"
#include "serving.h"

#define PAGES 16

static struct serving serving;
static uffd_memory *memory;
static uffd_region *region;
static uint64_t page;

static unsigned char *at(uint64_t index) {
  return memory_at(memory, index * page);
}

static uffd_memory *map_inherited(uint32_t kind, uint32_t flags, uint64_t pages) {
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  uffd_memory *made;
  opts.kind = kind;
  opts.flags = UFFD_MAP_FORK | flags;
  CHECK_OK(uffd_map(pages * check_page(), &opts, &made));
  return made;
}

static void needs_children(void) {
  serving_needs_handlers("Nobody could answer a child's faults, and EVENT_FORK is refused.");
}

/* The image, in memory that children inherit, behind a loop that is told of them. */
static void serve_placed(int engine, uint32_t placement, uint32_t kind, uint32_t flags, uffd_resolver *resolver) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  needs_children();
  opts.placement = placement;
  page = check_page();
  opts.features = UFFD_FEAT_EVENT_FORK | UFFD_FEAT_EVENT_REMOVE;
  serving_open(&serving, engine, &opts);
  memory = map_inherited(kind, flags, PAGES);
  region = region_add(serving.loop, memory, resolver != NULL ? resolver : image_resolver(PAGES * page), NULL);
  serving_start(&serving);
}

static void serve(int engine, uint32_t kind, uint32_t flags, uffd_resolver *resolver) {
  serve_placed(engine, UFFD_PLACEMENT_COMPANION, kind, flags, resolver);
}

static void end(void) {
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* A child's whole life: 0 when all was as it should be. Nothing of the library, nor of malloc, is used in it. */
typedef bool child_fn(void);

static pid_t start_child(child_fn *child) {
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) _exit(child() ? 0 : 1);
  return pid;
}

/* A step of a child that waits for its turn. */
static int turns[2][2]; /* pipes: to the child, from the child */

static void make_turns(void) {
  for (unsigned i = 0; i < 2; i++) {
    CHECK_EQ(pipe2(turns[i], O_CLOEXEC), 0);
  }
}
static void give_turn(void) {
  CHECK_EQ(write(turns[0][1], "", 1), 1);
}
static bool await_turn(void) {
  char byte;
  return read(turns[0][0], &byte, 1) == 1;
}
static bool tell_parent(void) {
  return write(turns[1][1], "", 1) == 1;
}
static void hear_child(void) {
  char byte;
  CHECK_EQ(read(turns[1][0], &byte, 1), 1);
}

/* R13: the child inherits what is missing, and is served */

static bool read_all(void) {
  return image_there(at(0), 0, PAGES * page);
}

static bool read_and_write_all(void) {
  for (uint64_t i = 0; i < PAGES; i++) {
    if (!image_there(at(i), i * page, page)) return false;
    at(i)[i] = 0;
    if (at(i)[i] != 0) return false;
  }
  return true;
}

static void R13_a_child_is_served(void) {
  static const struct {
    uint32_t kind, flags;
  } memories[] = {
      {UFFD_MEMORY_ANONYMOUS, 0}, {UFFD_MEMORY_THP, 0}, {UFFD_MEMORY_MEMFD, 0}, {UFFD_MEMORY_MEMFD, UFFD_MAP_PRIVATE}};
  for (unsigned i = 0; i < 4; i++) {
    for (int engine = 0; engine < ENGINES; engine++) {
      serve(engine, memories[i].kind, memories[i].flags, NULL);
      CHECK_EQ(*at(0), image_byte(0));
      bool shared = memories[i].kind == UFFD_MEMORY_MEMFD && memories[i].flags == 0;
      check_child(start_child(shared ? read_all : read_and_write_all));
      CHECK(image_there(at(0), 0, PAGES * page)); /* what the child wrote to private memory is its own */
      struct uffd_stats stats = serving_stats(serving.loop);
      CHECK_EQ(stats.copied, shared ? PAGES : 2 * PAGES - 1);
      CHECK_EQ(stats.events, 1);
      CHECK_EQ(uffd_loop_error(serving.loop, NULL, 0), 0);
      end();
    }
  }
}

static bool drop_and_read(void) {
  return madvise(at(2), page, MADV_DONTNEED) == 0 && check_filled(at(2), page, 0) &&
         image_there(at(3), 3 * page, page) && check_filled(at(4), page, 0);
}

static void R13_page_states_are_the_childs_own(void) {
  serve(ENGINE_ONE, UFFD_MEMORY_ANONYMOUS, 0, NULL);
  CHECK_EQ(madvise(at(4), page, MADV_DONTNEED), 0);
  check_child(start_child(drop_and_read));
  CHECK(image_there(at(2), 2 * page, page));
  CHECK(check_filled(at(4), page, 0));
  CHECK_EQ(serving_stats(serving.loop).events, 3);
  end();
}

#define LARGE (UINT64_C(16) << 20) /* pages: 64 GiB, whose states fill 4096 pages */

static bool read_far(void) {
  return check_filled(at(LARGE - 3), page, 0) && check_filled(at(LARGE - 2), page, 'A') &&
         check_filled(at(LARGE / 2), page, 'A');
}

/* A fork costs what was touched of a region, not what could be: states that nobody has written are not read. */
static void R13_a_large_region_of_which_little_was_touched(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct rusage before, after;
  uffd_resolver *pattern;
  needs_children();
  page = check_page();
  opts.features = UFFD_FEAT_EVENT_FORK | UFFD_FEAT_EVENT_REMOVE;
  serving_open(&serving, ENGINE_ONE, &opts);
  memory = map_inherited(UFFD_MEMORY_ANONYMOUS, 0, LARGE);
  CHECK_OK(uffd_resolver_pattern("A", 1, &pattern));
  region = region_add(serving.loop, memory, pattern, NULL);
  serving_start(&serving);
  CHECK_EQ(*at(0), 'A');
  CHECK_EQ(*at(LARGE - 3), 'A');
  CHECK_EQ(madvise(at(LARGE - 3), page, MADV_DONTNEED), 0); /* a state that is the child's too: zeros from now on */
  CHECK_EQ(getrusage(RUSAGE_SELF, &before), 0);
  check_child(start_child(read_far));
  CHECK_EQ(*at(1), 'A');
  CHECK_EQ(getrusage(RUSAGE_SELF, &after), 0);
  CHECK(after.ru_minflt - before.ru_minflt < 1024);
  end();
}

/*
 * The first write to a page after a fork copies it. So a fork beside many living children costs a page for each of
 * them, unless what is kept for those that are silent is not written to. One thread: when the companion and the guard
 * hand over to each other, every child is looked at. So many children, because a fork has some hundred faults of its
 * own under AddressSanitizer.
 */
static void R13_silent_children_cost_a_fork_nothing(void) {
  enum { LIVING = 512 };
  static pid_t children[LIVING];
  struct rusage before, after;
  serve_placed(ENGINE_ONE, UFFD_PLACEMENT_NONE, UFFD_MEMORY_ANONYMOUS, 0, NULL);
  make_turns();
  for (unsigned i = 0; i < LIVING; i++) {
    children[i] = start_child(await_turn);
    check_progress();
  }
  CHECK_EQ(*at(0), image_byte(0)); /* all have been taken over */
  CHECK_EQ(getrusage(RUSAGE_SELF, &before), 0);
  check_child(start_child(read_all));
  CHECK_EQ(*at(1), image_byte(page));
  CHECK_EQ(getrusage(RUSAGE_SELF, &after), 0);
  CHECK(after.ru_minflt - before.ru_minflt < LIVING / 2);
  for (unsigned i = 0; i < LIVING; i++) {
    give_turn();
  }
  for (unsigned i = 0; i < LIVING; i++) {
    check_child(children[i]);
  }
  end();
}

static bool have_grandchild(void) {
  if (!image_there(at(1), page, page)) return false;
  pid_t grandchild = fork();
  if (grandchild == 0) _exit(read_and_write_all() ? 0 : 1);
  int status;
  if (waitpid(grandchild, &status, 0) != grandchild || status != 0) return false;
  return image_there(at(0), 0, PAGES * page);
}

static void R13_a_grandchild_is_served(void) {
  serve(ENGINE_ONE, UFFD_MEMORY_ANONYMOUS, 0, NULL);
  check_child(start_child(have_grandchild));
  CHECK(image_there(at(0), 0, PAGES * page));
  CHECK_EQ(serving_stats(serving.loop).events, 2);
  end();
}

static void R13_many_children_at_once(void) {
  serve(ENGINE_TWO, UFFD_MEMORY_ANONYMOUS, 0, NULL);
  pid_t children[12];
  for (unsigned i = 0; i < 12; i++) {
    children[i] = start_child(read_and_write_all);
  }
  for (unsigned i = 0; i < 12; i++) {
    check_child(children[i]);
  }
  CHECK(image_there(at(0), 0, PAGES * page));
  CHECK_EQ(serving_stats(serving.loop).copied, 13 * PAGES);
  end();
}

/* The parent's own fault is asked for when it forks: both get their page. */
static _Atomic bool answering;

static int answer_when_told(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked;
  if (!atomic_load(&answering)) {
    answer->kind = UFFD_ANSWER_LATER;
    return 0;
  }
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = "told";
  answer->length = 4;
  return (int)(fault->offset & 0);
}

static bool read_told(void) {
  return memcmp(at(3), "told", 4) == 0 && memcmp(at(5), "told", 4) == 0;
}

static void R13_a_fault_is_under_way(void) {
  struct asked asked = {.answer = answer_when_told};
  serve(ENGINE_ONE, UFFD_MEMORY_ANONYMOUS, 0, asked_resolver(&asked));
  struct check_touch touch;
  check_touch_read(&touch, at(3));
  while (atomic_load(&asked.hits) == 0) {
    check_pause();
  }
  pid_t child = start_child(read_told);
  while (serving_stats(serving.loop).faults < 2) {
    check_pause();
  }
  atomic_store(&answering, true);
  check_child(child);
  CHECK_EQ(check_touch_join(&touch), 't');
  end();
}

/* The region leaves the loop, but its children go on asking: the callback stays set up for them. */
static bool wait_and_read_told(void) {
  return await_turn() && read_told();
}

static void R13_children_outlast_their_region(void) {
  struct asked asked = {.answer = answer_when_told};
  make_turns();
  atomic_store(&answering, true);
  serve(ENGINE_ONE, UFFD_MEMORY_ANONYMOUS, 0, asked_resolver(&asked));
  pid_t child = start_child(wait_and_read_told);
  CHECK_OK(uffd_region_remove(region));
  CHECK_EQ(*at(3), 0);
  give_turn();
  check_child(child);
  CHECK_EQ(asked.hits, 2);
  end();
}

static void R13_the_users_object_tells_of_children_too(void) {
  needs_children();
  uffd_object *object = check_open(UFFD_FEAT_EVENT_FORK);
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  page = check_page();
  serving_open(&serving, ENGINE_TWO, NULL);
  memory = map_inherited(UFFD_MEMORY_ANONYMOUS, 0, PAGES);
  opts.object = object;
  region_add(serving.loop, memory, image_resolver(PAGES * page), &opts);
  check_child(start_child(read_and_write_all));
  CHECK(image_there(at(0), 0, PAGES * page));
  end();
  uffd_close(object);
}

/* R13: descriptors */

static unsigned count_descriptors(void) {
  unsigned count = 0;
  DIR *directory = opendir("/proc/self/fd");
  CHECK(directory != NULL);
  while (readdir(directory) != NULL) {
    count++;
  }
  closedir(directory);
  return count;
}

#define DESCRIPTORS 200

static int taken[DESCRIPTORS];
static unsigned taken_count;

static void exhaust_descriptors(void) {
  struct rlimit limit = {DESCRIPTORS, DESCRIPTORS};
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  while ((taken[taken_count] = dup(STDERR_FILENO)) >= 0) {
    taken_count++;
  }
}

static void free_descriptor(void) {
  CHECK(taken_count > 0);
  close(taken[--taken_count]);
}

/* The one kept for this is given up for it. */
static void R13_no_descriptor_is_left(void) {
  needs_children();
  for (int own = 0; own < 2; own++) {
    struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
    if (own) opts.object = check_open(UFFD_FEAT_EVENT_FORK);
    page = check_page();
    struct uffd_loop_opts loop_opts = UFFD_LOOP_OPTS_INIT;
    if (!own) loop_opts.features = UFFD_FEAT_EVENT_FORK;
    serving_open(&serving, ENGINE_ONE, &loop_opts);
    memory = map_inherited(UFFD_MEMORY_ANONYMOUS, 0, PAGES);
    region_add(serving.loop, memory, image_resolver(PAGES * page), &opts);
    exhaust_descriptors();
    check_child(start_child(read_and_write_all));
    CHECK(image_there(at(0), 0, PAGES * page));
    end();
    uffd_close(opts.object);
    while (taken_count > 0) {
      free_descriptor();
    }
  }
}

/* A thread that forks when told; where it sleeps can be seen without another descriptor. */
struct forker {
  struct check_thread thread;
  _Atomic bool go;
  child_fn *child;
  pid_t pid;
  int where;
};

static void fork_when_told(void *ctx) {
  struct forker *forker = ctx;
  while (!atomic_load(&forker->go)) {
    check_pause();
  }
  forker->pid = start_child(forker->child);
}

static void prepare_fork(struct forker *forker, child_fn *child) {
  char path[64];
  forker->child = child;
  forker->go = false;
  check_thread_start(&forker->thread, fork_when_told, forker);
  snprintf(path, sizeof(path), "/proc/self/task/%d/wchan", atomic_load(&forker->thread.tid));
  forker->where = open(path, O_RDONLY | O_CLOEXEC);
  CHECK(forker->where >= 0);
}

static void start_fork(struct forker *forker) {
  char place[64] = "";
  atomic_store(&forker->go, true);
  while (strstr(place, "userfault") == NULL) {
    check_pause();
    CHECK(pread(forker->where, place, sizeof(place) - 1, 0) >= 0);
  }
}

static pid_t end_fork(struct forker *forker) {
  check_thread_join(&forker->thread); /* forker->where stays open: its number would be free */
  return forker->pid;
}

/* fork holds malloc's locks while it waits, and starting a thread allocates: it is there before. */
static _Atomic bool touching;

static void touch_when_told(void *ctx) {
  while (!atomic_load(&touching)) {
    check_pause();
  }
  CHECK_EQ(*(unsigned char *)ctx, image_byte(7 * page));
}

static bool wait_and_read_all(void) {
  return await_turn() && read_and_write_all();
}

/* None at all: fork waits, and is over when a descriptor is free, or another child of the past has exited. */
static void R13_a_fork_waits_for_a_descriptor(void) {
  struct forker forkers[2];
  struct check_thread toucher;
  serve(ENGINE_ONE, UFFD_MEMORY_ANONYMOUS, 0, NULL);
  make_turns();
  prepare_fork(&forkers[0], wait_and_read_all);
  prepare_fork(&forkers[1], read_and_write_all);
  check_thread_start(&toucher, touch_when_told, at(7));
  exhaust_descriptors();
  pid_t first = start_child(wait_and_read_all); /* by the spare one */
  start_fork(&forkers[0]);
  atomic_store(&touching, true); /* nothing can be answered before the event is read */
  while (serving_stats(serving.loop).deferred == 0) {
    check_pause();
  }
  free_descriptor();
  pid_t second = end_fork(&forkers[0]);
  check_thread_join(&toucher);
  start_fork(&forkers[1]);
  give_turn();
  give_turn();
  check_child(first);
  check_child(second);
  check_child(end_fork(&forkers[1]));
  CHECK(image_there(at(0), 0, PAGES * page));
  end();
}

/* Children come and go: their descriptors do not pile up. */
static void R13_the_dead_are_buried(void) {
  serve(ENGINE_TWO, UFFD_MEMORY_ANONYMOUS, 0, NULL);
  check_child(start_child(read_all));
  unsigned before = count_descriptors();
  for (unsigned i = 0; i < 30; i++) {
    check_child(start_child(read_all));
  }
  CHECK(count_descriptors() <= before + 1);
  end();
}

/* R6: the address space is gone when the answer comes */

static bool touch_one(void) {
  return *(volatile unsigned char *)at(3) == image_byte(3 * page);
}

static void await_burial(void) {
  while (serving_stats(serving.loop).gone == 0) {
    check_pause();
  }
  CHECK_EQ(serving_stats(serving.loop).gone, 1);
  CHECK_OK(uffd_loop_trace(serving.loop, NULL, NULL)); /* that pass is over */
  CHECK_EQ(serving_stats(serving.loop).copied, 0);
  CHECK_EQ(serving_stats(serving.loop).errors, 0);
  CHECK_EQ(uffd_loop_error(serving.loop, NULL, 0), 0);
  CHECK_EQ(serving.loop->engine.readers[0]->children, 0);
  CHECK(image_there(at(0), 0, PAGES * page)); /* the parent is served on */
  check_child(start_child(read_all));         /* and so are other children */
}

static void R6_a_child_is_killed_in_its_fault(void) {
  serve(ENGINE_ONE, UFFD_MEMORY_ANONYMOUS, 0, NULL);
  check_barrier_hold("installing");
  pid_t child = start_child(touch_one);
  check_barrier_await("installing");
  kill(child, SIGKILL);
  CHECK_EQ(waitpid(child, NULL, 0), child);
  check_barrier_release("installing");
  await_burial();
  end();
}

static void *touch_in_thread(void *ctx) {
  (void)ctx;
  touch_one();
  return NULL;
}

static bool fault_and_exec(void) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, touch_in_thread, NULL) != 0) return false;
  if (!await_turn()) return false;
  execl("/bin/true", "true", (char *)NULL);
  return false;
}

static void R6_a_child_executes_another_program(void) {
  if (check_under_tsan()) SKIP("no threads after fork under ThreadSanitizer");
  make_turns();
  serve(ENGINE_ONE, UFFD_MEMORY_ANONYMOUS, 0, NULL);
  check_barrier_hold("installing");
  pid_t child = start_child(fault_and_exec);
  check_barrier_await("installing");
  give_turn();
  check_child(child);
  check_barrier_release("installing");
  await_burial();
  end();
}

/* The child that has forked is dead before its own child is adopted: that one is served all the same. */
static bool fork_and_stay(void) {
  if (!touch_one() || !tell_parent() || !await_turn()) return false;
  pid_t grandchild = fork();
  if (grandchild == 0) _exit(await_turn() && read_all() && tell_parent() ? 0 : 1);
  tell_parent(); /* killed before fork is over, there would be no grandchild */
  pause();
  return false;
}

static void R6_who_forks_may_be_dead(void) {
  make_turns();
  serve(ENGINE_ONE, UFFD_MEMORY_ANONYMOUS, 0, NULL);
  pid_t child = start_child(fork_and_stay);
  hear_child(); /* it is served: adopted itself */
  check_barrier_hold("adopting");
  give_turn();
  check_barrier_await("adopting");
  hear_child();
  kill(child, SIGKILL);
  CHECK_EQ(waitpid(child, NULL, 0), child);
  check_barrier_release("adopting");
  give_turn();
  hear_child();
  CHECK_EQ(uffd_loop_error(serving.loop, NULL, 0), 0);
  end();
}

/* R14: without the event nobody serves a child */

static bool has_no_memory(void) {
  return check_access(at(0), false, NULL) == SIGSEGV && check_access(at(1), false, NULL) == SIGSEGV;
}

static bool has_zeros(void) {
  return image_there(at(0), 0, page) && check_filled(at(1), (PAGES - 1) * page, 0);
}

static void R14_children_do_not_inherit_what_would_be_zeros(void) {
  for (int inherited = 0; inherited < 2; inherited++) {
    page = check_page();
    serving_open(&serving, ENGINE_ONE, NULL);
    memory = inherited ? map_inherited(UFFD_MEMORY_ANONYMOUS, 0, PAGES) : memory_make(MEMORY_ANON, PAGES);
    region_add(serving.loop, memory, image_resolver(PAGES * page), NULL);
    CHECK_EQ(*at(0), image_byte(0));
    check_child(start_child(inherited ? has_zeros : has_no_memory));
    CHECK(image_there(at(0), 0, PAGES * page));
    CHECK_EQ(serving_stats(serving.loop).events, 0);
    end();
  }
}

/* R17: the server ends */

/* Dies without a word: what is missing becomes zeros, and nobody hangs, since nobody else has the descriptors. */
static bool outlive_server(void) {
  close(turns[0][1]);
  bool right = image_there(at(1), page, page); /* while it lives */
  if (!tell_parent()) return false;
  (void)await_turn(); /* the server's end of the pipe is closed by its death */
  char answer = right && image_there(at(1), page, page) && check_filled(at(2), page, 0) ? 'y' : 'n';
  return write(turns[1][1], &answer, 1) == 1;
}

static void R17_the_server_is_killed(void) {
  make_turns();
  pid_t server = fork();
  if (server == 0) {
    serve(ENGINE_ONE, UFFD_MEMORY_ANONYMOUS, 0, NULL); /* a skip in here is a skip of the test */
    start_child(outlive_server);
    pause();
    _exit(1);
  }
  close(turns[0][1]);
  close(turns[1][1]);
  char byte = 0;
  if (read(turns[1][0], &byte, 1) != 1) check_child(server); /* skipped, or failed */
  CHECK_EQ(byte, 0);
  kill(server, SIGKILL);
  CHECK_EQ(waitpid(server, NULL, 0), server);
  CHECK_EQ(read(turns[1][0], &byte, 1), 1);
  CHECK_EQ(byte, 'y');
}

/* Closes its loop while children live, each of which has copies of the descriptors of those before it. */
static bool outlive_loop(void) {
  if (!image_there(at(1), page, page) || !tell_parent() || !await_turn()) return false;
  char answer = image_there(at(1), page, page) && check_filled(at(2), (PAGES - 2) * page, 0) ? 'y' : 'n';
  if (write(turns[1][1], &answer, 1) != 1) return false;
  pause();
  return false;
}

static void R17_the_loop_is_closed_while_children_live(void) {
  for (int engine = ENGINE_ONE; engine < ENGINES; engine++) {
    pid_t children[3];
    make_turns();
    serve(engine, UFFD_MEMORY_ANONYMOUS, 0, NULL);
    for (unsigned i = 0; i < 3; i++) {
      children[i] = start_child(outlive_loop);
      hear_child();
    }
    serving_close(&serving);
    CHECK(check_filled(at(0), page, 0));
    for (unsigned i = 0; i < 3; i++) {
      give_turn();
    }
    for (unsigned i = 0; i < 3; i++) {
      char answer;
      CHECK_EQ(read(turns[1][0], &answer, 1), 1);
      CHECK_EQ(answer, 'y');
    }
    for (unsigned i = 0; i < 3; i++) {
      kill(children[i], SIGKILL);
      CHECK_EQ(waitpid(children[i], NULL, 0), children[i]);
    }
    uffd_memory_close(memory);
  }
}

/* Descriptors live on elsewhere: in a duplicate, and in a child that has not executed anything. */
static bool hold_descriptors(void) {
  return await_turn();
}

static void R17_sleepers_go_on_though_descriptors_live_on(void) {
  for (int own = 0; own < 2; own++) {
    struct asked asked = {.answer = answer_when_told};
    struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
    if (own) opts.object = serving_object(0);
    page = check_page();
    make_turns();
    atomic_store(&answering, false);
    serving_open(&serving, ENGINE_ONE, NULL);
    memory = memory_make(MEMORY_ANON, PAGES);
    region_add(serving.loop, memory, asked_resolver(&asked), &opts);
    pid_t holder = start_child(hold_descriptors);
    struct check_touch touch;
    check_touch_read(&touch, at(1));
    while (atomic_load(&asked.hits) == 0) {
      check_pause();
    }
    serving_close(&serving);
    CHECK_EQ(check_touch_join(&touch), 0);
    if (own) uffd_close(opts.object);
    give_turn();
    check_child(holder);
    uffd_memory_close(memory);
  }
}

/* An event that comes when the handlers have ended is read all the same: its maker would wait for ever. */
static void close_loop(void *ctx) {
  (void)ctx;
  serving_close(&serving);
}

static void drop_page(void *ctx) {
  (void)ctx;
  CHECK_EQ(madvise(at(1), page, MADV_DONTNEED), 0);
}

static void R17_makers_of_events_go_on_though_descriptors_live_on(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct check_thread closer, dropper;
  opts.features = UFFD_FEAT_EVENT_REMOVE;
  page = check_page();
  make_turns();
  serving_open(&serving, ENGINE_ONE, &opts);
  memory = memory_make(MEMORY_ANON, PAGES);
  region_add(serving.loop, memory, image_resolver(PAGES * page), NULL);
  pid_t holder = start_child(hold_descriptors);
  check_barrier_hold("stopping");
  check_thread_start(&closer, close_loop, NULL);
  check_barrier_await("stopping");
  check_thread_start(&dropper, drop_page, NULL);
  check_asleep(atomic_load(&dropper.tid), "userfault");
  check_barrier_release("stopping");
  check_thread_join(&dropper);
  check_thread_join(&closer);
  give_turn();
  check_child(holder);
  uffd_memory_close(memory);
}

static const struct check_test tests[] = {
    TEST(R13_a_child_is_served),
    TEST(R13_page_states_are_the_childs_own),
    TEST(R13_a_large_region_of_which_little_was_touched),
    TEST(R13_silent_children_cost_a_fork_nothing),
    TEST(R13_a_grandchild_is_served),
    TEST(R13_many_children_at_once),
    TEST(R13_a_fault_is_under_way),
    TEST(R13_children_outlast_their_region),
    TEST(R13_the_users_object_tells_of_children_too),
    TEST(R13_no_descriptor_is_left),
    TEST(R13_a_fork_waits_for_a_descriptor),
    TEST(R13_the_dead_are_buried),
    TEST(R6_a_child_is_killed_in_its_fault),
    TEST(R6_a_child_executes_another_program),
    TEST(R6_who_forks_may_be_dead),
    TEST(R14_children_do_not_inherit_what_would_be_zeros),
    TEST(R17_the_server_is_killed),
    TEST(R17_the_loop_is_closed_while_children_live),
    TEST(R17_sleepers_go_on_though_descriptors_live_on),
    TEST(R17_makers_of_events_go_on_though_descriptors_live_on),
};
CHECK_MAIN(tests)
