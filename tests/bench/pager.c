/*
 * The pager's side of a plan.
 */
#include "pager.h"

#include <lauxlib.h>
#include <stdio.h>
#include <unistd.h>

#include "client.h"
#include "policy.h"
#include "serve.h"
#include "server.h"
#include "uffd_pager.h"

static void tell_parent(const struct server *server, const void *bytes, size_t length) {
  if (write(server->ready, bytes, length) != (ssize_t)length) die("a pager without its parent");
}

/* The image has no name any more. */
static void name_image(char *path, size_t size, const struct plan *plan) {
  snprintf(path, size, "/proc/self/fd/%d", plan->image->fd);
}

/* In C */

/* In the supervisor: the client's last figures go to the benchmark. */
static void on_report(void *ctx, const struct uffd_pager_report *report) {
  if (report->kind == UFFD_REPORT_ERROR || report->kind == UFFD_REPORT_REFUSED) die("the pager: %s", report->text);
  if (report->kind == UFFD_REPORT_GONE) tell_parent(ctx, &report->client->stats, sizeof(report->client->stats));
}

static void run_pager(const struct plan *plan, const struct server *server) {
  const struct paging *paging = plan->special;
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  uffd_pager *pager;
  char image[64];
  name_image(image, sizeof(image), plan);
  opts.socket = server->path;
  opts.image = image;
  opts.record = paging == NULL ? NULL : paging->record;
  opts.replay = paging == NULL ? NULL : paging->replay;
  opts.flags = UFFD_PAGER_ONCE;
  opts.report = on_report;
  opts.report_ctx = (void *)(uintptr_t)server;
  must(uffd_pager_create(&opts, &pager));
  tell_parent(server, "", 1);
  must(uffd_pager_run(pager));
  uffd_pager_close(pager);
}

/* In Lua */

static const char program[] = "local factory, socket, image = ...\n"
                              "local uffd = require 'uffd'\n"
                              "local faults, calls\n"
                              "local pager = assert(uffd.pager { socket = socket, image = image, once = true,\n"
                              "  resolver = function() return uffd.resolver.policy(load(factory)()) end,\n"
                              "  report = function(report)\n"
                              "    if report.kind == 'error' or report.kind == 'refused' then error(report.text) end\n"
                              "    if report.kind == 'gone' then\n"
                              "      faults, calls = report.client.stats.faults, report.client.stats.policy_calls\n"
                              "    end\n"
                              "  end })\n"
                              "return function() assert(pager:run()) pager:close() return faults, calls end\n";

static void run_policy(const struct plan *plan, const struct server *server) {
  const struct paging *paging = plan->special;
  struct uffd_stats stats = UFFD_STATS_INIT;
  char image[64];
  name_image(image, sizeof(image), plan);
  lua_State *L = policy_state();
  if (luaL_loadstring(L, program) != LUA_OK) die("%s", lua_tostring(L, -1));
  lua_pushstring(L, paging->factory);
  lua_pushstring(L, server->path);
  lua_pushstring(L, image);
  policy_call(L, 3, 1);
  tell_parent(server, "", 1);
  policy_call(L, 0, 2);
  stats.faults = (uint64_t)lua_tointeger(L, -2);
  stats.policy_calls = (uint64_t)lua_tointeger(L, -1);
  lua_close(L);
  tell_parent(server, &stats, sizeof(stats));
}

void serve_pager(const struct plan *plan, bool check, double figures[FIGURES]) {
  struct uffd_stats stats;
  struct server server;
  const struct paging *paging = plan->special;
  bool policy = paging != NULL && paging->factory != NULL;
  server_start(&server, policy ? run_policy : run_pager, plan);
  client_run(plan, server.path, false, check, figures);
  if (read(server.ready, &stats, sizeof(stats)) != (ssize_t)sizeof(stats)) die("the pager has not seen its client end");
  if (policy && stats.policy_calls < stats.faults / 2)
    die("the policy was asked %llu times", (unsigned long long)stats.policy_calls);
  figures[FAULTS] = (double)stats.faults / (double)plan_pages(plan);
  server_end(&server, plan, figures);
}
