/*
 * The threads engine: each reader has a thread. What the placed and the inline engine share with it.
 */
#ifndef UFFD_LOOP_ENGINE_THREAD_H
#define UFFD_LOOP_ENGINE_THREAD_H

#include "loop/engine/reader.h"

int uffd_threads_start(struct uffd_engine *engine); /* as the class's operations */
void uffd_threads_stop(struct uffd_engine *engine);
int uffd_threads_run_job(struct uffd_engine *engine, uint32_t lane, struct uffd_job *job);
bool uffd_threads_wait(struct uffd_engine *engine, sem_t *semaphore, uint64_t until_ns);

/* Makes whoever runs the reader's passes come to an end. */
void uffd_reader_tell_to_stop(struct uffd_reader *reader);

#endif
