/*
 * The fields of struct uffd_stats by name: the one list that Lua's tables, JSON and metrics are made from.
 */
#include "base/base.h"

#define FIELD(name, kind, help)                                                                                        \
  { #name, help, (uint32_t)offsetof(struct uffd_stats, name), UFFD_STATS_##kind }

static const struct uffd_stats_field fields[] = {
    FIELD(faults, COUNT, "messages of page faults read: missing, wp and minor"),
    FIELD(missing, COUNT, "faults of missing pages"),
    FIELD(wp, COUNT, "faults of write-protected pages"),
    FIELD(minor, COUNT, "minor faults"),
    FIELD(writes, COUNT, "faults by a write"),
    FIELD(events, COUNT, "fork, remap, remove and unmap messages read"),
    FIELD(zero, COUNT, "pages installed as zero pages"),
    FIELD(copied, COUNT, "pages installed by a copy"),
    FIELD(continued, COUNT, "pages installed from the page cache"),
    FIELD(moved, COUNT, "pages installed by a move"),
    FIELD(poisoned, COUNT, "pages poisoned"),
    FIELD(unprotected, COUNT, "pages whose first write was let through"),
    FIELD(bytes, COUNT, "bytes installed"),
    FIELD(prefetched, COUNT, "pages installed by prefetch and complete"),
    FIELD(present, COUNT, "answers for pages that were there already"),
    FIELD(deferred, COUNT, "times that a fault was put off"),
    FIELD(gone, COUNT, "faults of ranges or address spaces that do not exist any more"),
    FIELD(errors, COUNT, "resolvers or installs that failed"),
    FIELD(policy_calls, COUNT, "calls of callbacks and Lua policies"),
    FIELD(queue, NOW, "faults waiting now"),
    FIELD(queue_max, LARGEST, "the longest queue so far"),
    FIELD(latency_count, COUNT, "faults whose latency was measured"),
    FIELD(latency_p50, PERCENTILE, "median latency of a fault, nanoseconds"),
    FIELD(latency_p99, PERCENTILE, "latency that 99 % of the faults do not exceed, nanoseconds"),
    FIELD(latency_max, LARGEST, "longest latency of a fault, nanoseconds"),
};
enum { FIELDS = sizeof(fields) / sizeof(fields[0]) };
_Static_assert(sizeof(struct uffd_stats) == sizeof(size_t) + FIELDS * sizeof(uint64_t), "every field is in the table");

const struct uffd_stats_field *uffd_stats_fields(size_t *count) {
  *count = FIELDS;
  return fields;
}
