/*
 * Migration configs of Cloud Hypervisor: any bytes, as they are, and as the list of mappings. What is taken can be
 * relied on: slots lie apart in the machine, in the image and in their files, and each address is found in its slot.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "serve/offload/slots.h"

#define MOST UINT64_C(4096)
#define PAGE UINT64_C(4096)
#define MUST(condition)                                                                                                \
  do {                                                                                                                 \
    if (!(condition)) abort();                                                                                         \
  } while (0)

static void check_sentence(void) {
  const char *sentence = uffd_errmsg();
  MUST(strlen(sentence) > 10);
  for (const char *c = sentence; *c != '\0'; c++) {
    MUST(*c >= 0x20 && *c < 0x7f);
  }
}

static bool apart(uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length) {
  return a + a_length <= b || b + b_length <= a;
}

static void check_pair(const struct uffd_ch_slot *a, const struct uffd_ch_slot *b) {
  MUST(a->number != b->number);
  MUST(apart(a->address, a->length, b->address, b->length));
  MUST(apart(a->image_offset, a->length, b->image_offset, b->length));
  MUST(a->file != b->file || apart(a->file_offset, a->length, b->file_offset, b->length));
}

static void check(const char *bytes, uint64_t length) {
  struct uffd_ch_slots slots;
  uint64_t lengths[MOST], sum = 0;
  if (uffd_ch_slots_read(bytes, length, PAGE, &slots) < 0) {
    MUST(slots.slots == NULL);
    check_sentence();
    return;
  }
  MUST(slots.count > 0 && slots.count <= length);
  uint32_t files = uffd_ch_slots_share(&slots, lengths);
  MUST(files > 0 && files <= slots.count);
  for (uint32_t i = 0; i < slots.count; i++) {
    const struct uffd_ch_slot *slot = &slots.slots[i];
    MUST(slot->length > 0 && slot->length % PAGE == 0 && slot->address % PAGE == 0 && slot->file_offset % PAGE == 0);
    MUST(slot->file < files && slot->file_offset + slot->length <= lengths[slot->file]);
    MUST(slot->image_offset + slot->length <= slots.length);
    MUST(uffd_ch_slots_find(&slots, slot->address, slot->length) == slot);
    MUST(uffd_ch_slots_find(&slots, slot->address + slot->length - PAGE, PAGE) == slot);
    MUST(uffd_ch_slots_find(&slots, slot->address, slot->length + 1) == NULL);
    sum += slot->length;
    for (uint32_t k = 0; k < i; k++) {
      check_pair(&slots.slots[k], slot);
    }
  }
  MUST(sum == slots.length);
  uffd_ch_slots_free(&slots);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char before[] = "{\"memory_manager_data\":{\"guest_ram_mappings\":[", after[] = "]}}";
  char made[MOST + sizeof(before) + sizeof(after)];
  if (size >= MOST - 64) return 0;
  char *copy = malloc(size + 1); /* so that a byte too far is seen */
  memcpy(copy, data, size);
  check(copy, size);
  free(copy);
  size_t length = sizeof(before) - 1;
  memcpy(made, before, length);
  memcpy(made + length, data, size);
  memcpy(made + length + size, after, sizeof(after) - 1);
  check(made, length + size + sizeof(after) - 1);
  return 0;
}
