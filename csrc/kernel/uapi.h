/*
 * The kernel's userfaultfd interface in our own words: build headers may be older than the kernel that runs (Debian
 * 12's stop before POISON, MOVE, WP_UNPOPULATED and WP_ASYNC), so nothing is taken from them. Masks that users see
 * (features, modes, flags) are in uffd.h with the same values.
 */
#ifndef UFFD_KERNEL_UAPI_H
#define UFFD_KERNEL_UAPI_H

#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#ifndef SYS_userfaultfd
#if defined(__x86_64__)
#define SYS_userfaultfd 323
#else
#define SYS_userfaultfd 282 /* asm-generic */
#endif
#endif

#define RAW_API                  UINT64_C(0xAA)
#define RAW_USER_MODE_ONLY       1                   /* 5.11; numerically O_WRONLY */
#define RAW_FEATURES_INITIALISED (UINT64_C(1) << 31) /* fdinfo only */

struct uffd_raw_api {
  uint64_t api, features, ioctls;
};
struct uffd_raw_range {
  uint64_t start, length;
};
struct uffd_raw_register {
  struct uffd_raw_range range;
  uint64_t mode, ioctls;
};
struct uffd_raw_copy {
  uint64_t dst, src, length, mode;
  int64_t copy;
};
struct uffd_raw_zeropage { /* also continue and poison: the same layout, the last field being mapped or updated */
  struct uffd_raw_range range;
  uint64_t mode;
  int64_t zeropage;
};
struct uffd_raw_writeprotect {
  struct uffd_raw_range range;
  uint64_t mode;
};

/* UNREGISTER and WAKE are coded as reads by an old mistake of the kernel's; the numbers stay. */
#define RAW_UFFDIO_API          _IOWR(0xAA, 0x3F, struct uffd_raw_api)
#define RAW_UFFDIO_REGISTER     _IOWR(0xAA, 0x00, struct uffd_raw_register)
#define RAW_UFFDIO_UNREGISTER   _IOR(0xAA, 0x01, struct uffd_raw_range)
#define RAW_UFFDIO_WAKE         _IOR(0xAA, 0x02, struct uffd_raw_range)
#define RAW_UFFDIO_COPY         _IOWR(0xAA, 0x03, struct uffd_raw_copy)
#define RAW_UFFDIO_ZEROPAGE     _IOWR(0xAA, 0x04, struct uffd_raw_zeropage)
#define RAW_UFFDIO_MOVE         _IOWR(0xAA, 0x05, struct uffd_raw_copy)
#define RAW_UFFDIO_WRITEPROTECT _IOWR(0xAA, 0x06, struct uffd_raw_writeprotect)
#define RAW_UFFDIO_CONTINUE     _IOWR(0xAA, 0x07, struct uffd_raw_zeropage)
#define RAW_UFFDIO_POISON       _IOWR(0xAA, 0x08, struct uffd_raw_zeropage)
#define RAW_USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)

/* A message as read(2) gives it, 32 bytes. */
struct uffd_raw_msg {
  uint8_t event;
  uint8_t reserved1;
  uint16_t reserved2;
  uint32_t reserved3;
  union {
    struct {
      uint64_t flags, address;
      uint32_t ptid;
    } pagefault;
    struct {
      uint32_t ufd;
    } fork;
    struct {
      uint64_t from, to, length;
    } remap;
    struct {
      uint64_t start, end;
    } remove; /* and unmap */
    uint64_t raw[3];
  } arg;
};

_Static_assert(sizeof(struct uffd_raw_api) == 24, "uffdio_api");
_Static_assert(sizeof(struct uffd_raw_register) == 32, "uffdio_register");
_Static_assert(sizeof(struct uffd_raw_copy) == 40, "uffdio_copy, uffdio_move");
_Static_assert(sizeof(struct uffd_raw_zeropage) == 32, "uffdio_zeropage, uffdio_continue, uffdio_poison");
_Static_assert(sizeof(struct uffd_raw_msg) == 32, "uffd_msg");
_Static_assert(RAW_UFFDIO_API == 0xc018aa3f && RAW_UFFDIO_REGISTER == 0xc020aa00 && RAW_UFFDIO_UNREGISTER == 0x8010aa01,
               "ioctl numbers");
_Static_assert(RAW_UFFDIO_MOVE == 0xc028aa05 && RAW_UFFDIO_WRITEPROTECT == 0xc018aa06 &&
                   RAW_UFFDIO_POISON == 0xc020aa08,
               "ioctl numbers");

#endif
