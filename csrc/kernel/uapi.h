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

/* /proc/PID/maps answers for one address (6.11). */
struct uffd_raw_procmap_query {
  uint64_t size, query_flags, query_addr;
  uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
  uint32_t dev_major, dev_minor;
  uint32_t vma_name_size, build_id_size;
  uint64_t vma_name_addr, build_id_addr;
};
#define RAW_PROCMAP_QUERY            _IOWR('f', 17, struct uffd_raw_procmap_query)
#define RAW_PROCMAP_READABLE         UINT64_C(0x01)
#define RAW_PROCMAP_WRITABLE         UINT64_C(0x02)
#define RAW_PROCMAP_EXECUTABLE       UINT64_C(0x04)
#define RAW_PROCMAP_SHARED           UINT64_C(0x08)
#define RAW_PROCMAP_COVERING_OR_NEXT UINT64_C(0x10)

/* /proc/PID/pagemap lists the pages of a range by what they are (6.7). */
struct uffd_raw_page_region {
  uint64_t start, end, categories;
};
struct uffd_raw_pagemap_scan {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define RAW_PAGEMAP_SCAN _IOWR('f', 16, struct uffd_raw_pagemap_scan)
#define RAW_PAGE_PRESENT (UINT64_C(1) << 3)
#define RAW_PAGE_SWAPPED (UINT64_C(1) << 4)

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
_Static_assert(sizeof(struct uffd_raw_procmap_query) == 104, "procmap_query");
_Static_assert(RAW_PAGEMAP_SCAN == 0xc0606610, "pm_scan_arg");
_Static_assert(RAW_UFFDIO_API == 0xc018aa3f && RAW_UFFDIO_REGISTER == 0xc020aa00 && RAW_UFFDIO_UNREGISTER == 0x8010aa01,
               "ioctl numbers");
_Static_assert(RAW_UFFDIO_MOVE == 0xc028aa05 && RAW_UFFDIO_WRITEPROTECT == 0xc018aa06 &&
                   RAW_UFFDIO_POISON == 0xc020aa08,
               "ioctl numbers");

#endif
