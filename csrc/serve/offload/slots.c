/*
 * Memory slots: read from a config, checked, and given their places in files.
 */
#include "serve/offload/slots.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "serve/paper/book.h"
#include "serve/paper/printable.h"

#define NUMBER_MAX 9007199254740992.0 /* 2^53: a double has all integers up to it */

/* The library quotes what was sent. */
static int refuse_json(const json_error_t *error) {
  char text[sizeof(error->text)];
  uffd_printable(error->text, text, sizeof(text));
  return fail(EPROTO, "The migration config is not JSON: at byte %d: %s.", error->position, text);
}

/* Integers were read as reals: elsewhere in the config there may be some that no integer of the library can hold. */
static int read_number(const json_t *mapping, size_t index, const char *key, uint64_t *value) {
  const json_t *number = json_object_get(mapping, key);
  if (!json_is_real(number)) return fail(EPROTO, "Mapping %zu of the migration config has no number %s.", index, key);
  double real = json_real_value(number);
  if (!(real >= 0) || real > NUMBER_MAX || floor(real) < real) {
    return fail(EINVAL, "Mapping %zu of the migration config: %s is not an integer from 0 to 2^53.", index, key);
  }
  *value = (uint64_t)real;
  return 0;
}

static int read_slot(const json_t *mapping, size_t index, struct uffd_ch_slot *slot) {
  uint64_t number = 0;
  int result = read_number(mapping, index, "slot", &number);
  if (result == 0) result = read_number(mapping, index, "gpa", &slot->address);
  if (result == 0) result = read_number(mapping, index, "size", &slot->length);
  if (result == 0) result = read_number(mapping, index, "file_offset", &slot->file_offset);
  if (result < 0) return result;
  if (number > UINT32_MAX) return fail(EINVAL, "Mapping %zu of the migration config: its slot is too large.", index);
  slot->number = (uint32_t)number;
  return 0;
}

static int check_slot(const struct uffd_ch_slot *slot, uint64_t page_size) {
  const char *why = NULL;
  if (slot->length == 0) why = "is empty";
  if (slot->address % page_size != 0 || slot->length % page_size != 0 || slot->file_offset % page_size != 0) {
    why = "is not whole pages";
  }
  if (why == NULL) return 0;
  return fail(EINVAL,
              "Slot %u of the machine (%" PRIu64 " bytes at 0x%" PRIx64 ", %" PRIu64 " of its file) %s of %" PRIu64
              " bytes.",
              slot->number, slot->length, slot->address, slot->file_offset, why, page_size);
}

static int by_number(const void *a, const void *b) {
  uint32_t x = ((const struct uffd_ch_slot *)a)->number, y = ((const struct uffd_ch_slot *)b)->number;
  return (x > y) - (x < y);
}

static int by_address(const void *a, const void *b) {
  uint64_t x = ((const struct uffd_ch_slot *)a)->address, y = ((const struct uffd_ch_slot *)b)->address;
  return (x > y) - (x < y);
}

/* Sums cannot overflow: there are at most 4096 slots of at most 2^53 bytes. */
static int place(struct uffd_ch_slots *slots, uint64_t page_size) {
  qsort(slots->slots, slots->count, sizeof(*slots->slots), by_number);
  for (uint32_t i = 0; i < slots->count; i++) {
    struct uffd_ch_slot *slot = &slots->slots[i];
    int result = check_slot(slot, page_size);
    if (result < 0) return result;
    if (i > 0 && slot[-1].number == slot->number)
      return fail(EINVAL, "Slot %u is there twice in the migration config.", slot->number);
    slot->image_offset = slots->length;
    slots->length += slot->length;
  }
  qsort(slots->slots, slots->count, sizeof(*slots->slots), by_address);
  for (uint32_t i = 1; i < slots->count; i++) {
    const struct uffd_ch_slot *before = &slots->slots[i - 1], *slot = &slots->slots[i];
    if (slot->address - before->address >= before->length) continue;
    return fail(EINVAL, "Slots %u and %u of the machine share addresses, from 0x%" PRIx64 " on.", before->number,
                slot->number, slot->address);
  }
  return 0;
}

static int take(const json_t *config, uint64_t page_size, struct uffd_ch_slots *slots) {
  const json_t *mappings = json_object_get(json_object_get(config, "memory_manager_data"), "guest_ram_mappings");
  size_t count = json_array_size(mappings);
  if (count == 0) {
    return fail(EPROTO, "The migration config has no memory_manager_data.guest_ram_mappings: it is none of Cloud "
                        "Hypervisor, or of another version.");
  }
  if (count > UFFD_REGIONS_MAX) {
    return fail(E2BIG, "The migration config has %zu mappings, and at most %u are taken.", count, UFFD_REGIONS_MAX);
  }
  slots->slots = uffd_alloc(count * sizeof(*slots->slots));
  if (slots->slots == NULL) return fail(ENOMEM, "No memory for %zu slots.", count);
  slots->count = (uint32_t)count;
  for (size_t i = 0; i < count; i++) {
    int result = read_slot(json_array_get(mappings, i), i, &slots->slots[i]);
    if (result < 0) return result;
  }
  return place(slots, page_size);
}

int uffd_ch_slots_read(const char *config, uint64_t length, uint64_t page_size, struct uffd_ch_slots *slots) {
  json_error_t error;
  *slots = (struct uffd_ch_slots){0};
  if (length > UFFD_CH_CONFIG_MAX) return fail(E2BIG, "The migration config has %" PRIu64 " bytes.", length);
  json_t *json = json_loadb(config, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
  if (json == NULL) return refuse_json(&error);
  int result = take(json, page_size, slots);
  json_decref(json);
  if (result < 0) uffd_ch_slots_free(slots);
  return result;
}

/* Does the slot of that index overlap none before it in the file? */
static bool fits(const struct uffd_ch_slots *slots, uint32_t count, uint32_t file) {
  const struct uffd_ch_slot *slot = &slots->slots[count];
  for (uint32_t i = 0; i < count; i++) {
    const struct uffd_ch_slot *other = &slots->slots[i];
    bool apart = slot->file_offset + slot->length <= other->file_offset ||
                 other->file_offset + other->length <= slot->file_offset;
    if (other->file == file && !apart) return false;
  }
  return true;
}

uint32_t uffd_ch_slots_share(struct uffd_ch_slots *slots, uint64_t *lengths) {
  uint32_t files = 0;
  for (uint32_t i = 0; i < slots->count; i++) {
    struct uffd_ch_slot *slot = &slots->slots[i];
    bool new = files == 0 || !fits(slots, i, files - 1);
    if (new) lengths[files++] = 0;
    slot->file = files - 1;
    lengths[slot->file] = max_u64(lengths[slot->file], slot->file_offset + slot->length);
  }
  return files;
}

const struct uffd_ch_slot *uffd_ch_slots_find(const struct uffd_ch_slots *slots, uint64_t address, uint64_t length) {
  uint32_t low = 0, high = slots->count;
  while (low < high) { /* the first that begins behind the address */
    uint32_t middle = low + (high - low) / 2;
    if (slots->slots[middle].address <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == 0) return NULL;
  const struct uffd_ch_slot *slot = &slots->slots[low - 1];
  uint64_t offset = address - slot->address;
  return offset < slot->length && length <= slot->length - offset ? slot : NULL;
}

void uffd_ch_slots_free(struct uffd_ch_slots *slots) {
  uffd_release(slots->slots, slots->count * sizeof(*slots->slots));
  *slots = (struct uffd_ch_slots){0};
}
