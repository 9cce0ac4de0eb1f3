/*
 * Closing everything, in the supervisor at its end and in a forked child of it.
 */
#include "serve/supervisor/forget.h"

#include "serve/paper/descriptors.h"
#include "serve/supervisor/arrival.h"
#include "serve/supervisor/children.h"
#include "serve/supervisor/client.h"
#include "serve/supervisor/control.h"
#include "serve/supervisor/given.h"
#include "serve/supervisor/helper.h"
#include "serve/supervisor/image.h"
#include "serve/supervisor/keep.h"
#include "serve/supervisor/link.h"
#include "serve/supervisor/looker.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/refused.h"
#include "serve/supervisor/scrape.h"
#include "serve/supervisor/worker.h"

void uffd_pager_forget(uffd_pager *pager) {
  uffd_close_fds(&pager->epoll_fd, 1); /* first: a child must not change what its parent polls */
  uffd_close_fds(&pager->toll.fd, 1);
  uffd_close_fds(&pager->timer_fd, 1);
  uffd_close_fds(&pager->order_fd, 1);
  uffd_links_close(pager);
  uffd_arrivals_forget(pager);
  uffd_refused_forget(pager);
  uffd_children_forget(pager);
  uffd_scrape_close(pager);
  uffd_control_close(pager->control);
  pager->control = NULL;
  uffd_helpers_forget(pager);
  uffd_close_fds(&pager->record_fd, 1);
  uffd_workers_forget(pager);
  uffd_clients_forget(pager);
  uffd_images_forget(pager);
  uffd_looker_forget(pager); /* after those whose objects it was to close */
  uffd_keep_close(pager);
  uffd_given_close(pager);
}
