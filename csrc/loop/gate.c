/*
 * Who may call: checks before a call, and the gate around calls that wait for readers.
 */
#include "loop/engine/pump.h"
#include "loop/loop.h"

int uffd_loop_check_process(const uffd_loop *loop) {
  if (loop->process == uffd_process()) return 0;
  return fail(EOWNERDEAD, "This loop belongs to the parent process.");
}

bool uffd_is_callback_of(const uffd_loop *loop) {
  return (uffd_current_lane != NULL && uffd_current_lane->owner == &loop->engine) || uffd_setting_up == loop;
}

int uffd_loop_check(const uffd_loop *loop) {
  int result = uffd_loop_check_process(loop);
  if (result < 0) return result;
  if (uffd_is_callback_of(loop)) {
    return fail(EDEADLK, "A callback of this loop cannot wait for the loop: call from another thread.");
  }
  return 0;
}

int uffd_loop_check_stopped(const uffd_loop *loop) {
  const struct uffd_failure *failure = &loop->engine.failure;
  if (!atomic_load(&failure->stopped)) return 0;
  char why[sizeof(failure->text)];
  uffd_failure_tell(failure, why, sizeof(why));
  return fail(ECANCELED, "The loop has stopped: %s", why);
}

int uffd_loop_check_started(const uffd_loop *loop) {
  if (loop->engine.ledger == NULL || !atomic_load(&loop->engine.paused)) return 0;
  return fail(EINVAL, "The ledger may hold events that are not applied yet: uffd_loop_start() first.");
}

int uffd_region_check_served(const uffd_region *region) {
  if (region->served) return uffd_loop_check_started(region->loop);
  return fail(ENOENT, "The region is %s: nothing is left to fill.", region->complete ? "complete" : "removed");
}

int uffd_loop_enter(uffd_loop *loop) {
  int result = uffd_loop_check(loop);
  if (result < 0) return result;
  uffd_hold_cancel();
  pthread_mutex_lock(&loop->gate.lock);
  if (loop->gate.closing) {
    result = fail(ECANCELED, "The loop is being closed.");
  } else {
    loop->gate.inside++;
  }
  pthread_mutex_unlock(&loop->gate.lock);
  if (result == 0) {
    uffd_pump_drive(&loop->engine);
  } else {
    uffd_let_cancel();
  }
  return result;
}

void uffd_loop_leave(uffd_loop *loop) {
  pthread_mutex_lock(&loop->gate.lock);
  if (--loop->gate.inside == 0) pthread_cond_broadcast(&loop->gate.left);
  pthread_mutex_unlock(&loop->gate.lock); /* from here on the loop may be gone */
  uffd_let_cancel();
}

void uffd_gate_open(struct uffd_gate *gate) {
  pthread_mutex_init(&gate->lock, NULL);
  pthread_cond_init(&gate->left, NULL);
}

void uffd_gate_close(struct uffd_gate *gate) {
  pthread_mutex_lock(&gate->lock);
  gate->closing = true;
  pthread_mutex_unlock(&gate->lock);
}

void uffd_gate_wait(struct uffd_gate *gate) {
  pthread_mutex_lock(&gate->lock);
  while (gate->inside != 0) {
    pthread_cond_wait(&gate->left, &gate->lock);
  }
  pthread_mutex_unlock(&gate->lock);
}

void uffd_gate_destroy(struct uffd_gate *gate) {
  pthread_mutex_destroy(&gate->lock);
  pthread_cond_destroy(&gate->left);
}
