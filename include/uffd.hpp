/*
 * uffd in C++17: handles that close themselves, and errors that are thrown. It adds nothing else to uffd.h, which says
 * what each function does: options are its structs, and get() gives a handle to every function of it.
 *
 * Errors     std::system_error, whose code() is the errno (std::generic_category) and whose what() begins with the
 *            sentence of uffd_errmsg().
 * Handles    Move-only. A handle that was moved from, or made without a value, is empty: get() is NULL. The order in
 *            which handles are destroyed does not matter, but a uffd::region is of use only while its loop lives.
 * Closing    Pages that are still missing when a loop is destroyed read as zeros: call complete() first. A handle must
 *            not be destroyed in a callback of its own loop.
 *
 * Compile it with -std=c++17 or newer, and link with libuffd.
 */
#ifndef UFFD_HPP
#define UFFD_HPP

#include <uffd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

namespace uffd {

/* Returns result, or throws what a function of uffd.h has failed with. */
inline int check(int result) {
  if (result < 0) throw std::system_error(-result, std::generic_category(), uffd_errmsg());
  return result;
}

/*
 * What a function of uffd.h makes as its last argument. For what has no short form below:
 *   uffd::resolver moved(uffd::made<uffd_resolver>(uffd_resolver_move, source.get(), offset));
 */
template <class T, class Function, class... Arguments> T *made(Function function, Arguments... arguments) {
  T *raw = nullptr;
  check(function(arguments..., &raw));
  return raw;
}

/* What all handles have: moved, not copied; close ends the use of the handle. */
template <class T, auto close> class handle {
  struct closer {
    void operator()(T *raw) const noexcept { static_cast<void>(close(raw)); }
  };
  std::unique_ptr<T, closer> raw_;

public:
  handle() = default;
  explicit handle(T *raw) noexcept : raw_(raw) {} /* takes raw over */
  T *get() const noexcept { return raw_.get(); }
  T *release() noexcept { return raw_.release(); } /* the caller closes it */
  void reset() noexcept { raw_.reset(); }
  explicit operator bool() const noexcept { return raw_ != nullptr; }
};

class object : public handle<uffd_object, uffd_close> {
public:
  using handle::handle;
  static object open(const uffd_open_opts *opts = nullptr) { return object(made<uffd_object>(uffd_open, opts)); }
  static object adopt(int fd) { return object(made<uffd_object>(uffd_adopt, fd)); }
  int fd() const { return check(uffd_fd(get())); }
};

class memory : public handle<uffd_memory, uffd_memory_close> {
public:
  using handle::handle;
  static memory map(std::uint64_t length, const uffd_map_opts *opts = nullptr) {
    return memory(made<uffd_memory>(uffd_map, length, opts));
  }
  static memory adopt(void *address, std::uint64_t length) {
    return memory(made<uffd_memory>(uffd_memory_adopt, address, length));
  }
  void *data() const noexcept { return uffd_memory_address(get()); }
  std::uint64_t size() const noexcept { return uffd_memory_length(get()); } /* bytes */
  void read(std::uint64_t offset, void *to, std::uint64_t length) {
    check(uffd_memory_read(get(), offset, to, length));
  }
  void write(std::uint64_t offset, const void *from, std::uint64_t length) {
    check(uffd_memory_write(get(), offset, from, length));
  }
  void discard(std::uint64_t offset, std::uint64_t length) { check(uffd_memory_discard(get(), offset, length)); }
};

class resolver : public handle<uffd_resolver, uffd_resolver_close> {
  template <class Function> static int ask(void *ctx, void *, const uffd_fault *fault, uffd_answer *answer) noexcept {
    try {
      if constexpr (std::is_void_v<std::invoke_result_t<Function &, const uffd_fault &, uffd_answer &>>) {
        (*static_cast<Function *>(ctx))(*fault, *answer);
        return 0;
      } else {
        return (*static_cast<Function *>(ctx))(*fault, *answer);
      }
    } catch (const std::system_error &error) {
      const int code = error.code().value();
      return uffd_set_errmsg(code > 0 ? code : EIO, "%s", error.what());
    } catch (const std::exception &error) {
      return uffd_set_errmsg(EIO, "%s", error.what());
    } catch (...) {
      return uffd_set_errmsg(EIO, "The callback has thrown what is no std::exception");
    }
  }

public:
  using handle::handle;
  static resolver zero() { return resolver(made<uffd_resolver>(uffd_resolver_zero)); }
  static resolver poison() { return resolver(made<uffd_resolver>(uffd_resolver_poison)); }
  static resolver bytes(std::string_view data) { /* copied */
    return resolver(made<uffd_resolver>(uffd_resolver_bytes, data.data(), std::uint64_t(data.size())));
  }
  static resolver pattern(std::string_view data) { /* copied, repeated without end */
    return resolver(made<uffd_resolver>(uffd_resolver_pattern, data.data(), std::uint64_t(data.size())));
  }
  static resolver file(const std::string &path, const uffd_file_opts *opts = nullptr) {
    return resolver(made<uffd_resolver>(uffd_resolver_file, path.c_str(), opts));
  }
  static resolver layers(std::initializer_list<uffd_layer> layers) {
    return resolver(made<uffd_resolver>(uffd_resolver_layers, layers.begin(), layers.size()));
  }
  /*
   * function(const uffd_fault &, uffd_answer &) returns nothing, or 0 or -errno. What it throws is its failure, and
   * on_error says what becomes of the page. Several handlers call the one copy of it at the same time; the rules of
   * uffd_callback_ops.resolve apply. With the inline engine it runs in a signal handler, where it must not throw.
   */
  template <class Function> static resolver callback(Function function, const char *kind = nullptr) {
    auto kept = std::make_unique<Function>(std::move(function));
    uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
    ops.resolve = ask<Function>;
    ops.destroy = [](void *ctx) { delete static_cast<Function *>(ctx); };
    resolver result(made<uffd_resolver>(uffd_resolver_callback, &ops, kept.get(), kind, nullptr, std::size_t(0)));
    static_cast<void>(kept.release()); /* destroy() deletes it */
    return result;
  }
};

inline void region_stays(uffd_region *) noexcept {} /* a region lives until its loop is closed */

class region : public handle<uffd_region, region_stays> {
public:
  using handle::handle;
  void prefetch(std::uint64_t offset = 0, std::uint64_t length = 0) { /* length 0: to the end */
    check(uffd_region_prefetch(get(), offset, length));
  }
  void complete() { check(uffd_region_complete(get())); }
  void remove() { check(uffd_region_remove(get())); }
};

class loop : public handle<uffd_loop, uffd_loop_close> {
public:
  using handle::handle;
  static loop create(const uffd_loop_opts *opts = nullptr) { return loop(made<uffd_loop>(uffd_loop_create, opts)); }
  region add(const memory &where, const resolver &what, const uffd_region_opts *opts = nullptr) {
    return region(made<uffd_region>(uffd_loop_add, get(), where.get(), what.get(), opts));
  }
  void start() { check(uffd_loop_start(get())); }
  void complete() { check(uffd_loop_complete(get())); }
  int step(int timeout_ms) { return check(uffd_loop_step(get(), timeout_ms)); } /* pump: faults answered */
  uffd_stats stats() const {
    uffd_stats stats = UFFD_STATS_INIT;
    check(uffd_loop_stats(get(), &stats));
    return stats;
  }
};

} // namespace uffd

#endif /* UFFD_HPP */
