/*
 * What all engines have: readers, and the list of all lanes.
 */
#include "loop/engine/engine.h"

#include "loop/engine/reader.h"

static size_t size_of_lanes(const struct uffd_engine *engine) {
  return (engine->readers_count + engine->slots_count) * sizeof(struct uffd_lane *);
}

static size_t size_of_readers(const struct uffd_engine *engine) {
  return engine->readers_count * sizeof(struct uffd_reader *);
}

int uffd_engine_open(struct uffd_engine *engine) {
  engine->readers = uffd_alloc(size_of_readers(engine));
  engine->lanes = uffd_alloc(size_of_lanes(engine));
  if (engine->readers == NULL || engine->lanes == NULL) return fail(ENOMEM, "No memory for a loop.");
  for (uint32_t i = 0; i < engine->readers_count; i++) {
    int result = uffd_reader_create(engine, i, &engine->readers[i]);
    if (result < 0) return result;
    engine->lanes[engine->lanes_count++] = &engine->readers[i]->lane;
  }
  return engine->class->start(engine);
}

void uffd_engine_close(struct uffd_engine *engine) {
  bool opened = engine->readers != NULL;
  if (opened && engine->class->release != NULL) engine->class->release(engine);
  for (uint32_t i = 0; opened && i < engine->readers_count; i++) {
    if (engine->readers[i] != NULL) uffd_reader_destroy(engine->readers[i]);
  }
  uffd_release(engine->readers, size_of_readers(engine));
  uffd_release(engine->lanes, size_of_lanes(engine));
  DELETE(engine->ledger);
}
