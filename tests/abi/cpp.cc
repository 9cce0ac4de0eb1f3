/* uffd.hpp: memory from bytes and from a callback, handles that move and close, errors that are thrown. */
#include <uffd.hpp>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>

static_assert(std::is_nothrow_move_constructible_v<uffd::object> && !std::is_copy_constructible_v<uffd::object>);
static_assert(std::is_nothrow_move_constructible_v<uffd::memory> && !std::is_copy_constructible_v<uffd::memory>);
static_assert(std::is_nothrow_move_constructible_v<uffd::resolver> && !std::is_copy_constructible_v<uffd::resolver>);
static_assert(std::is_nothrow_move_constructible_v<uffd::region> && !std::is_copy_constructible_v<uffd::region>);
static_assert(std::is_nothrow_move_constructible_v<uffd::loop> && !std::is_copy_constructible_v<uffd::loop>);
static_assert(sizeof(uffd::memory) == sizeof(void *));

#define CHECK(truth)                                                                                                   \
  do {                                                                                                                 \
    if (!(truth)) {                                                                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #truth);                                                 \
      std::exit(1);                                                                                                    \
    }                                                                                                                  \
  } while (0)

namespace {

/* The std::system_error that function throws must have this code, and a sentence that holds this text. */
template <class Function> void check_throws(Function function, std::errc code, const char *text) {
  bool thrown = false;
  try {
    function();
  } catch (const std::system_error &error) {
    thrown = true;
    CHECK(error.code() == code);
    CHECK(std::strstr(error.what(), text) != nullptr);
  }
  CHECK(thrown);
}

std::string read_page(uffd::memory &memory, unsigned page, std::size_t length) {
  std::string text(length, '\0');
  memory.read(page * 4096u, text.data(), length);
  return text;
}

/* Counts its living copies: the library must delete the one that it was given. */
struct counted {
  static inline std::atomic<int> living{0};
  std::string text;
  explicit counted(std::string words) : text(std::move(words)) { living++; }
  counted(counted &&other) noexcept : text(std::move(other.text)) { living++; }
  counted(const counted &) = delete;
  ~counted() { living--; }
  int operator()(const uffd_fault &fault, uffd_answer &answer) {
    if (fault.offset == 2 * 4096u) throw std::system_error(ENODATA, std::generic_category(), "no data for page 2");
    if (fault.offset == 3 * 4096u) throw 3;
    if (fault.offset == 4 * 4096u) return -ENXIO;
    answer.kind = UFFD_ANSWER_BYTES;
    answer.data = text.data();
    answer.length = text.size();
    return 0;
  }
};

void fills_from_bytes_and_a_callback() {
  uffd::resolver ground = uffd::resolver::bytes("the ground");
  uffd::resolver own = uffd::resolver::callback([](const uffd_fault &, uffd_answer &answer) {
    answer.kind = UFFD_ANSWER_BYTES; /* a callback that returns nothing succeeds */
    answer.data = "clone-7";
    answer.length = 7;
  });
  uffd::resolver layers = uffd::resolver::layers({{0, 0, ground.get(), 0}, {4096, 4096, own.get(), 0}});
  uffd::memory memory = uffd::memory::map(2 * 4096);
  uffd::loop loop = uffd::loop::create();
  uffd::region region = loop.add(memory, layers);
  CHECK(std::memcmp(memory.data(), "the ground", 11) == 0);
  CHECK(read_page(memory, 1, 8) == std::string("clone-7\0", 8));
  CHECK(loop.stats().faults == 2 && loop.stats().policy_calls == 1);
  memory.write(0, "changed", 7);
  memory.discard(0, 4096);
  CHECK(read_page(memory, 0, 10) == "the ground");
  region.complete();
  check_throws([&] { region.prefetch(); }, std::errc::no_such_file_or_directory, "complete");
}

void handles_move_and_close() {
  {
    uffd::resolver first = uffd::resolver::callback(counted("moved"));
    CHECK(counted::living == 1);
    uffd_resolver *raw = first.get();
    uffd::resolver second = std::move(first);
    CHECK(!first && second.get() == raw);
    uffd::loop loop;
    CHECK(!loop && loop.get() == nullptr);
    uffd::memory memory = uffd::memory::map(4096);
    loop = uffd::loop::create();
    loop.add(memory, second);
    second.reset(); /* the loop uses it as long as it serves the region */
    CHECK(!second && counted::living == 1);
    uffd::loop last = std::move(loop);
    CHECK(read_page(memory, 0, 5) == "moved");
    uffd::memory another = uffd::memory(memory.release());
    CHECK(!memory && another.size() == 4096);
  }
  CHECK(counted::living == 0);
  uffd::object object = uffd::object::open();
  CHECK(object.fd() >= 0);
  object = uffd::object();
  check_throws([&] { object.fd(); }, std::errc::bad_file_descriptor, "");
}

void errors_are_thrown() {
  uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  opts.kind = 77;
  check_throws([&] { uffd::memory::map(4096, &opts); }, std::errc::invalid_argument, "77");
  check_throws([] { uffd::resolver::file("/no/such/file"); }, std::errc::no_such_file_or_directory, "/no/such/file");
  uffd_callback_ops none = UFFD_CALLBACK_OPS_INIT;
  uffd_resolver *raw = nullptr;
  check_throws([&] { uffd::check(uffd_resolver_callback(&none, nullptr, nullptr, nullptr, 0, &raw)); },
               std::errc::invalid_argument, "resolve");

  uffd::memory source = uffd::memory::map(4096);
  check_throws([&] { uffd::made<uffd_resolver>(uffd_resolver_move, source.get(), UINT64_C(1) << 20); },
               std::errc::result_out_of_range, "");

  uffd::memory memory = uffd::memory::map(5 * 4096);
  check_throws([&] { memory.discard(0, 4096); }, std::errc::no_such_file_or_directory, "");
  static std::string said;
  uffd_loop_opts loop_opts = UFFD_LOOP_OPTS_INIT;
  loop_opts.failed = [](void *, int, const char *sentence) { (said += sentence) += '\n'; };
  {
    struct uffd_probe probe = UFFD_PROBE_INIT;
    uffd::check(uffd_probe(&probe));
    if ((probe.features & UFFD_FEAT_POISON) == 0) loop_opts.on_error = UFFD_ON_ERROR_ZERO;
    loop_opts.engine = UFFD_ENGINE_THREADS; /* throwing does not go with a signal handler */
    uffd::loop loop = uffd::loop::create(&loop_opts);
    loop.add(memory, uffd::resolver::callback(counted("x"), "mine"));
    for (unsigned page = 2; page <= 4; page++) {
      if (loop_opts.on_error == UFFD_ON_ERROR_ZERO) {
        CHECK(read_page(memory, page, 1) == std::string(1, '\0'));
      } else {
        check_throws([&] { read_page(memory, page, 1); }, static_cast<std::errc>(EHWPOISON), "");
      }
    }
    CHECK(read_page(memory, 0, 1) == "x");
    check_throws([&] { loop.step(0); }, std::errc::invalid_argument, "");
  } /* the loop's threads are gone: said is whole */
  CHECK(said.find("no data for page 2") != std::string::npos);
  CHECK(said.find("no std::exception") != std::string::npos);
  CHECK(said.find("mine resolver failed at offset 16384") != std::string::npos);
}

} // namespace

int main() {
  struct uffd_probe probe = UFFD_PROBE_INIT;
  uffd::check(uffd_probe(&probe));
  if (!probe.usable) {
    std::puts("userfaultfd is refused here");
    return 77;
  }
  if (probe.user_mode_only) {
    std::puts("only user-mode-only objects here: memory.read() needs more with handler threads");
    return 77;
  }
  fills_from_bytes_and_a_callback();
  handles_move_and_close();
  errors_are_thrown();
  return 0;
}
