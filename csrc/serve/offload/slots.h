/*
 * The memory slots of a virtual machine, as Cloud Hypervisor's migration config tells them. Of the whole config only
 * memory_manager_data.guest_ram_mappings is read; the rest stays bytes.
 */
#ifndef UFFD_SERVE_SLOTS_H
#define UFFD_SERVE_SLOTS_H

#include <stdint.h>

#define UFFD_CH_CONFIG_MAX (UINT64_C(64) << 20) /* bytes of a config */

struct uffd_ch_slot {
  uint32_t number;
  uint32_t file;         /* of the memfds: see uffd_ch_slots_share() */
  uint64_t address;      /* guest-physical, bytes */
  uint64_t length;       /* bytes */
  uint64_t file_offset;  /* in its memfd, bytes */
  uint64_t image_offset; /* in the image, where slots follow each other by number, bytes */
};

struct uffd_ch_slots {
  uint32_t count;
  struct uffd_ch_slot *slots; /* by address */
  uint64_t length;            /* of all, which is the image's */
};

/*
 * page_size: what all must be whole pages of. To be freed when 0 is returned. -EPROTO it is not JSON, or the mappings
 * are not there; -EINVAL a mapping that cannot be; -E2BIG; -ENOMEM; each with a sentence that can be shown.
 */
int uffd_ch_slots_read(const char *config, uint64_t length, uint64_t page_size, struct uffd_ch_slots *slots);
/*
 * Gives each slot a memfd: that of the slot before it, unless they overlap there. How many there are, at most a slot's
 * each; lengths[i]: of each, bytes.
 */
uint32_t uffd_ch_slots_share(struct uffd_ch_slots *slots, uint64_t *lengths);
/* The slot that holds all of the range of guest-physical addresses; NULL: none does. */
const struct uffd_ch_slot *uffd_ch_slots_find(const struct uffd_ch_slots *slots, uint64_t address, uint64_t length);
void uffd_ch_slots_free(struct uffd_ch_slots *slots);

#endif
