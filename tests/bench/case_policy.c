/*
 * Contents that a program makes: a callback in C, and policies in Lua.
 */
#include "bench.h"
#include "policy.h"

#define CONSTANT_POLICY "return function() local page = ('u'):rep(4096) return function() return page end end"
#define FRESH_POLICY    "return function() return function(fault) return string.pack('<I8', fault.offset):rep(512) end end"

static struct plan custom(uint32_t engine, uint64_t length, enum contents contents) {
  return (struct plan){
      .length = length,
      .order = RANDOM,
      .contents = contents,
      .timed = true,
      .tail = 0.999,
      .engine = engine,
  };
}

/* The threads engine is slower: fewer pages. */
static uint64_t length_for(uint32_t engine) {
  return engine == UFFD_ENGINE_INLINE ? 128 * MIB : 48 * MIB;
}

void case_callback(const char *name) {
  const uint32_t engines[] = {UFFD_ENGINE_INLINE, UFFD_ENGINE_THREADS};
  for (int i = 0; i < 2; i++) {
    const struct plan plan = custom(engines[i], length_for(engines[i]), CONSTANT);
    struct contender list[] = {{.run = serve, .plan = &plan}, {.run = limit_signal, .plan = &plan}};
    struct row row = {.name = name, .unit = "ns/page", .engine = engine_name(engines[i])};
    row.runs = RUNS_WITHIN(list, BUDGET_NS / 2);
    row.uffd = list[0].figures[MAIN];
    row.limit = list[1].figures[MAIN];
    row.limit_name = "SIGBUS + COPY";
    report(&row);
    row.unit = "ns p99.9";
    row.uffd = list[0].figures[TAIL];
    row.limit = list[1].figures[TAIL];
    report(&row);
  }
}

static void policy(const char *name, const char *factory, enum contents contents, double times) {
  const uint32_t engines[] = {UFFD_ENGINE_INLINE, UFFD_ENGINE_THREADS};
  for (int i = 0; i < 2; i++) {
    if (!policy_has_engine(engine_name(engines[i]))) continue;
    struct plan lua = custom(engines[i], length_for(engines[i]), contents);
    const struct plan c = custom(engines[i], length_for(engines[i]), CONSTANT);
    lua.special = factory;
    struct contender list[] = {{.run = serve_policy, .plan = &lua}, {.run = serve, .plan = &c}};
    struct row row = {.name = name, .unit = "ns/page", .engine = engine_name(engines[i]), .base_name = "C callback"};
    row.runs = RUNS_WITHIN(list, BUDGET_NS / 2);
    row.uffd = list[0].figures[MAIN];
    row.base = list[1].figures[MAIN];
    row.at_least = 1 / times;
    report(&row);
    row.unit = "ns p99.9";
    row.uffd = list[0].figures[TAIL];
    row.base = list[1].figures[TAIL];
    row.at_least = 0.5;
    report(&row);
  }
}

void case_policy_constant(const char *name) {
  policy(name, CONSTANT_POLICY, CONSTANT, 1.1);
}

void case_policy_fresh(const char *name) {
  policy(name, FRESH_POLICY, NUMBERED, 1.4);
}
