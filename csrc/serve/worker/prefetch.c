/*
 * What is prefetched for a client.
 */
#include "serve/worker/prefetch.h"

#include "base/base.h"

/* The part of a range of the image that lies in the region, in whole pages: its length, 0 for none. */
static uint64_t clip(const struct uffd_place *place, const struct uffd_range *range, struct uffd_range *clipped) {
  uint64_t start = max_u64(range->offset, place->is.offset);
  uint64_t end = min_u64(range->offset + range->length, place->is.offset + place->is.length);
  if (start >= end) return 0;
  start = round_down(start - place->is.offset, place->is.page_size);
  end = round_up(end - place->is.offset, place->is.page_size);
  *clipped = (struct uffd_range){.offset = start, .length = end - start};
  return end - start;
}

/* Each region gets a part of the client's rate, in proportion to what is prefetched there. */
static uint64_t share_rate(uint64_t rate, uint64_t part, uint64_t whole) {
  if (rate == 0 || whole == 0) return rate;
  return max_u64((uint64_t)((double)rate * (double)part / (double)whole), 1);
}

static uint64_t wanted(const struct uffd_stock *stock, const struct uffd_client *client) {
  uint64_t bytes = 0;
  struct uffd_range clipped;
  for (uint32_t i = 0; i < client->regions_count; i++) {
    struct uffd_place place = {.is = client->regions[i]};
    for (size_t j = 0; j < stock->replay_count; j++) {
      bytes += clip(&place, &stock->replay[j], &clipped);
    }
  }
  return bytes;
}

static int replay(struct uffd_place *place, uint64_t all) {
  const struct uffd_stock *stock = place->serving->stock;
  size_t length = stock->replay_count * sizeof(struct uffd_range);
  struct uffd_range *ranges = uffd_alloc(length);
  if (ranges == NULL) return fail(ENOMEM, "No memory for a working set.");
  size_t count = 0;
  uint64_t bytes = 0;
  for (size_t i = 0; i < stock->replay_count; i++) {
    uint64_t more = clip(place, &stock->replay[i], &ranges[count]);
    bytes += more;
    if (more != 0) count++;
  }
  int result = 0;
  if (count != 0) {
    struct uffd_prefetch_opts opts = UFFD_PREFETCH_OPTS_INIT;
    opts.rate = share_rate(place->serving->shop->supply.opts.rate, bytes, all);
    result = uffd_region_prefetch_start(place->region, ranges, count, &opts, &place->prefetch);
  }
  uffd_release(ranges, length);
  return result;
}

static int fill(struct uffd_place *place) {
  const struct uffd_serving *serving = place->serving;
  uint64_t all = 0;
  for (uint32_t i = 0; i < serving->client.regions_count; i++) {
    all += serving->client.regions[i].length;
  }
  struct uffd_prefetch_opts opts = UFFD_PREFETCH_OPTS_INIT;
  opts.rate = share_rate(serving->shop->supply.opts.rate, place->is.length, all);
  return uffd_region_prefetch_start(place->region, NULL, 0, &opts, &place->prefetch);
}

/* A client whose prefetch fails is served all the same. */
static void begin(struct uffd_serving *serving) {
  const struct uffd_stock *stock = serving->stock;
  bool replays = stock != NULL && stock->replay_count != 0;
  bool fills = (serving->shop->supply.opts.flags & UFFD_PAGER_PREFETCH) != 0;
  uint64_t all = replays ? wanted(stock, &serving->client) : 0;
  for (uint32_t i = 0; i < serving->client.regions_count; i++) {
    struct uffd_place *place = &serving->places[i];
    int result = replays ? replay(place, all) : 0;
    place->replaying = place->prefetch != NULL;
    if (result == 0 && place->prefetch == NULL && fills) result = fill(place);
    if (result < 0) (void)uffd_say_error(&serving->shop->mouth, serving->client.id, -result);
  }
}

void uffd_serving_prefetch(struct uffd_serving *serving) {
  pthread_mutex_lock(&serving->filling_lock);
  bool begins = !serving->filling;
  serving->filling = true;
  if (begins) begin(serving);
  pthread_mutex_unlock(&serving->filling_lock);
}

static void go_on(struct uffd_place *place) {
  struct uffd_prefetch_status status = UFFD_PREFETCH_STATUS_INIT;
  if (place->prefetch == NULL || uffd_prefetch_status(place->prefetch, &status) < 0 || status.done == 0) return;
  uffd_prefetch_close(place->prefetch);
  place->prefetch = NULL;
  if (place->replaying && (place->serving->shop->supply.opts.flags & UFFD_PAGER_PREFETCH) != 0) (void)fill(place);
  place->replaying = false;
}

/* By the watchdog, which has other clients to look at. */
void uffd_serving_go_on(struct uffd_serving *serving) {
  if (pthread_mutex_trylock(&serving->filling_lock) != 0) return;
  for (uint32_t i = 0; serving->filling && i < serving->client.regions_count; i++) {
    go_on(&serving->places[i]);
  }
  pthread_mutex_unlock(&serving->filling_lock);
}
