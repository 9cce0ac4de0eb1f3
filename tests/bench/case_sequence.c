/*
 * Fewer faults than pages: files touched in order, backwards, with strides, with holes.
 */
#include "bench.h"

/*
 * Part of the memory, for contenders that take as long for each page however many there are: the textbook loop, and
 * reading and mapping.
 */
#define TEXTBOOK_PART (8 * MIB)
#define READING_PART  (32 * MIB)

static struct plan sequence(enum order order, const struct image *image) {
  return (struct plan){
      .length = image->length,
      .order = order,
      .contents = IMAGE,
      .image = image,
      .engine = UFFD_ENGINE_INLINE,
      .around = SERVE_AROUND,
  };
}

void case_sequential_file(const char *name) {
  const struct plan plan = sequence(FORWARD, image_dense());
  struct plan part = plan, reading = plan;
  part.part = TEXTBOOK_PART;
  reading.length = READING_PART;
  struct contender list[] = {{.run = serve, .plan = &plan},
                             {.run = textbook, .plan = &part},
                             {.run = map_file, .plan = &reading},
                             {.run = read_file, .plan = &reading},
                             {.run = limit_bulk, .plan = &plan}};
  struct row row = {.name = name, .unit = "ns/page", .engine = "inline"};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  row.base_name = TEXTBOOK;
  row.limit = list[4].figures[MAIN];
  row.limit_name = "bulk pread + COPY, touched";
  row.at_least = 20;
  row.at_most = 1.25;
  explain_faults(&row, &list[0]);
  report(&row);
  row.note[0] = '\0';
  row.limit_name = NULL;
  row.at_least = row.at_most = 0;
  row.base = list[2].figures[MAIN];
  row.base_name = "mmap of the file";
  report(&row);
  row.base = list[3].figures[MAIN];
  row.base_name = "reading it first";
  report(&row);
}

void case_sequential_file_thp(const char *name) {
  struct plan plan = sequence(FORWARD, image_dense());
  plan.kind = UFFD_MEMORY_THP;
  struct contender list[] = {
      {.run = serve, .plan = &plan}, {.run = read_file, .plan = &plan}, {.run = limit_bulk, .plan = &plan}};
  struct row row = {.name = name, .unit = "ns/page", .engine = "inline"};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  row.base_name = "reading it first";
  row.limit = list[2].figures[MAIN];
  row.limit_name = "bulk pread + COPY, touched";
  row.at_most = 0.75;
  explain_faults(&row, &list[0]);
  report(&row);
}

void case_reverse_file(const char *name) {
  struct plan backward = sequence(BACKWARD, image_dense());
  backward.length = 64 * MIB;
  struct plan forward = backward;
  forward.order = FORWARD;
  struct contender list[] = {
      {.run = serve, .plan = &backward}, {.run = serve, .plan = &forward}, {.run = limit_bulk, .plan = &forward}};
  struct row row = {.name = name, .unit = "ns/page", .engine = "inline"};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  row.base_name = "forwards";
  row.limit = list[2].figures[MAIN];
  row.limit_name = "bulk pread + COPY, touched";
  row.at_least = 1 / 1.2;
  explain_faults(&row, &list[0]);
  report(&row);
}

void case_stride_file(const char *name) {
  struct plan stride = sequence(EVERY_4TH, image_dense());
  stride.length = 64 * MIB;
  struct plan random = stride;
  random.order = RANDOM;
  random.around = 0;
  struct contender list[] = {{.run = serve, .plan = &stride}, {.run = serve, .plan = &random}};
  struct row row = {.name = name, .unit = "ns/page touched", .engine = "inline"};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  row.base_name = "random-file";
  row.at_least = 1 / 0.8;
  explain_faults(&row, &list[0]);
  report(&row);
}

void case_sparse_file(const char *name) {
  const struct plan holes = sequence(FORWARD, image_holes()), written = sequence(FORWARD, image_written());
  struct plan dense = sequence(FORWARD, image_dense());
  dense.length = holes.length;
  struct contender list[] = {
      {.run = serve, .plan = &holes}, {.run = serve, .plan = &written}, {.run = serve, .plan = &dense}};
  struct row row = {.name = name, .unit = "ns/page, holes", .engine = "inline"};
  row.runs = RUNS_OF(list);
  explain_faults(&row, &list[0]);
  row.uffd = list[0].figures[MAIN];
  row.base = list[2].figures[MAIN];
  row.base_name = "no zero pages";
  row.at_least = 1.5;
  report(&row);
  row.note[0] = '\0';
  row.unit = "bytes/page, holes";
  row.uffd = list[0].figures[ANONYMOUS];
  row.base = list[2].figures[ANONYMOUS];
  row.at_least = 1.9;
  report(&row);
  row.unit = "ns/page, written zeros";
  row.uffd = list[1].figures[MAIN];
  row.base = list[2].figures[MAIN];
  row.at_least = 1.2;
  report(&row);
  row.unit = "bytes/page, written zeros";
  row.uffd = list[1].figures[ANONYMOUS];
  row.base = list[2].figures[ANONYMOUS];
  row.at_least = 1.9;
  report(&row);
}
