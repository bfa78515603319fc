// What moves the rows of a paged cache: append, and copy_pages for copies on write and for swapping. The whole pool is compared,
// byte by byte, with an image that is kept by the definitions: nothing else may be written.
#include <catch2/catch.hpp>
#include <cstring>
#include <random>
#include <string>
#include <vector>
#include <smalti/block/attention/kv.hpp>
#include <smalti/ops/cache.hpp>
#include "support/arrays.hpp"
#include "support/contexts.hpp"
#if !defined(__CUDACC__)
#  include <sys/mman.h>
#endif

using namespace smalti;
using cache::page_pool;
using cache::plane;
using cache::pool_shape;
using cache::sequence;

namespace {

constexpr unsigned seed = 20261121;

// Several pages in a block and several blocks for a page, on every machine.
struct small_tiles {
  SMALTI_HD constexpr cache::move_tuning operator()(target) const { return {4, 32}; }
};

// Byte of an element of a plane, from the definition of the layout.
template <class Layout> std::size_t place(const pool_shape& s, int dim, std::size_t size, int layer, int page, int slot, int head, int e) {
  const std::size_t heads = std::size_t(s.heads_in_page()), of_page = (std::size_t(layer) * s.pages + page) * s.page * heads;
  const std::size_t row = of_page + (std::is_same_v<Layout, policy::nhd> ? slot * heads + head : std::size_t(head) * s.page + slot);
  return (row * dim + e) * size;
}

template <class From, class T, class Layout> void histories(const pool_shape& shape, float key_scale, float value_scale) {
  using storage = policy::kv_plain<T>;
  using paged = cache::paged<storage, Layout>;
  using append = cache::append<From, storage, Layout>;
  CAPTURE(seed, shape.pages, shape.page, shape.kv_heads, shape.key_dim, shape.value_dim, shape.layers, shape.per_head, shape.per_layer);
  const cache::paged_limits limits{.sequences = 8, .tokens = 200};
  test::for_each_context(seed, [&](const auto& context) {
    std::mt19937 g(seed);
    test::array<std::byte> metadata(paged::metadata_bytes(shape, limits));
    paged c;
    REQUIRE(c.attach(shape, limits, {metadata.data(), metadata.size()}).code == errc::ok);
    test::array<std::byte> memory(cache::pool_bytes<storage, Layout>(shape));
    std::memset(memory.data(), 0xFF, memory.size());                  // NaN, in every type
    page_pool pool;
    REQUIRE((cache::make_pool<storage, Layout>(shape, {memory.data(), memory.size()}, pool).code == errc::ok));
    std::vector<std::byte> image(memory.data(), memory.data() + memory.size());
    const auto at = [&](plane p, int layer, int page, int slot, int head, int e) {
      const int dim = p == plane::keys ? shape.key_dim : shape.value_dim;
      return std::size_t(pool.planes[int(p)] - memory.data()) + place<Layout>(shape, dim, sizeof(T), layer, page, slot, head, e);
    };
    const int most = 24, k_width = shape.kv_heads * shape.key_dim, v_width = shape.kv_heads * shape.value_dim, pad = 24 / int(sizeof(From)) * 2;
    test::array<int> slots(std::size_t(shape.tracks()) * most), source(64), target(64);
    std::vector<sequence> live;
    for (int step = 0; step < 45; ++step) {
      sequence s;
      const int what = live.empty() ? 0 : int(g() % 10);
      if (what == 0 && live.size() < 8) {
        REQUIRE(c.open(s).code == errc::ok);
        live.push_back(s);
      } else if (what == 1 && live.size() < 8) {
        REQUIRE(c.fork(live[g() % live.size()], s).code == errc::ok);
        live.push_back(s);
      } else if (what == 2) {
        const std::size_t i = g() % live.size();
        REQUIRE(c.close(live[i]).code == errc::ok);
        live.erase(live.begin() + std::ptrdiff_t(i));
      } else {
        s = live[g() % live.size()];
        const int n = int(g() % most);
        cache::page_moves moves{source.data(), target.data(), 64, 0};
        if (!c.append(s, n, {slots.data(), most}, moves)) continue;   // the pool is full: tested elsewhere
        const cache::copy_pages::args copies{.from = pool, .to = pool, .source = source.data(), .target = target.data(), .count = moves.count};
        if (step % 2) REQUIRE(cache::copy_pages::run(context, copies).code == errc::ok);
        else REQUIRE(cache::copy_pages::run(with_tuning<small_tiles>(context), copies).code == errc::ok);
        for (int i = 0; i < moves.count; ++i)
          for (int p = 0; p < 2; ++p) {
            const std::size_t bytes = std::size_t(cache::plane_bytes(pool.format, shape, plane(p)));
            for (int l = 0; l < shape.layers_in_page() && bytes > 0; ++l) {
              std::byte* first = image.data() + (pool.planes[p] - memory.data()) + std::ptrdiff_t(l) * shape.pages * std::ptrdiff_t(bytes);
              std::memcpy(first + std::size_t(target[i]) * bytes, first + std::size_t(source[i]) * bytes, bytes);
            }
          }
        const int skip = n > 3 ? int(g() % 3) : 0;                    // some tokens are padding
        for (int layer = 0; layer < shape.layers; ++layer) {
          const auto k = test::random_array<From>(std::size_t(n) * (k_width + pad), g, 3), v = test::random_array<From>(std::size_t(n) * (v_width + pad), g, 3);
          const int first_track = shape.track(layer, 0), layer_in_page = shape.per_layer ? 0 : layer;
          test::array<int> of_layer(std::size_t(shape.head_tracks()) * most);
          for (std::size_t i = 0; i < of_layer.size(); ++i) of_layer[i] = slots[std::size_t(first_track) * most + i];
          for (int h = 0; h < shape.head_tracks(); ++h)
            for (int i = 0; i < skip; ++i) of_layer[std::size_t(h) * most + i] = -1 - i;
          typename append::args x;
          x.pool = pool, x.layer = layer_in_page;
          x.k = {k.data(), n, k_width, k_width + pad};
          if (v_width > 0) x.v = {v.data(), n, v_width, v_width + pad};
          x.slots = of_layer.data(), x.slot_head_stride = shape.per_head ? most : 0;
          x.key_scale = key_scale, x.value_scale = value_scale;
          CHECK(append::workspace_bytes(context, x) == 0);
          const status st = append::run(context, x);
          CAPTURE(st.what, st.got, st.need);
          REQUIRE(st.code == errc::ok);
          test::wait(context);
          for (int i = skip; i < n; ++i)
            for (int h = 0; h < shape.kv_heads; ++h) {
              const int slot = of_layer[std::size_t(shape.per_head ? h : 0) * most + i], head = shape.per_head ? 0 : h;
              const auto keep = [&](plane p, const test::array<From>& x, int width, int dim, float factor) {
                for (int e = 0; e < dim; ++e) {
                  const From value = x[std::size_t(i) * (width + pad) + h * dim + e];
                  const float f = float(test::value(value)) * (sizeof(T) == 1 ? factor : 1.0f);
                  T t;
                  if constexpr (std::is_same_v<T, float>) t = f;
                  else t = narrow<T>(f);
                  std::memcpy(image.data() + at(p, layer_in_page, slot / shape.page, slot % shape.page, head, e), &t, sizeof t);
                }
              };
              keep(plane::keys, k, k_width, shape.key_dim, 1 / key_scale);
              if (shape.value_dim > 0) keep(plane::values, v, v_width, shape.value_dim, 1 / value_scale);
            }
        }
        test::wait(context);
        if (std::memcmp(image.data(), memory.data(), image.size()) != 0) FAIL("the pool differs from its image after step " << step);
        REQUIRE(memory.guarded());
      }
    }
    // One sequence to a buffer of the bytes it holds, and back into other pages.
    for (const sequence s : live) {
      const int held = c.pages_of(s);
      if (held == 0) continue;
      pool_shape small = shape;
      small.pages = held;
      test::array<std::byte> buffer(cache::pool_bytes<storage, Layout>(small));
      page_pool out;
      REQUIRE((cache::make_pool<storage, Layout>(small, {buffer.data(), buffer.size()}, out).code == errc::ok));
      std::ptrdiff_t bytes = 0;
      for (int p = 0; p < cache::plane_count; ++p) bytes += out.planes[p] ? std::ptrdiff_t(cache::plane_bytes(out.format, small, plane(p))) * held * shape.layers_in_page() : 0;
      REQUIRE(bytes == c.bytes(s));
      test::array<int> old(std::size_t(held), 1), fresh(std::size_t(held), 2);
      REQUIRE(c.swap_out(s, old.data(), held).code == errc::ok);
      REQUIRE(cache::copy_pages::run(context, {.from = pool, .to = out, .source = old.data(), .count = held}).code == errc::ok);
      test::wait(context);
      sequence other;                                                 // takes the pages that were just given up
      cache::page_moves moves{};
      if (c.open(other) && c.pages_for(other, 1) + held < c.free_pages()) REQUIRE(c.append(other, 1, {slots.data(), most}, moves).code == errc::ok);
      if (!c.swap_in(s, fresh.data(), held)) continue;
      REQUIRE(cache::copy_pages::run(with_tuning<small_tiles>(context), {.from = out, .to = pool, .target = fresh.data(), .count = held}).code == errc::ok);
      test::wait(context);
      std::vector<std::byte> before = image;
      for (int i = 0; i < held; ++i)
        for (int p = 0; p < 2; ++p) {
          const std::size_t size = std::size_t(cache::plane_bytes(pool.format, shape, plane(p)));
          for (int l = 0; l < shape.layers_in_page() && size > 0; ++l) {
            const std::ptrdiff_t first = (pool.planes[p] - memory.data()) + std::ptrdiff_t(l) * shape.pages * std::ptrdiff_t(size);
            std::memcpy(image.data() + first + std::size_t(fresh[i]) * size, before.data() + first + std::size_t(old[i]) * size, size);
          }
        }
      if (std::memcmp(image.data(), memory.data(), image.size()) != 0) FAIL("a sequence that was swapped out and in has other rows");
      REQUIRE(buffer.guarded());
      REQUIRE(memory.guarded());
      REQUIRE(c.audit().code == errc::ok);
      break;
    }
  });
}

pool_shape shape_of(int pages, int page, int heads, int key_dim, int value_dim, int layers = 1, bool per_head = false, bool per_layer = false) {
  return {pages, page, heads, key_dim, value_dim, layers, per_head, per_layer};
}

}  // namespace

TEST_CASE("append stores what paged says where it says", "[ops][cache]") {
  histories<bf16, bf16, policy::nhd>(shape_of(40, 16, 2, 64, 64), 1, 1);
  histories<bf16, bf16, policy::hnd>(shape_of(40, 16, 3, 96, 32, 2), 1, 1);
  histories<bf16, bf16, policy::nhd>(shape_of(90, 5, 2, 16, 144, 2, true, true), 1, 1);
  histories<float, fp16, policy::hnd>(shape_of(50, 7, 2, 32, 64, 2, false, true), 1, 1);
  histories<float, float, policy::hnd>(shape_of(60, 3, 2, 8, 20, 1, true), 1, 1);
  histories<fp16, fp16, policy::nhd>(shape_of(30, 8, 1, 576, 0), 1, 1);             // a latent cache: no values of their own
}
TEST_CASE("append scales and saturates 8-bit floats", "[ops][cache]") {
  histories<bf16, fp8_e4m3, policy::nhd>(shape_of(40, 16, 2, 64, 64), 0.37f, 0.004f);
  histories<float, fp8_e5m2, policy::hnd>(shape_of(20, 4, 2, 32, 16), 2, 0.001f);
}

TEST_CASE("copy_pages moves the pages of its lists and no others", "[ops][cache]") {
  using storage = policy::kv_plain<bf16>;
  test::for_each_context(seed, [&](const auto& context) {
    test::array<std::byte> memory(cache::pool_bytes<storage>(shape_of(7, 4, 2, 16, 8))), apart(cache::pool_bytes<storage>(shape_of(9, 4, 2, 16, 8)));
    for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = std::byte(i * 7 % 251);
    std::memset(apart.data(), 0xFF, apart.size());
    page_pool from, to;
    REQUIRE(cache::make_pool<storage>(shape_of(7, 4, 2, 16, 8), {memory.data(), memory.size()}, from).code == errc::ok);
    REQUIRE(cache::make_pool<storage>(shape_of(9, 4, 2, 16, 8), {apart.data(), apart.size()}, to).code == errc::ok);
    test::array<int> source(5), target(5);
    for (int i = 0; i < 5; ++i) source[i] = 6 - i, target[i] = 2 + i;
    REQUIRE(cache::copy_pages::run(with_tuning<small_tiles>(context), {.from = from, .to = to, .source = source.data(), .target = target.data(), .count = 5}).code == errc::ok);
    test::wait(context);
    for (const plane p : {plane::keys, plane::values}) {
      const std::size_t bytes = std::size_t(cache::plane_bytes(from.format, from.shape, p));
      for (int page = 0; page < 9; ++page)
        for (std::size_t b = 0; b < bytes; ++b)
          REQUIRE(to.planes[int(p)][std::size_t(page) * bytes + b] == (page >= 2 && page < 7 ? from.planes[int(p)][std::size_t(8 - page) * bytes + b] : std::byte(0xFF)));
    }
    REQUIRE(apart.guarded());
  });
}

TEST_CASE("a pool is read as attention reads it", "[ops][cache]") {
  test::array<std::byte> memory(1 << 16);
  const pool_shape s = shape_of(6, 4, 3, 16, 8, 2);
  const auto compare = [&](auto layout) {
    using layout_t = decltype(layout);
    page_pool pool;
    REQUIRE((cache::make_pool<policy::kv_plain<bf16>, layout_t>(s, {memory.data(), memory.size()}, pool).code == errc::ok));
    for (const plane p : {plane::keys, plane::values})
      for (int l = 0; l < s.layers; ++l) {
        const int dim = p == plane::keys ? s.key_dim : s.value_dim;
        const view<bf16> rows = cache::pool_rows<bf16>(pool, p, l);
        const auto seen = attention::pool_of(layout, rows.data, s.pages, s.page, s.kv_heads, dim);
        CHECK(rows.rows == s.pages * s.page * s.kv_heads);
        for (int page = 0; page < s.pages; ++page)
          for (int slot = 0; slot < s.page; ++slot)
            for (int h = 0; h < s.kv_heads; ++h)
              for (int e = 0; e < dim; ++e) {
                const std::byte* want = pool.planes[int(p)] + place<layout_t>(s, dim, 2, l, page, slot, h, e);
                const bf16* row = rows.data + layout.row(page, slot, h, s.kv_heads, s.page) * std::ptrdiff_t(rows.stride) + e;
                REQUIRE(reinterpret_cast<const std::byte*>(row) == want);
                REQUIRE(reinterpret_cast<const std::byte*>(seen.data + page * seen.page_stride + slot * seen.slot_stride + h * seen.head_stride + e) == want);
              }
      }
  };
  compare(policy::nhd{});
  compare(policy::hnd{});
}

#if !defined(__CUDACC__)
TEST_CASE("a pool may be larger than 32 bits can say", "[ops][cache]") {
  using storage = policy::kv_plain<bf16>;
  const pool_shape s = shape_of(1 << 18, 16, 8, 128, 128);            // 2^32 elements of keys; nearly none is ever touched
  const std::size_t bytes = cache::pool_bytes<storage>(s);
  REQUIRE(bytes == std::size_t(1) << 34);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    WARN("no address space for a pool of 16 GiB: not tested here");
    return;
  }
  page_pool pool;
  REQUIRE(cache::make_pool<storage>(s, {memory, bytes}, pool).code == errc::ok);
  std::mt19937 g(seed);
  const auto k = test::random_array<bf16>(2 * 1024, g), v = test::random_array<bf16>(2 * 1024, g);
  const int slots[] = {(s.pages - 1) * 16 + 15, (s.pages / 2) * 16 + 1}, from = s.pages - 1, to = s.pages - 2;
  using append = cache::append<bf16, storage>;
  append::args x;
  x.pool = pool, x.k = {k.data(), 2, 1024, 1024}, x.v = {v.data(), 2, 1024, 1024}, x.slots = slots;
  REQUIRE(append::run(host_context{1}, x).code == errc::ok);
  REQUIRE(cache::copy_pages::run(host_context{2}, {.from = pool, .to = pool, .source = &from, .target = &to, .count = 1}).code == errc::ok);
  const auto row = [&](plane p, std::size_t slot) { return pool.planes[int(p)] + slot * 2048; };
  for (int i = 0; i < 2; ++i) {
    CHECK(std::memcmp(row(plane::keys, std::size_t(slots[i])), k.data() + 1024 * i, 2048) == 0);
    CHECK(std::memcmp(row(plane::values, std::size_t(slots[i])), v.data() + 1024 * i, 2048) == 0);
  }
  CHECK(std::memcmp(row(plane::keys, std::size_t(to) * 16 + 15), k.data(), 2048) == 0);
  CHECK(std::memcmp(row(plane::values, std::size_t(to) * 16 + 15), v.data(), 2048) == 0);
  munmap(memory, bytes);
}
#endif

TEST_CASE("append refuses what would write elsewhere", "[ops][cache]") {
  using append = cache::append<bf16, policy::kv_plain<bf16>>;
  const auto context = test::any_context();
  const pool_shape s = shape_of(4, 4, 2, 16, 8, 2), heads = shape_of(4, 4, 2, 16, 8, 2, true);
  test::array<std::byte> memory(cache::pool_bytes<policy::kv_plain<bf16>>(s)), eight(1 << 12);
  test::array<bf16> k(3 * 32), v(3 * 16);
  test::array<int> slots(6);
  for (int& slot : slots) slot = 3;
  append::args good;
  REQUIRE(cache::make_pool<policy::kv_plain<bf16>>(s, {memory.data(), memory.size()}, good.pool).code == errc::ok);
  good.k = {k.data(), 3, 32, 32}, good.v = {v.data(), 3, 16, 16}, good.slots = slots.data();
  REQUIRE(append::check(context, good).code == errc::ok);
  const auto refused = [&](auto spoil, errc code, const char* what) {
    append::args x = good;
    spoil(x);
    const status st = append::run(context, x);
    CHECK(st.code == code);
    CHECK(std::string(st.what) == what);
  };
  refused([&](append::args& x) { REQUIRE(cache::make_pool<policy::kv_plain<fp16>>(s, {memory.data(), memory.size()}, x.pool).code == errc::ok); }, errc::bad_value,
          "pool: it holds another storage than this append writes: codecs are not mixed in one pool");
  refused([&](append::args& x) { REQUIRE((cache::make_pool<policy::kv_plain<bf16>, policy::hnd>(s, {memory.data(), memory.size()}, x.pool).code == errc::ok)); }, errc::bad_value,
          "pool: it has another layout than this append writes (nhd 0, hnd 1)");
  refused([](append::args& x) { x.pool.planes[1] = nullptr; }, errc::null_pointer, "pool: its keys or values have no memory: use make_pool");
  refused([](append::args& x) { x.pool.planes[0] += 2; }, errc::misaligned, "pool: its keys and values must begin on multiples of 16 bytes");
  refused([](append::args& x) { x.pool.shape.pages = 0; }, errc::bad_shape, "pages must be at least 1: it counts the pages of the pool");
  refused([](append::args& x) { x.layer = 2; }, errc::bad_value, "layer must be one of the layers that a page holds");
  refused([](append::args& x) { x.layer = -1; }, errc::bad_value, "layer must be one of the layers that a page holds");
  refused([](append::args& x) { x.k.cols = 24; }, errc::bad_shape, "k must have kv_heads * key_dim columns");
  refused([](append::args& x) { x.v.cols = 24; }, errc::bad_shape, "v must have kv_heads * value_dim columns");
  refused([](append::args& x) { x.k.rows = -1; }, errc::bad_shape, "k must not have a negative extent");
  refused([](append::args& x) { x.v.rows = 2; }, errc::bad_shape, "v must have as many tokens as k");
  refused([](append::args& x) { x.k.stride = 24; }, errc::bad_shape, "the rows of k must not overlap: the stride is less than the number of columns");
  refused([](append::args& x) { x.k.data = nullptr; }, errc::null_pointer, "k has tokens but no memory: its pointer is null");
  refused([](append::args& x) { x.v.data = nullptr; }, errc::null_pointer, "v has tokens but no memory: its pointer is null");
  refused([](append::args& x) { x.k.data += 1; }, errc::misaligned, "k must begin on a multiple of 16 bytes, and its stride and key_dim be multiples of 16 bytes");
  refused([](append::args& x) { x.v.stride = 18; }, errc::misaligned, "v must begin on a multiple of 16 bytes, and its stride and value_dim be multiples of 16 bytes");
  refused([](append::args& x) { x.slots = nullptr; }, errc::null_pointer, "slots is null: it needs an entry for each token");
  refused([](append::args& x) { x.slot_head_stride = 3; }, errc::bad_shape, "slot_head_stride must be 0: heads share their pages");
  refused([&](append::args& x) { REQUIRE(cache::make_pool<policy::kv_plain<bf16>>(heads, {memory.data(), memory.size()}, x.pool).code == errc::ok); }, errc::bad_shape,
          "slot_head_stride must be at least the number of tokens: each head has pages of its own");
  refused([](append::args& x) { x.key_scale = 2; }, errc::bad_value, "key_scale and value_scale must be 1: only elements of 8 bits are scaled");
  refused([](append::args& x) { x.value_scale = 0; }, errc::bad_value, "key_scale and value_scale must be positive, finite, and so must 1 / scale");
  refused([](append::args& x) { x.value_scale = std::numeric_limits<float>::infinity(); }, errc::bad_value, "key_scale and value_scale must be positive, finite, and so must 1 / scale");
  refused([](append::args& x) { x.key_scale = 1e-40f; }, errc::bad_value, "key_scale and value_scale must be positive, finite, and so must 1 / scale");
  refused([](append::args& x) { x.k.data = reinterpret_cast<const bf16*>(x.pool.planes[1]); }, errc::aliased, "the pool must not overlap k, v or slots");
  refused([](append::args& x) { x.slots = reinterpret_cast<const int*>(x.pool.planes[0]); }, errc::aliased, "the pool must not overlap k, v or slots");
  if constexpr (is_host<std::remove_const_t<decltype(context)>>) {
    slots[2] = 16;
    refused([](append::args&) {}, errc::bad_value, "slots names a slot past the pool: use -1 to store nothing");
    slots[2] = 3;
  }
  refused([](append::args& x) { x.k.rows = x.v.rows = 0, x.k.data = x.v.data = nullptr, x.slots = nullptr; }, errc::ok, "");     // nothing to do is no error
  refused([](append::args& x) { x.keys = false; }, errc::bad_value, "keys, values and balance are for storages of integers: leave them");
  refused([](append::args& x) { x.tokens = 1; }, errc::bad_shape, "tokens counts the entries of rows: 0 without them");
  refused([](append::args& x) { x.rows_head_stride = 2; }, errc::bad_shape, "rows_head_stride must be 0, or at least the tokens of rows");
  // Rows by a list: as if they lay like this.
  for (std::size_t i = 0; i < k.size(); ++i) k[i] = narrow<bf16>(float(i));
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = narrow<bf16>(-float(i));
  test::array<int> rows(2);
  rows[0] = 2, rows[1] = 0, slots[0] = 5, slots[1] = 9;
  if constexpr (is_host<std::remove_const_t<decltype(context)>>) {
    rows[1] = 3;
    refused([&](append::args& x) { x.rows = rows.data(), x.tokens = 2; }, errc::bad_value, "rows names a row that k and v do not have");
    rows[1] = 0;
  }
  append::args listed = good;
  listed.rows = rows.data(), listed.tokens = 2;
  std::memset(memory.data(), 0, memory.size());
  REQUIRE(append::run(context, listed).code == errc::ok);
  test::wait(context);
  test::array<std::byte> direct(memory.size());
  std::memset(direct.data(), 0, direct.size());
  append::args one = good;
  REQUIRE(cache::make_pool<policy::kv_plain<bf16>>(s, {direct.data(), direct.size()}, one.pool).code == errc::ok);
  for (int i = 0; i < 2; ++i) {
    one.k = {k.data() + rows[i] * 32, 1, 32, 32}, one.v = {v.data() + rows[i] * 16, 1, 16, 16}, one.slots = slots.data() + i;
    REQUIRE(append::run(context, one).code == errc::ok);
  }
  test::wait(context);
  CHECK(std::memcmp(memory.data(), direct.data(), memory.size()) == 0);
  CHECK(memory.guarded());
  const pool_shape latent = shape_of(4, 4, 1, 32, 0);
  append::args x;
  REQUIRE(cache::make_pool<policy::kv_plain<bf16>>(latent, {memory.data(), memory.size()}, x.pool).code == errc::ok);
  x.k = {k.data(), 3, 32, 32}, x.v = {v.data(), 3, 16, 16}, x.slots = slots.data();
  CHECK(std::string(append::check(context, x).what) == "v must be empty: the pool has no values (value_dim 0)");
}

TEST_CASE("copy_pages refuses what would write elsewhere", "[ops][cache]") {
  using storage = policy::kv_plain<bf16>;
  using cache::copy_pages;
  const auto context = test::any_context();
  const pool_shape s = shape_of(4, 4, 2, 16, 8, 2), more = shape_of(6, 4, 2, 16, 8, 2), other = shape_of(4, 4, 2, 16, 16, 2);
  test::array<std::byte> memory(cache::pool_bytes<storage>(other)), apart(cache::pool_bytes<storage>(more));
  test::array<int> source(3), target(3);
  for (int i = 0; i < 3; ++i) source[i] = i, target[i] = 3;
  copy_pages::args good;
  REQUIRE(cache::make_pool<storage>(s, {memory.data(), memory.size()}, good.from).code == errc::ok);
  REQUIRE(cache::make_pool<storage>(more, {apart.data(), apart.size()}, good.to).code == errc::ok);
  good.source = source.data(), good.target = target.data(), good.count = 1;
  REQUIRE(copy_pages::check(context, good).code == errc::ok);
  const auto refused = [&](auto spoil, errc code, const char* what) {
    copy_pages::args x = good;
    spoil(x);
    const status st = copy_pages::run(context, x);
    CHECK(st.code == code);
    CHECK(std::string(st.what) == what);
  };
  refused([](copy_pages::args& x) { x.count = -1; }, errc::bad_shape, "count must not be negative");
  refused([](copy_pages::args& x) { x.to.format = policy::kv_plain<fp16>::format; }, errc::bad_value, "from and to must hold one storage: codecs are not mixed in one pool");
  refused([](copy_pages::args& x) { x.to.order = policy::kv_order::hnd; }, errc::bad_value, "from and to must have one layout (nhd 0, hnd 1)");
  refused([](copy_pages::args& x) { x.to.shape.value_dim = 16; }, errc::bad_shape, "from and to must have pages of one shape: tokens, heads, channels, layers");
  refused([](copy_pages::args& x) { x.to.planes[0] = nullptr; }, errc::null_pointer, "to: a plane has no memory: use make_pool");
  refused([](copy_pages::args& x) { x.from.planes[1] += 8; }, errc::misaligned, "from: its planes must begin on multiples of 16 bytes");
  refused([](copy_pages::args& x) { x.source = nullptr, x.count = 5; }, errc::bad_shape, "count must be at most the pages of from where source is null");
  refused([](copy_pages::args& x) { x.target = nullptr, x.count = 7; }, errc::bad_shape, "count must be at most the pages of to where target is null");
  refused([](copy_pages::args& x) { x.to = x.from, x.source = nullptr; }, errc::null_pointer, "source and target must be given where from and to are one pool");
  refused([](copy_pages::args& x) { x.to = x.from, x.to.planes[1] = x.from.planes[0]; }, errc::aliased, "from and to must be one pool, or not overlap");
  refused([](copy_pages::args& x) { x.target = reinterpret_cast<const int*>(x.to.planes[1]); }, errc::aliased, "to must not overlap source or target");
  if constexpr (is_host<std::remove_const_t<decltype(context)>>) {
    refused([&](copy_pages::args& x) { source[0] = 4; static_cast<void>(x); }, errc::bad_value, "source names a page outside its pool");
    source[0] = 0;
    refused([&](copy_pages::args& x) { target[0] = -1; static_cast<void>(x); }, errc::bad_value, "target names a page outside its pool");
    target[0] = 3;
    refused([&](copy_pages::args& x) { x.to = x.from, x.count = 2; }, errc::aliased, "a page is the target of two copies");
    target[1] = 0;
    refused([&](copy_pages::args& x) { x.to = x.from, x.count = 2; }, errc::aliased, "a page is both source and target: run the first copy before the second");
  }
  page_pool pool;
  const workspace none{}, odd{memory.data() + 16, memory.size()}, short_of{memory.data(), 100};
  CHECK(cache::make_pool<storage>(s, none, pool).code == errc::null_pointer);
  CHECK(cache::make_pool<storage>(s, odd, pool).code == errc::misaligned);
  CHECK(cache::make_pool<storage>(s, short_of, pool).code == errc::workspace_too_small);
  CHECK(pool.planes[0] == nullptr);
}
