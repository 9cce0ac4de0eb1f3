/* Traces that are written to files: formats, what is lost, disks that are full, pipes that nobody reads. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "serving.h"

struct traced {
  struct serving serving;
  uffd_memory *memory;
  uffd_region *region;
  char path[64];
  char told[4][768]; /* sentences, as they were said */
  _Atomic unsigned said;
};

static void hear(void *ctx, int level, const char *sentence) {
  struct traced *traced = ctx;
  unsigned i = atomic_fetch_add(&traced->said, 1);
  CHECK_EQ(level, UFFD_LOG_ERROR);
  if (i < 4) snprintf(traced->told[i], sizeof(traced->told[i]), "%s", sentence);
}

/* Eight pages of the image. The cookie is 7. */
static void traced_open(struct traced *traced, int engine, const char *ending) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.failed = hear;
  opts.failed_ctx = traced;
  memset(traced, 0, sizeof(*traced));
  serving_open(&traced->serving, engine, &opts);
  traced->memory = memory_make(MEMORY_ANON, 8);
  struct uffd_region_opts region_opts = UFFD_REGION_OPTS_INIT;
  region_opts.cookie = (void *)(uintptr_t)7;
  traced->region = region_add(traced->serving.loop, traced->memory, image_resolver(8 * check_page()), &region_opts);
  snprintf(traced->path, sizeof(traced->path), "/tmp/uffd-test-trace-%d%s", (int)getpid(), ending);
}

static void traced_close(struct traced *traced) {
  if (traced->serving.loop != NULL) serving_close(&traced->serving);
  uffd_memory_close(traced->memory);
  unlink(traced->path);
}

static void read_pages(struct traced *traced, unsigned first, unsigned count) {
  serving_start(&traced->serving);
  for (unsigned i = first; i < first + count; i++) {
    CHECK_EQ(*memory_at(traced->memory, i * check_page()), image_byte(i * check_page()));
  }
  serving_pause(&traced->serving);
}

/* All of the file, with a zero behind. */
static char *contents(const char *path) {
  static char text[1 << 16];
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  ssize_t length = read(fd, text, sizeof(text) - 1);
  CHECK(length >= 0);
  text[length] = '\0';
  close(fd);
  return text;
}

static unsigned count_lines(const char *text) {
  unsigned lines = 0;
  for (; *text != '\0'; text++) {
    lines += *text == '\n';
  }
  return lines;
}

/* What is written */

static void a_json_object_for_each_fault(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    struct traced traced;
    traced_open(&traced, engine, ".ndjson");
    struct uffd_trace_opts opts = UFFD_TRACE_OPTS_INIT;
    opts.loop = 3;
    CHECK_OK(uffd_loop_trace_to(traced.serving.loop, traced.path, &opts));
    read_pages(&traced, 0, 5);
    CHECK_OK(uffd_loop_trace_to(traced.serving.loop, NULL, NULL));
    read_pages(&traced, 5, 1); /* not written any more */
    char *line = contents(traced.path), *rest = line;
    CHECK_EQ(count_lines(line), 5);
    for (unsigned i = 0; i < 5; i++) {
      double time;
      uint64_t time_ns, latency_ns, offset, cover, lost;
      unsigned loop, region, tid, handler;
      int error;
      line = strtok_r(rest, "\n", &rest);
      CHECK_EQ(sscanf(line,
                      "{\"time\":%lf,\"time_ns\":%" SCNu64 ",\"latency_ns\":%" SCNu64
                      ",\"loop\":%u,\"region\":%u,\"offset\":%" SCNu64 ",\"cover\":%" SCNu64
                      ",\"kind\":\"missing\",\"write\":false,\"tid\":%u,\"handler\":%u,\"answer\":\"bytes\","
                      "\"outcome\":\"installed\",\"error\":%d,\"lost\":%" SCNu64 "}",
                      &time, &time_ns, &latency_ns, &loop, &region, &offset, &cover, &tid, &handler, &error, &lost),
               11);
      struct timespec now;
      clock_gettime(CLOCK_REALTIME, &now);
      CHECK(time <= (double)now.tv_sec + 1 && time > (double)now.tv_sec - 3600);
      CHECK(time_ns > 0 && latency_ns > 0 && latency_ns < time_ns);
      CHECK_EQ(loop, 3);
      CHECK_EQ(region, 7);
      CHECK_EQ(offset, i * check_page());
      CHECK_EQ(cover, check_page());
      CHECK_EQ(tid, (unsigned)gettid());
      CHECK_EQ(error, 0);
      CHECK_EQ(lost, 0);
    }
    CHECK_EQ(traced.said, 0);
    traced_close(&traced);
  }
}

static void csv_has_its_names_in_the_first_line(void) {
  struct traced traced;
  traced_open(&traced, ENGINE_ONE, ".csv");
  CHECK_OK(uffd_loop_trace_to(traced.serving.loop, traced.path, NULL));
  read_pages(&traced, 0, 1);
  *memory_at(traced.memory, check_page()) = 1;
  serving_close(&traced.serving); /* writes what is left */
  traced.serving.loop = NULL;
  static const char names[] =
      "time,time_ns,latency_ns,loop,region,offset,cover,kind,write,tid,handler,answer,outcome,error,lost\n";
  char *text = contents(traced.path);
  CHECK_EQ(count_lines(text), 3);
  CHECK(strncmp(text, names, strlen(names)) == 0);
  CHECK(strstr(text, ",0,7,0,4096,missing,false,") != NULL);
  CHECK(strstr(text, ",0,7,4096,4096,missing,true,") != NULL);
  CHECK(strstr(text, ",bytes,installed,0,0\n") != NULL);
  for (char *line = text; *line != '\0'; line = strchr(line, '\n') + 1) {
    unsigned commas = 0;
    for (char *at = line; *at != '\n'; at++) {
      commas += *at == ',';
    }
    CHECK_EQ(commas, 14);
  }
  traced_close(&traced);
}

static void two_loops_append_to_one_file(void) {
  struct traced first, second;
  struct uffd_trace_opts opts = UFFD_TRACE_OPTS_INIT;
  opts.flags = UFFD_TRACE_APPEND;
  traced_open(&first, ENGINE_ONE, ".csv");
  traced_open(&second, ENGINE_ONE, ".csv");
  CHECK_OK(uffd_loop_trace_to(first.serving.loop, first.path, &opts));
  read_pages(&first, 0, 2);
  CHECK_OK(uffd_loop_trace_to(first.serving.loop, NULL, NULL));
  CHECK_OK(uffd_loop_trace_to(second.serving.loop, second.path, &opts));
  CHECK_OK(uffd_loop_trace_to(first.serving.loop, first.path, &opts));
  read_pages(&second, 0, 3);
  read_pages(&first, 2, 3);
  CHECK_OK(uffd_loop_trace_to(first.serving.loop, NULL, NULL));
  CHECK_OK(uffd_loop_trace_to(second.serving.loop, NULL, NULL));
  CHECK_EQ(count_lines(contents(first.path)), 1 + 8);
  opts.flags = 0; /* empties it */
  CHECK_OK(uffd_loop_trace_to(first.serving.loop, first.path, &opts));
  CHECK_OK(uffd_loop_trace_to(first.serving.loop, NULL, NULL));
  CHECK_EQ(count_lines(contents(first.path)), 1);
  traced_close(&first);
  traced_close(&second);
}

static void count_record(void *ctx, const struct uffd_trace *trace) {
  (void)trace;
  atomic_fetch_add((_Atomic unsigned *)ctx, 1);
}

static void a_hook_goes_on_beside_the_file(void) {
  struct traced traced;
  _Atomic unsigned records = 0;
  traced_open(&traced, ENGINE_ONE, ".jsonl");
  CHECK_OK(uffd_loop_trace(traced.serving.loop, count_record, &records));
  CHECK_OK(uffd_loop_trace_to(traced.serving.loop, traced.path, NULL));
  read_pages(&traced, 0, 2);
  CHECK_OK(uffd_loop_trace(traced.serving.loop, NULL, NULL));
  CHECK_EQ(records, 2);
  read_pages(&traced, 2, 2);
  CHECK_OK(uffd_loop_trace_to(traced.serving.loop, NULL, NULL));
  CHECK_EQ(count_lines(contents(traced.path)), 4);
  CHECK_EQ(records, 2);
  traced_close(&traced);
}

/* What is lost, and told */

static void lost_records_are_counted(void) {
  static const char *const endings[] = {".ndjson", ".csv"};
  for (unsigned i = 0; i < 2; i++) {
    struct traced traced;
    traced_open(&traced, ENGINE_ONE, endings[i]);
    struct uffd_trace_opts opts = UFFD_TRACE_OPTS_INIT;
    opts.room = 2;
    check_barrier_hold("tracing");
    CHECK_OK(uffd_loop_trace_to(traced.serving.loop, traced.path, &opts));
    check_barrier_await("tracing");
    read_pages(&traced, 0, 7);
    check_barrier_release("tracing");
    CHECK_OK(uffd_loop_trace_to(traced.serving.loop, NULL, NULL));
    const char *text = contents(traced.path);
    CHECK_EQ(count_lines(text), i == 0 ? 3 : 4); /* CSV begins with the names */
    CHECK_EQ(traced.said, 1);
    CHECK(strstr(traced.told[0], "5 records of the trace ") != NULL);
    const char *end = i == 0 ? "\n{\"lost\":5}\n" : "\n,,,,,,,,,,,,,,5\n";
    CHECK(strcmp(text + strlen(text) - strlen(end), end) == 0);
    CHECK_EQ(uffd_loop_error(traced.serving.loop, NULL, 0), 0); /* no page has failed */
    traced_close(&traced);
  }
}

/* They stand in the first record that found room after them. */
static void lost_records_stand_where_they_were(void) {
  struct traced traced;
  traced_open(&traced, ENGINE_ONE, ".ndjson");
  struct uffd_trace_opts opts = UFFD_TRACE_OPTS_INIT;
  opts.room = 2;
  check_barrier_hold("tracing");
  CHECK_OK(uffd_loop_trace_to(traced.serving.loop, traced.path, &opts));
  check_barrier_await("tracing");
  read_pages(&traced, 0, 5);
  check_barrier_release("tracing");
  while (count_lines(contents(traced.path)) < 2) {
    check_pause();
  }
  read_pages(&traced, 5, 1);
  CHECK_OK(uffd_loop_trace_to(traced.serving.loop, NULL, NULL));
  const char *text = contents(traced.path), *third = strstr(text, "\"offset\":20480,");
  CHECK_EQ(count_lines(text), 3);
  CHECK(third != NULL && strstr(third, "\"lost\":3}\n") != NULL);
  CHECK(strstr(text, "\"lost\":3") > third);
  traced_close(&traced);
}

static void a_full_disk_is_told(void) {
  struct traced traced;
  traced_open(&traced, ENGINE_ONE, ".ndjson");
  struct uffd_trace_opts opts = UFFD_TRACE_OPTS_INIT;
  opts.format = UFFD_TRACE_NDJSON;
  CHECK_OK(uffd_loop_trace_to(traced.serving.loop, "/dev/full", &opts));
  read_pages(&traced, 0, 4);
  while (atomic_load(&traced.said) == 0) {
    check_pause();
  }
  read_pages(&traced, 4, 4); /* are answered all the same */
  CHECK_ERR(uffd_loop_trace_to(traced.serving.loop, NULL, NULL), -ENOSPC);
  CHECK_SAYS("The trace /dev/full could not be written to its end");
  CHECK(strstr(traced.told[0], "The trace /dev/full cannot be written, and ends here: ") != NULL);
  CHECK_OK(uffd_loop_trace_to(traced.serving.loop, NULL, NULL));
  CHECK_EQ(traced.said, 1);
  traced_close(&traced);
}

/* 4096 bytes fit, which are less than twenty records; who ends the trace does not wait for the rest. */
static void a_pipe_that_nobody_reads_is_given_up(void) {
  struct traced traced;
  int ends[2];
  char path[32];
  CHECK_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  CHECK(fcntl(ends[1], F_SETPIPE_SZ, 4096) == 4096);
  CHECK_EQ(write(ends[1], (char[100]){0}, 100), 100);
  traced_open(&traced, ENGINE_ONE, ".ndjson");
  snprintf(path, sizeof(path), "/proc/self/fd/%d", ends[1]);
  struct uffd_trace_opts opts = UFFD_TRACE_OPTS_INIT;
  opts.format = UFFD_TRACE_NDJSON;
  CHECK_OK(uffd_loop_trace_to(traced.serving.loop, path, &opts));
  read_pages(&traced, 0, 8);
  CHECK_ERR(uffd_loop_trace_to(traced.serving.loop, NULL, NULL), -ETIMEDOUT);
  CHECK_SAYS("nobody reads it");
  traced_close(&traced);
  close(ends[0]);
  close(ends[1]);
}

/* What is refused */

static void wrong_options_are_refused(void) {
  struct traced traced;
  traced_open(&traced, ENGINE_ONE, ".txt");
  uffd_loop *loop = traced.serving.loop;
  CHECK_ERR(uffd_loop_trace_to(loop, traced.path, NULL), -EINVAL);
  CHECK_SAYS("tells no format");
  struct uffd_trace_opts opts = UFFD_TRACE_OPTS_INIT;
  opts.format = 3;
  CHECK_ERR(uffd_loop_trace_to(loop, traced.path, &opts), -EINVAL);
  CHECK_SAYS("format 3");
  opts.format = UFFD_TRACE_CSV;
  opts.flags = 2;
  CHECK_ERR(uffd_loop_trace_to(loop, traced.path, &opts), -EINVAL);
  opts.flags = 0;
  opts.room = 1;
  CHECK_ERR(uffd_loop_trace_to(loop, traced.path, &opts), -EINVAL);
  CHECK_SAYS("Room for 1 records");
  opts.room = 0;
  CHECK_ERR(uffd_loop_trace_to(loop, "/nowhere/trace.csv", &opts), -ENOENT);
  CHECK_SAYS("/nowhere/trace.csv cannot be opened");
  CHECK_EQ(access(traced.path, F_OK), -1);
  CHECK_OK(uffd_loop_trace_to(loop, NULL, NULL));
  traced_close(&traced);
}

static void names_of_answers_and_outcomes(void) {
  CHECK(strcmp(uffd_answer_name(UFFD_ANSWER_ZERO), "zero") == 0);
  CHECK(strcmp(uffd_answer_name(UFFD_ANSWER_UNPROTECT), "unprotect") == 0);
  CHECK(strcmp(uffd_answer_name(UFFD_ANSWER_FILE), "file") == 0);
  CHECK(strcmp(uffd_answer_name(UFFD_ANSWER_FILE + 1), "unknown") == 0);
  CHECK(strcmp(uffd_outcome_name(UFFD_OUTCOME_FAILED), "failed") == 0);
  CHECK(strcmp(uffd_outcome_name(UINT32_MAX), "unknown") == 0);
}

/* The thread that writes is not the child's. */
static void a_forked_child_lets_go(void) {
  struct traced traced;
  traced_open(&traced, ENGINE_ONE, ".ndjson");
  CHECK_OK(uffd_loop_trace_to(traced.serving.loop, traced.path, NULL));
  read_pages(&traced, 0, 1);
  pid_t child = fork();
  if (child == 0) {
    CHECK_ERR(uffd_loop_trace_to(traced.serving.loop, NULL, NULL), -EOWNERDEAD);
    CHECK_OK(uffd_loop_close(traced.serving.loop));
    _exit(0);
  }
  check_child(child);
  read_pages(&traced, 1, 1);
  CHECK_OK(uffd_loop_trace_to(traced.serving.loop, NULL, NULL));
  CHECK_EQ(count_lines(contents(traced.path)), 2);
  traced_close(&traced);
}

static const struct check_test tests[] = {
    TEST(a_json_object_for_each_fault), TEST(csv_has_its_names_in_the_first_line),
    TEST(two_loops_append_to_one_file), TEST(a_hook_goes_on_beside_the_file),
    TEST(lost_records_are_counted),     TEST(lost_records_stand_where_they_were),
    TEST(a_full_disk_is_told),          TEST(a_pipe_that_nobody_reads_is_given_up),
    TEST(wrong_options_are_refused),    TEST(names_of_answers_and_outcomes),
    TEST(a_forked_child_lets_go),
};
CHECK_MAIN(tests)
