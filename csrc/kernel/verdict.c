/*
 * What an errno of an ioctl on a page means for the page, as a table. Linux 4.11 to 6.18 (mm/userfaultfd.c,
 * fs/userfaultfd.c, mm/hugetlb.c); c.verdict provokes each row.
 */
#include "kernel/verdict.h"

#define COPY     (1u << UFFD_FILL_COPY)
#define ZEROPAGE (1u << UFFD_FILL_ZEROPAGE)
#define CONTINUE (1u << UFFD_FILL_CONTINUE)
#define POISON   (1u << UFFD_FILL_POISON)
#define MOVE     (1u << UFFD_FILL_MOVE)
#define PROTECT  (1u << UFFD_PROTECT)
#define FILL     (COPY | ZEROPAGE | CONTINUE | POISON | MOVE)

static const struct uffd_ruling rulings[] = {
    {EAGAIN, FILL | PROTECT, false, false, UFFD_VERDICT_HEALS, "an event waits to be read, or a race was lost"},
    {ENOMEM, FILL | PROTECT, true, false, UFFD_VERDICT_HEALS,
     "memory may be free again; the kernel's own fault waits too"},
    {EEXIST, FILL, false, false, UFFD_VERDICT_PRESENT, "the page is there"},
    {ESRCH, (FILL & ~MOVE) | PROTECT, false, false, UFFD_VERDICT_GONE, "the address space is no more"},
    {ENOENT, COPY | ZEROPAGE | CONTINUE | POISON | PROTECT, false, false, UFFD_VERDICT_OWNERS,
     "the range is unmapped, or not registered any more"},
    {EFAULT, CONTINUE, false, false, UFFD_VERDICT_ABSENT, "the page cache has lost the page"},
    {EINVAL, CONTINUE, false, false, UFFD_VERDICT_ABSENT, "the page lies beyond the end of its file (6.18)"},
    {EFAULT, COPY, false, true, UFFD_VERDICT_OWNERS, "the page lies beyond the end of its file"},
    {EFAULT, ZEROPAGE | POISON, false, false, UFFD_VERDICT_OWNERS, "the page lies beyond the end of its file"},
    {EBUSY, MOVE, false, false, UFFD_VERDICT_COPY, "the page is shared, pinned, or locked"},
    {EINVAL, MOVE, false, false, UFFD_VERDICT_COPY, "the kernel has no MOVE, or the mappings do not match"},
};

const struct uffd_ruling *uffd_rulings(size_t *count) {
  *count = sizeof(rulings) / sizeof(rulings[0]);
  return rulings;
}

enum uffd_verdict uffd_verdict(uint32_t op, int error, uint64_t page_size, bool readable) {
  for (size_t i = 0; i < sizeof(rulings) / sizeof(rulings[0]); i++) {
    const struct uffd_ruling *ruling = &rulings[i];
    if (ruling->error != error || (ruling->ops & 1u << op) == 0) continue;
    if (ruling->base_page && page_size != BASE_PAGE) continue;
    if (ruling->readable && !readable) continue;
    return (enum uffd_verdict)ruling->verdict;
  }
  return UFFD_VERDICT_NEVER;
}
