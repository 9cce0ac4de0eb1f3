/*
 * A virtual-machine monitor as small as one can be, in plain system calls: vmm_kvm COMMAND
 *   can                  whether this machine can run it: 0, or 77 and the reason
 *   make IMAGE           writes a snapshot: the guest's code, its page tables, and memory that is unlike everywhere
 *   run IMAGE [SOCKET]   resumes it, its memory served by the pager behind SOCKET, which is asked as Firecracker does;
 *                        without SOCKET the image is read beforehand, so that the guest itself can be tested
 */
#include "layout.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define SKIPPED 77
#define SECONDS 300 /* of processor time for a run, so that a busy machine has longer */

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW 0xAA00
#endif

/* Flat, as guest.ld lays it out. */
__asm__(".pushsection .rodata\n"
        "guest_code: .incbin \"" GUEST_BINARY "\"\n"
        "guest_code_end:\n"
        ".popsection");
extern const char guest_code[], guest_code_end[];

static struct {
  char *low, *high;  /* the guest's memory */
  int image, disk;   /* files */
  int uffd, socket;  /* -1: nobody serves */
  int kvm, machine;  /* /dev/kvm, and what it gave */
  size_t state_size; /* of struct kvm_run */
} vmm = {.uffd = -1, .socket = -1};

struct cpu {
  uint64_t index;
  int fd;
  struct kvm_run *state;
  uint64_t seen, written; /* its verdict */
};

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

static void die(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("vmm_kvm: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}

static void give_up(int number) {
  (void)number;
  static const char text[] = "vmm_kvm: the guest has not ended in time\n";
  _exit(write(STDERR_FILENO, text, sizeof(text) - 1) > 0 ? 1 : 3);
}

/* The image */

static void fill_tables(uint64_t *tables) {
  enum { PRESENT = 1, WRITABLE = 2, LARGE = 128 };
  const uint64_t entries = PAGE / sizeof(uint64_t), large = UINT64_C(2) << 20;
  uint64_t *root = tables, *gigabytes = root + entries, *low = gigabytes + entries, *high = low + entries;
  root[0] = (PAGE_TABLES + PAGE) | PRESENT | WRITABLE;
  gigabytes[0] = (PAGE_TABLES + 2 * PAGE) | PRESENT | WRITABLE;
  gigabytes[HIGH_BASE >> 30] = (PAGE_TABLES + 3 * PAGE) | PRESENT | WRITABLE;
  for (uint64_t i = 0; i < LOW_BYTES / large; i++) {
    low[i] = i * large | PRESENT | WRITABLE | LARGE;
  }
  for (uint64_t i = 0; i < HIGH_BYTES / large; i++) {
    high[i] = (HIGH_BASE + i * large) | PRESENT | WRITABLE | LARGE;
  }
}

static void make(const char *path) {
  static uint64_t first[FIRST_PAGE * WORDS], words[WORDS];
  FILE *file = fopen(path, "we");
  size_t code = (size_t)(guest_code_end - guest_code);
  if (file == NULL) die("cannot make %s: %m", path);
  if (code > (FIRST_PAGE * PAGE) - CODE) die("the guest's code has %zu bytes", code);
  fill_tables(first + PAGE_TABLES / sizeof(*first));
  memcpy((char *)first + CODE, guest_code, code);
  fwrite(first, sizeof(first), 1, file);
  for (uint64_t page = FIRST_PAGE; page < PAGES; page++) {
    for (uint64_t i = 0; i < WORDS; i++) {
      words[i] = word_of(page, i);
    }
    fwrite(words, sizeof(words), 1, file);
  }
  if (fclose(file) != 0) die("cannot write %s: %m", path);
}

/* The guest's memory */

static char *map_memory(uint64_t length) {
  char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) die("cannot map the guest's memory: %m");
  return memory;
}

static char *host_of(uint64_t page) {
  return page < LOW_PAGES ? vmm.low + page * PAGE : vmm.high + (page - LOW_PAGES) * PAGE;
}

static void read_image(char *memory, uint64_t length, uint64_t offset) {
  if (pread(vmm.image, memory, length, (off_t)offset) != (ssize_t)length) die("cannot read the image: %m");
}

/* One that the kernel's own accesses can fault on: those of KVM are of that kind. */
static int open_uffd(void) {
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  if (fd >= 0) return fd;
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device < 0) return -1;
  fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
  close(device);
  return fd;
}

static void register_memory(const char *memory, uint64_t length) {
  struct uffdio_register request = {.range = {(uintptr_t)memory, length}, .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (ioctl(vmm.uffd, UFFDIO_REGISTER, &request) != 0) die("UFFDIO_REGISTER: %m");
}

static void send_handshake(void) {
  char text[1024], control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
  snprintf(text, sizeof(text),
           "[{\"base_host_virt_addr\":%llu,\"size\":%llu,\"offset\":0,\"page_size\":4096,\"page_size_kib\":4096},"
           "{\"base_host_virt_addr\":%llu,\"size\":%llu,\"offset\":%llu,\"page_size\":4096,\"page_size_kib\":4096}]",
           (unsigned long long)(uintptr_t)vmm.low, (unsigned long long)LOW_BYTES,
           (unsigned long long)(uintptr_t)vmm.high, (unsigned long long)HIGH_BYTES, (unsigned long long)LOW_BYTES);
  struct iovec bytes = {text, strlen(text)};
  struct msghdr message = {
      .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &vmm.uffd, sizeof(int));
  if (sendmsg(vmm.socket, &message, MSG_NOSIGNAL) != (ssize_t)bytes.iov_len) die("cannot hand the memory over: %m");
}

/* In Firecracker's order; the socket stays open as long as the machine lives. */
static void hand_over(const char *path) {
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
  vmm.uffd = open_uffd();
  if (vmm.uffd < 0 || ioctl(vmm.uffd, UFFDIO_API, &api) != 0) die("userfaultfd: %m");
  register_memory(vmm.low, LOW_BYTES);
  register_memory(vmm.high, HIGH_BYTES);
  vmm.socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (strlen(path) >= sizeof(name.sun_path)) die("the path of the socket is too long");
  memcpy(name.sun_path, path, strlen(path));
  if (connect(vmm.socket, (struct sockaddr *)&name, sizeof(name)) != 0) die("cannot connect to %s: %m", path);
  send_handshake();
}

/* The machine */

static void add_memory(unsigned slot, uint64_t guest, const char *host, uint64_t length) {
  struct kvm_userspace_memory_region region = {
      .slot = slot, .guest_phys_addr = guest, .memory_size = length, .userspace_addr = (uintptr_t)host};
  if (ioctl(vmm.machine, KVM_SET_USER_MEMORY_REGION, &region) != 0) die("KVM_SET_USER_MEMORY_REGION: %m");
}

static void make_machine(void) {
  uint64_t identity = 0xfffbc000;
  vmm.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (vmm.kvm < 0) die("/dev/kvm: %m");
  vmm.machine = ioctl(vmm.kvm, KVM_CREATE_VM, 0);
  if (vmm.machine < 0) die("KVM_CREATE_VM: %m");
  /* Intel's want some room of their own in the gap; others do not have these. */
  ioctl(vmm.machine, KVM_SET_IDENTITY_MAP_ADDR, &identity);
  ioctl(vmm.machine, KVM_SET_TSS_ADDR, identity + PAGE);
  vmm.state_size = (size_t)ioctl(vmm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  add_memory(0, 0, vmm.low, LOW_BYTES);
  add_memory(1, HIGH_BASE, vmm.high, HIGH_BYTES);
}

static void set_cpuid(int cpu) {
  enum { ENTRIES = 256 };
  struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + ENTRIES * sizeof(cpuid->entries[0]));
  if (cpuid == NULL) die("no memory");
  cpuid->nent = ENTRIES;
  if (ioctl(vmm.kvm, KVM_GET_SUPPORTED_CPUID, cpuid) != 0 || ioctl(cpu, KVM_SET_CPUID2, cpuid) != 0)
    die("the processor's features: %m");
  free(cpuid);
}

/* 64-bit mode with paging, as if the guest had set it up before the snapshot. */
static void set_registers(const struct cpu *cpu) {
  enum { PE = 1u << 0, ET = 1u << 4, NE = 1u << 5, WP = 1u << 16, PAE = 1u << 5, LME = 1u << 8, LMA = 1u << 10 };
  const uint64_t paging = UINT64_C(1) << 31;
  struct kvm_segment code = {.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
  struct kvm_segment data = {.limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
  struct kvm_sregs special;
  struct kvm_regs registers = {
      .rip = CODE, .rsp = STACKS + (cpu->index + 1) * PAGE - sizeof(uint64_t), .rflags = 2, .rdi = cpu->index};
  if (ioctl(cpu->fd, KVM_GET_SREGS, &special) != 0) die("KVM_GET_SREGS: %m");
  special.cs = code;
  special.ds = special.es = special.fs = special.gs = special.ss = data;
  special.cr0 = PE | ET | NE | WP | paging;
  special.cr3 = PAGE_TABLES;
  special.cr4 = PAE;
  special.efer = LME | LMA;
  if (ioctl(cpu->fd, KVM_SET_SREGS, &special) != 0) die("KVM_SET_SREGS: %m");
  if (ioctl(cpu->fd, KVM_SET_REGS, &registers) != 0) die("KVM_SET_REGS: %m");
}

static void make_cpu(struct cpu *cpu, uint64_t index) {
  cpu->index = index;
  cpu->fd = ioctl(vmm.machine, KVM_CREATE_VCPU, index);
  if (cpu->fd < 0) die("KVM_CREATE_VCPU: %m");
  cpu->state = mmap(NULL, vmm.state_size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
  if (cpu->state == MAP_FAILED) die("cannot map a processor's state: %m");
  set_cpuid(cpu->fd);
  set_registers(cpu);
}

/* What the guest asks for */

/* As a balloon does. Other processors go on meanwhile. */
static void take_block(uint64_t block) {
  if (madvise(host_of(block * BLOCK_PAGES), BLOCK_PAGES * PAGE, MADV_DONTNEED) != 0) die("madvise: %m");
}

/* As a disk does: the kernel writes to the guest's memory, and meets missing pages. */
static void read_disk(uint64_t page) {
  uint64_t words[WORDS];
  for (uint64_t i = 0; i < WORDS; i++) {
    words[i] = ~word_of(page, i);
  }
  off_t at = (off_t)(page * PAGE);
  if (pwrite(vmm.disk, words, PAGE, at) != (ssize_t)PAGE) die("the disk: %m");
  if (pread(vmm.disk, host_of(page), PAGE, at) != (ssize_t)PAGE) die("read(2) into the guest's memory: %m");
}

/* Whether the guest goes on. */
static bool answer(struct cpu *cpu) {
  struct kvm_regs registers;
  if (ioctl(cpu->fd, KVM_GET_REGS, &registers) != 0) die("KVM_GET_REGS: %m");
  switch (cpu->state->io.port) {
  case PORT_GIVE:
    take_block(registers.rdi);
    return true;
  case PORT_DISK:
    read_disk(registers.rdi);
    return true;
  case PORT_DONE:
    cpu->seen = registers.rdi, cpu->written = registers.rsi;
    return false;
  case PORT_WRONG:
    die("processor %llu: word %llu of page %llu is 0x%llx, in the image it is 0x%llx", (unsigned long long)cpu->index,
        registers.rsi, registers.rdi, registers.rcx, (unsigned long long)word_of(registers.rdi, registers.rsi));
  default:
    die("the guest wrote to port 0x%x", cpu->state->io.port);
  }
}

static void *run_cpu(void *argument) {
  struct cpu *cpu = argument;
  for (bool running = true; running;) {
    if (ioctl(cpu->fd, KVM_RUN, 0) != 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      die("KVM_RUN: %m%s", errno == EFAULT ? " (a fault of the guest was not answered)" : "");
    }
    switch (cpu->state->exit_reason) {
    case KVM_EXIT_IO:
      running = answer(cpu);
      break;
    case KVM_EXIT_MMIO: /* also what some hypervisors make of memory that they cannot get */
      die("the guest's access to 0x%llx has met no memory", cpu->state->mmio.phys_addr);
    default:
      die("the guest has stopped: exit reason %u", cpu->state->exit_reason);
    }
  }
  return NULL;
}

static void run(const char *image, const char *socket_path) {
  struct cpu cpus[CPUS] = {{0}};
  pthread_t threads[CPUS];
  uint64_t seen = 0, written = 0;
  vmm.image = open(image, O_RDONLY | O_CLOEXEC);
  if (vmm.image < 0) die("%s: %m", image);
  vmm.disk = memfd_create("disk", MFD_CLOEXEC);
  vmm.low = map_memory(LOW_BYTES);
  vmm.high = map_memory(HIGH_BYTES);
  if (socket_path != NULL) {
    hand_over(socket_path);
  } else {
    read_image(vmm.low, LOW_BYTES, 0);
    read_image(vmm.high, HIGH_BYTES, LOW_BYTES);
  }
  make_machine();
  for (uint64_t i = 0; i < CPUS; i++) {
    make_cpu(&cpus[i], i);
  }
  for (uint64_t i = 0; i < CPUS; i++) {
    if (pthread_create(&threads[i], NULL, run_cpu, &cpus[i]) != 0) die("no thread");
  }
  for (uint64_t i = 0; i < CPUS; i++) {
    pthread_join(threads[i], NULL);
    seen += cpus[i].seen, written += cpus[i].written;
  }
  if (seen != PAGES - FIRST_PAGE) die("the guest has seen %llu pages", (unsigned long long)seen);
  printf("%llu pages seen by both processors, %llu written to, %llu blocks given back\n", (unsigned long long)seen,
         (unsigned long long)written, (unsigned long long)BLOCKS / 8);
}

/* Commands */

static int can(void) {
  int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0) {
    printf("/dev/kvm: %m\n");
    return SKIPPED;
  }
  int version = ioctl(kvm, KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION) {
    printf("this kernel's KVM has the API version %d, not %d\n", version, KVM_API_VERSION);
    return SKIPPED;
  }
  if (open_uffd() < 0) {
    printf("no userfaultfd for faults of the kernel: %m\n");
    return SKIPPED;
  }
  return 0;
}

int main(int argc, char **argv) {
  const char *command = argc > 1 ? argv[1] : "";
  signal(SIGPROF, give_up);
  const struct itimerval time = {.it_value = {.tv_sec = SECONDS}};
  setitimer(ITIMER_PROF, &time, NULL);
  if (strcmp(command, "can") == 0 && argc == 2) return can();
  if (strcmp(command, "make") == 0 && argc == 3) {
    make(argv[2]);
    return 0;
  }
  if (strcmp(command, "run") == 0 && (argc == 3 || argc == 4)) {
    run(argv[2], argv[3]);
    return 0;
  }
  fputs("usage: vmm_kvm can | make IMAGE | run IMAGE [SOCKET]\n", stderr);
  return 2;
}
