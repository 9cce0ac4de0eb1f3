/*
 * Frames of Cloud Hypervisor's migration protocol, on a stream socket. A request: 16 bytes, little-endian: its command,
 * the version where it is START, zeros, and the length of what follows. Each is answered by 16 bytes, its status first,
 * before the next is sent. Calls here wait for the peer.
 */
#ifndef UFFD_SERVE_FRAMES_H
#define UFFD_SERVE_FRAMES_H

#include <stddef.h>
#include <stdint.h>

enum {
  UFFD_CH_START = 1,
  UFFD_CH_CONFIG = 2,
  UFFD_CH_STATE = 3,
  UFFD_CH_COMPLETE = 5,
  UFFD_CH_ABANDON = 6,
  UFFD_CH_MEMORY_FD = 7, /* a u32, the slot, with a descriptor */
  UFFD_CH_COMPLETE_PAUSED = 8,
  UFFD_CH_PAGE_FAULT = 9 /* guest-physical address and length, each u64 */
};
enum { UFFD_CH_OK = 1, UFFD_CH_ERROR = 2 }; /* status */

#define UFFD_CH_FRAME      16u
#define UFFD_CH_RANGE      16u /* that follows PAGE_FAULT */
#define UFFD_CH_ROLE_FAULT 2u  /* u16, the first bytes of a connection that carries PAGE_FAULT */

struct uffd_ch_request {
  uint16_t command;
  uint16_t version;
  uint64_t length; /* of what follows */
};

void uffd_ch_write_request(const struct uffd_ch_request *request, unsigned char *frame);
void uffd_ch_read_request(const unsigned char *frame, struct uffd_ch_request *request);
uint64_t uffd_ch_number(const unsigned char *bytes, unsigned count); /* little-endian */

/* A stream socket that is connected, and gives up a send or a receive after so long. -errno with a sentence. */
int uffd_ch_connect(const char *path, uint32_t timeout_ms);
void uffd_ch_set_timeout(int fd, uint32_t timeout_ms);
/* All of it, and a descriptor with its first byte (-1: none). 0; -EPIPE the peer has hung up; -ETIMEDOUT; -errno. */
int uffd_ch_send(int fd, const void *bytes, uint64_t length, int passed);
/*
 * Exactly so many bytes. *passed: the descriptor that came with them, -1 none; NULL: none is taken. 1; 0 the peer has
 * hung up before the first; -EPIPE it has amid them; -ETIMEDOUT; -EPROTO more than one descriptor; -errno.
 */
int uffd_ch_receive(int fd, void *bytes, uint64_t length, int *passed);
int uffd_ch_respond(int fd, uint16_t status); /* as uffd_ch_send() */
/* A response, which has nothing behind it: 0; -EREMOTEIO it is an error; -EPROTO; else as uffd_ch_receive(). */
int uffd_ch_await_ok(int fd, const char *what);

#endif
