/*
 * What this kernel and this user can do, and advice on how to get the rest.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "kernel/create.h"
#include "kernel/names.h"
#include "kernel/object.h"

#define SIZE_LIMIT 4096u

static uint64_t find_meminfo(const char *text, const char *field) {
  const char *at = strstr(text, field);
  return at != NULL ? strtoull(at + strlen(field), NULL, 10) : 0;
}

static void ask_hugepages(struct uffd_probe *probe) {
  char text[4096];
  int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t length = read(fd, text, sizeof(text) - 1);
  close(fd);
  if (length <= 0) return;
  text[length] = '\0';
  probe->hugepage_size = find_meminfo(text, "Hugepagesize:") * 1024;
  probe->hugepages_total = find_meminfo(text, "HugePages_Total:");
  probe->hugepages_free = find_meminfo(text, "HugePages_Free:");
}

int uffd_probe(struct uffd_probe *probe) {
  if (probe == NULL) return fail(EINVAL, "uffd_probe() needs a struct to fill.");
  size_t size = probe->size;
  if (size < sizeof(probe->size) || size > SIZE_LIMIT)
    return fail(EINVAL, "struct uffd_probe says that its size is %zu: start from UFFD_PROBE_INIT.", size);
  struct uffd_probe found = {.size = sizeof(found)};
  struct utsname names;
  if (uname(&names) == 0) snprintf(found.kernel, sizeof(found.kernel), "%s", names.release);
  uffd_survey(&found);
  found.missing = found.usable ? uffd_named_features() & ~found.features : 0;
  found.page_size = uffd_page_size();
  ask_hugepages(&found);
  memset(probe, 0, size);
  memcpy(probe, &found, size < sizeof(found) ? size : sizeof(found));
  probe->size = size;
  return 0;
}

/* Each adviser writes its sentence and returns true, or returns false. */

static bool advise_refused(const struct uffd_probe *probe, char *text, size_t length) {
  if (probe->usable) return false;
  char why[640];
  uffd_explain_refusal(probe, UFFD_ROUTE_AUTO, why, sizeof(why));
  snprintf(text, length, "userfaultfd cannot be used. %s", why);
  return true;
}

static bool advise_user_mode_only(const struct uffd_probe *probe, char *text, size_t length) {
  if (!probe->usable || !probe->user_mode_only) return false;
  char why[640];
  uffd_explain_refusal(probe, UFFD_ROUTE_AUTO, why, sizeof(why));
  snprintf(text, length, "Only USER_MODE_ONLY is allowed: system calls that touch a missing page fail with EFAULT. %s",
           why);
  return true;
}

static bool advise_device(const struct uffd_probe *probe, char *text, size_t length) {
  if (probe->route != UFFD_ROUTE_DEVICE) return false;
  char why[640];
  uffd_explain_refusal(probe, UFFD_ROUTE_SYSCALL, why, sizeof(why));
  snprintf(text, length, "/dev/userfaultfd is used, because the system call is refused. %s", why);
  return true;
}

static bool advise_event_fork(const struct uffd_probe *probe, char *text, size_t length) {
  if (!probe->usable || probe->event_fork) return false;
  snprintf(text, length, "The feature event_fork is refused: it needs CAP_SYS_PTRACE in the initial user namespace.");
  return true;
}

static bool advise_features(const struct uffd_probe *probe, char *text, size_t length) {
  /* No advice about features that no released kernel has. */
  uint64_t missing = probe->missing & ~(UFFD_FEAT_RWP | UFFD_FEAT_RWP_ASYNC);
  if (missing == 0) return false;
  char names[384];
  uffd_list_features(missing, names, sizeof(names));
  snprintf(text, length, "This kernel lacks features that newer ones have: %s.", names);
  return true;
}

static bool advise_hugepages(const struct uffd_probe *probe, char *text, size_t length) {
  if (probe->hugepages_free > 0) return false;
  if (probe->hugepage_size == 0) {
    snprintf(text, length,
             "This kernel has no huge pages (CONFIG_HUGETLBFS): memory of kind hugetlb cannot be mapped.");
  } else if (probe->hugepages_total == 0) {
    snprintf(
        text, length,
        "No huge pages are reserved: memory of kind hugetlb needs \"sysctl -w vm.nr_hugepages=N\" as root (a page has "
        "%llu MiB).",
        (unsigned long long)(probe->hugepage_size >> 20));
  } else {
    snprintf(
        text, length,
        "All %llu huge pages are in use: memory of kind hugetlb needs more, \"sysctl -w vm.nr_hugepages=N\" as root.",
        (unsigned long long)probe->hugepages_total);
  }
  return true;
}

static bool (*const advisers[])(const struct uffd_probe *probe, char *text, size_t length) = {
    advise_refused, advise_user_mode_only, advise_device, advise_event_fork, advise_features, advise_hugepages,
};

int uffd_probe_advice(const struct uffd_probe *probe, unsigned index, char *text, size_t length) {
  struct uffd_probe taken = {.size = sizeof(taken)};
  if (probe == NULL) return fail(EINVAL, "uffd_probe_advice() needs a probe.");
  int rc = uffd_take_opts(&taken, sizeof(taken), probe, "uffd_probe");
  if (rc < 0) return rc;
  char sentence[768];
  for (size_t i = 0; i < sizeof(advisers) / sizeof(advisers[0]); i++) {
    if (!advisers[i](&taken, sentence, sizeof(sentence))) continue;
    if (index-- > 0) continue;
    if (length > 0) snprintf(text, length, "%s", sentence);
    return (int)strlen(sentence);
  }
  if (length > 0) text[0] = '\0';
  return 0;
}
