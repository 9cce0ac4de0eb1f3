/*
 * The callbacks that a loop's regions ask: set up once for each lane, in the thread that adds the region, and torn down
 * when the last region that asks them is gone.
 */
#include <string.h>

#include "loop/loop.h"

_Thread_local const uffd_loop *uffd_setting_up;

/* Set-up and teardown are callbacks of the loop too: what waits for it is refused in them. */
static int call_setup(const uffd_loop *loop, uint32_t i, uint64_t page_size, struct uffd_use *use) {
  const uffd_loop *outer = uffd_setting_up;
  const struct uffd_handler told = {
      .index = i, .count = loop->engine.lanes_count, .key = loop->engine.lanes[i]->bell, .page_size = page_size};
  uffd_setting_up = loop;
  int result = uffd_callback_setup(use->callback, &told, &use->states[i]);
  uffd_setting_up = outer;
  return result;
}

static void call_teardown(const uffd_loop *loop, uint32_t i, const struct uffd_use *use) {
  const uffd_loop *outer = uffd_setting_up;
  uffd_setting_up = loop;
  uffd_callback_teardown(use->callback, use->states[i]);
  uffd_setting_up = outer;
}

static size_t use_size(const uffd_loop *loop) {
  return sizeof(struct uffd_use) + loop->engine.lanes_count * sizeof(void *);
}

static struct uffd_use *find_use(const uffd_loop *loop, const uffd_resolver *callback) {
  struct uffd_use *use = loop->uses;
  while (use != NULL && use->callback != callback) {
    use = use->next;
  }
  return use;
}

/* A lane's table is swapped by whoever has the lane: it gets a longer one if need be, and the new entry. */
struct table_job {
  struct uffd_job job;
  uint32_t slot;
  struct uffd_callback_state entry;
  struct uffd_callback_state *table; /* in: a longer one, or NULL; out: the one to free, or NULL */
  uint32_t count;                    /* of table, in and out */
};

static enum uffd_job_result change_table(struct uffd_lane *lane, struct uffd_job *job) {
  struct table_job *change = (struct table_job *)job;
  struct uffd_asker *asker = &lane->asker;
  if (change->table != NULL) {
    struct uffd_callback_state *old = asker->states;
    uint32_t old_count = asker->count;
    if (old_count != 0) memcpy(change->table, old, old_count * sizeof(*old));
    asker->states = change->table;
    asker->count = change->count;
    change->table = old;
    change->count = old_count;
  }
  asker->states[change->slot] = change->entry;
  return UFFD_JOB_DONE;
}

/* callback NULL takes the entry out, for which there is always room. */
static int set_entry(uffd_loop *loop, uint32_t lane, uint32_t slot, const uffd_resolver *callback, void *state) {
  struct table_job change = {.slot = slot, .entry = {callback, state}};
  uffd_job_init(&change.job, change_table);
  if (slot >=
      loop->engine.lanes[lane]->asker.count) { /* grows only under loop->lock, which we hold: reading it here is safe */
    change.count = (slot + 16) / 16 * 16;
    change.table = uffd_alloc(change.count * sizeof(*change.table));
    if (change.table == NULL) return fail(ENOMEM, "No memory for the state of a callback.");
  }
  int result = uffd_loop_run_job(loop, lane, &change.job);
  uffd_release(change.table, change.count * sizeof(*change.table));
  return result;
}

static void tear_down(uffd_loop *loop, struct uffd_use *use, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    set_entry(loop, i, uffd_callback_slot(use->callback), NULL, NULL);
    call_teardown(loop, i, use);
  }
  uffd_resolver_drop(use->callback);
  uffd_release(use, use_size(loop));
}

static int set_up(uffd_loop *loop, struct uffd_use *use, uint64_t page_size) {
  for (uint32_t i = 0; i < loop->engine.lanes_count; i++) {
    int result = call_setup(loop, i, page_size, use);
    if (result == 0) {
      result = set_entry(loop, i, uffd_callback_slot(use->callback), use->callback, use->states[i]);
      if (result < 0) call_teardown(loop, i, use);
    }
    if (result < 0) {
      const struct uffd_sentence why = uffd_keep_sentence();
      tear_down(loop, use, i);
      uffd_restore_sentence(&why);
      return result;
    }
  }
  return 0;
}

struct adding {
  uffd_loop *loop;
  uint64_t page_size;
  size_t count; /* of callbacks met so far: as many are to be dropped again */
};

static int add_use(uffd_resolver *callback, void *ctx) {
  struct adding *adding = ctx;
  uffd_loop *loop = adding->loop;
  struct uffd_use *use = find_use(loop, callback);
  if (use == NULL) {
    use = uffd_alloc(use_size(loop));
    if (use == NULL) return fail(ENOMEM, "No memory for the state of a callback.");
    use->callback = callback;
    uffd_resolver_hold(callback);
    int result = set_up(loop, use, adding->page_size);
    if (result < 0) return result;
    use->next = loop->uses;
    loop->uses = use;
  }
  use->regions++;
  adding->count++;
  return 0;
}

/* Counts down; frees those that nobody asks any more. */
static int drop_use(uffd_resolver *callback, void *ctx) {
  struct adding *dropping = ctx;
  uffd_loop *loop = dropping->loop;
  if (dropping->count-- == 0) return 1; /* a half-done add ends here */
  for (struct uffd_use **link = &loop->uses; *link != NULL; link = &(*link)->next) {
    struct uffd_use *use = *link;
    if (use->callback != callback) continue;
    if (--use->regions == 0) {
      *link = use->next;
      tear_down(loop, use, loop->engine.lanes_count);
    }
    break;
  }
  return 0;
}

int uffd_uses_add(uffd_loop *loop, uffd_resolver *resolver, uint64_t page_size) {
  struct adding adding = {loop, page_size, 0};
  int result = uffd_resolver_each_callback(resolver, add_use, &adding);
  if (result < 0) {
    const struct uffd_sentence why = uffd_keep_sentence();
    uffd_resolver_each_callback(resolver, drop_use, &adding);
    uffd_restore_sentence(&why);
  }
  return result;
}

void uffd_uses_drop(uffd_loop *loop, uffd_resolver *resolver) {
  struct adding all = {loop, 0, SIZE_MAX};
  if (!atomic_load(&loop->engine.has_children)) uffd_resolver_each_callback(resolver, drop_use, &all);
}

void uffd_uses_end(uffd_loop *loop) {
  while (loop->uses != NULL) {
    struct uffd_use *use = loop->uses;
    loop->uses = use->next;
    for (uint32_t i = 0; i < loop->engine.lanes_count; i++) {
      call_teardown(loop, i, use);
    }
    uffd_resolver_drop(use->callback);
    uffd_release(use, use_size(loop));
  }
}
