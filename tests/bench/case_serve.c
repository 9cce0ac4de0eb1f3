/*
 * The memory of another process, which nobody pins: on demand, replayed, in order, and with a policy. The time is that
 * from the client's first call to the pager to its last touch.
 */
#include <stdio.h>
#include <unistd.h>

#include "bench.h"
#include "pager.h"
#include "server.h"

#define POLICY "return function() local page = ('u'):rep(4096) return function() return page end end"

/* Part of the memory, for contenders that take as long for each page however many there are. */
#define TEXTBOOK_SHARE 64u
#define TEXTBOOK_PART  (8 * MIB)

#define REGIONS 1024u

static struct plan serving(enum order order) {
  return (struct plan){.length = IMAGE_BYTES, .order = order, .share = 8, .contents = IMAGE, .image = image_dense()};
}

static struct plan textbook_plan(enum order order) {
  struct plan plan = serving(order);
  plan.share = TEXTBOOK_SHARE;
  plan.part = order == RANDOM ? 0 : TEXTBOOK_PART;
  return plan;
}

/* base: the textbook loop; limit: the bulk. */
static void report_serving(struct row *row, const struct contender *uffd, const struct contender *base,
                           const struct contender *limit) {
  row->unit = "ns/page";
  row->uffd = uffd->figures[MAIN];
  row->base = base->figures[MAIN];
  row->base_name = TEXTBOOK;
  row->limit = limit->figures[MAIN];
  row->limit_name = "bulk pread + COPY, touched";
  row->note[0] = '\0';
  explain_faults(row, uffd);
  explain_usage(row, "uffd", uffd);
  explain_usage(row, "base", base);
  report(row);
}

void case_serve_random(const char *name) {
  const struct plan plan = serving(RANDOM), textbook_part = textbook_plan(RANDOM);
  struct contender list[] = {{.run = serve_pager, .plan = &plan},
                             {.run = textbook_server, .plan = &textbook_part},
                             {.run = bulk_server, .plan = &plan},
                             {.run = textbook_server_pinned, .plan = &textbook_part}};
  struct row row = {.name = name, .engine = "pager", .at_least = 4};
  row.runs = RUNS_OF(list);
  report_serving(&row, &list[0], &list[1], &list[2]);
  row.at_least = 0;
  row.limit_name = NULL;
  row.note[0] = '\0';
  row.base = list[3].figures[MAIN];
  row.base_name = TEXTBOOK_PINNED;
  report(&row);
}

void case_serve_full(const char *name) {
  const struct plan plan = serving(FORWARD), textbook_part = textbook_plan(FORWARD);
  struct contender list[] = {{.run = serve_pager, .plan = &plan},
                             {.run = textbook_server, .plan = &textbook_part},
                             {.run = bulk_server, .plan = &plan}};
  struct row row = {.name = name, .engine = "pager", .at_least = 10, .at_most = 1.4};
  row.runs = RUNS_OF(list);
  report_serving(&row, &list[0], &list[1], &list[2]);
}

void case_serve_replay(const char *name) {
  char path[4096];
  double figures[FIGURES];
  temporary_path(path, sizeof(path), "working-set");
  const struct paging recording = {.record = path}, replaying = {.replay = path};
  struct plan record = serving(RANDOM), replay = record;
  const struct plan textbook_part = textbook_plan(RANDOM);
  record.special = &recording;
  replay.special = &replaying;
  serve_pager(&record, true, figures);
  struct contender list[] = {{.run = serve_pager, .plan = &replay},
                             {.run = textbook_server, .plan = &textbook_part},
                             {.run = bulk_server, .plan = &replay}};
  struct row row = {.name = name, .engine = "pager", .at_least = 15};
  row.runs = RUNS_OF(list);
  report_serving(&row, &list[0], &list[1], &list[2]);
  unlink(path);
}

void case_serve_policy(const char *name) {
  const struct paging paging = {.factory = POLICY};
  const struct plan random = serving(RANDOM);
  struct plan policy = random;
  policy.contents = CONSTANT;
  policy.special = &paging;
  struct contender list[] = {{.run = serve_pager, .plan = &policy}, {.run = serve_pager, .plan = &random}};
  struct row row = {
      .name = name, .unit = "ns/page", .engine = "pager", .base_name = "serve-random", .at_least = 1 / 1.15};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  explain_usage(&row, "policy", &list[0]);
  explain_usage(&row, "base", &list[1]);
  report(&row);
}

static struct spread divided(const struct spread *spread, double by) {
  return (struct spread){spread->median / by, spread->low / by, spread->high / by};
}

static void many_beside_one(const char *name, const char *unit, const struct plan *one, double unit_ns) {
  struct plan many = *one;
  many.regions = REGIONS;
  struct contender list[] = {{.run = serve_pager, .plan = &many}, {.run = serve_pager, .plan = one}};
  struct row row = {.name = name, .unit = unit, .engine = "pager", .base_name = "one region"};
  row.runs = RUNS_WITHIN(list, BUDGET_NS / 2);
  row.uffd = divided(&list[0].figures[MAIN], unit_ns);
  row.base = divided(&list[1].figures[MAIN], unit_ns);
  explain_faults(&row, &list[0]);
  report(&row);
}

/* All regions are taken in before the first page comes. */
void case_serve_regions(const char *name) {
  const struct plan random = serving(RANDOM);
  struct plan first = serving(FORWARD);
  first.part = PAGE;
  many_beside_one(name, "us until the first page", &first, 1000);
  many_beside_one(name, "ns/page", &random, 1);
}
