/*
 * Other options for a pager that runs.
 */
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/supervisor/control.h"
#include "serve/supervisor/entrance.h"
#include "serve/supervisor/image.h"
#include "serve/supervisor/options.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/report.h"

/* The options are the new ones already. New clients get the image when a helper has opened it. */
static int change_image(uffd_pager *pager) {
  const struct uffd_pager_opts *opts = &pager->opts;
  const char *const one[] = {opts->image, NULL}, *const *paths = opts->images != NULL ? opts->images : one;
  if (uffd_options_template(opts) || paths[0] == NULL) {
    pager->current = NULL;
    uffd_images_drop_unused(pager);
    return 0;
  }
  return uffd_image_begin(pager, paths);
}

static int check(const uffd_pager *pager, const struct uffd_pager_opts *opts) {
  if (pager->pid != getpid()) return fail(EOWNERDEAD, "This pager belongs to the parent process.");
  struct uffd_pager_opts checked = *opts;
  if (checked.socket == NULL && checked.doors_count == 0) checked.socket = "given"; /* by the service manager */
  return uffd_options_check(&checked);
}

int uffd_pager_configure(uffd_pager *pager, const struct uffd_pager_opts *user_opts) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  const char *others[UFFD_OPTIONS_OTHERS] = {NULL};
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_pager_opts");
  if (result == 0) result = check(pager, &opts);
  if (result == 0) result = uffd_options_change(&pager->opts, &opts, others);
  if (result < 0) return result;
  for (size_t i = 0; others[i] != NULL; i++) {
    uffd_report(pager, UFFD_REPORT_ERROR, 0, NULL, NULL,
                "The option %s stays as it was: it changes when this pager is started anew.", others[i]);
  }
  uffd_entrances_change(pager);
  if (pager->control != NULL) uffd_control_allow(pager->control, pager->opts.control_uid);
  if (result == 1) result = change_image(pager);
  if (result < 0) {
    uffd_report(pager, UFFD_REPORT_ERROR, -result, NULL, NULL, "New clients get the image that they got before: %s",
                uffd_errmsg());
  }
  return 0;
}
