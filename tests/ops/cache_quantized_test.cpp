// Appends to storages of integers: what is stored is the nearest number the storage can say, nothing else is written, and what would
// be silently wrong is refused.
#include <catch2/catch.hpp>
#include <string>
#include "ops/quantized_kv.hpp"

using namespace smalti;
namespace policy = smalti::policy;
using policy::kv_axis;
using policy::kv_part;
using policy::kv_scaling;

namespace {

constexpr unsigned seed = 20261124;

// Half of a scale, what rounding to the scale's type did to scale and minimum (digits: 11 for fp16, 8 for bf16, 24 for float;
// subnormal fp16 at most 2^-25 absolute), and float's own rounding in the quotient.
template <class Storage> double bound(const oracle::kv_codes& what, double scale, double minimum) {
  const double unit = std::is_same_v<typename Storage::scale, float> ? 0x1p-24 : std::is_same_v<typename Storage::scale, bf16> ? 0x1p-8 : 0x1p-11;
  const double most = what.affine ? (1 << what.bits) - 1 : (1 << (what.bits - 1)) - 1;
  return scale / 2 + most * scale * (unit + 0x1p-20) + std::abs(minimum) * unit + (most + 1) * 0x1p-25;
}

template <class Storage, int D, class Cache, kv_part Part> void compare(const Cache& cache, int s) {
  const auto what = test::codes_of<Storage, Part, D>();
  const auto& given = Part == kv_part::key ? cache.keys[s] : cache.values[s];
  for (int j = 0; j < cache.lengths[s]; ++j)
    for (int h = 0; h < cache.shape.kv_heads; ++h)
      for (int c = 0; c < D; ++c) {
        const auto* of = cache.template scales<Part>(s, h, j);
        const double scale = test::scale_value(of[c / what.channels]), minimum = what.affine ? test::scale_value(of[what.scales() + c / what.channels]) : 0;
        const double want = given[(std::size_t(j) * cache.shape.kv_heads + h) * D + c], got = what.exact(what.code(cache.template row<Part>(s, h, j), c), scale, minimum);
        if (!(std::abs(got - want) <= bound<Storage>(what, scale, minimum))) {
          CAPTURE(s, j, h, c, got, want, scale, minimum);
          REQUIRE(std::abs(got - want) <= bound<Storage>(what, scale, minimum));
        }
      }
}

template <class Storage, class Layout, int D> void round_trip(const std::vector<int>& lengths, int page, bool per_head, int piece) {
  test::for_each_context(seed, [&](const auto& context) {
    std::mt19937 g(seed + D + page);
    CAPTURE(seed, D, page, per_head, Storage::bits, Storage::affine);
    test::quantized_cache<Storage, Layout, D> cache(lengths, page, 2, per_head, g);
    // In pieces, so that later tokens join pages that are partly filled.
    for (int first = 0; first < *std::max_element(lengths.begin(), lengths.end()); first += piece)
      for (int s = 0; s < int(lengths.size()); ++s)
        if (first < lengths[s]) {
          const status st = cache.store(context, s, first, std::min(lengths[s], first + piece));
          CAPTURE(st.what, st.got, st.need);
          REQUIRE(st.code == errc::ok);
        }
    REQUIRE(cache.memory.guarded());
    for (int s = 0; s < int(lengths.size()); ++s) {
      compare<Storage, D, decltype(cache), kv_part::key>(cache, s);
      compare<Storage, D, decltype(cache), kv_part::value>(cache, s);
    }
    // What no token has is as it was: the rows that were written are set back to ones, and then all bytes are.
    const auto clear = [&](auto part) {
      const auto what = test::codes_of<Storage, part.value, D>();
      for (int s = 0; s < int(lengths.size()); ++s)
        for (int j = 0; j < lengths[s]; ++j)
          for (int h = 0; h < 2; ++h) {
            const auto* row = cache.template row<part.value>(s, h, j);
            const auto* scales = cache.template scales<part.value>(s, h, j);
            std::memset(const_cast<std::uint32_t*>(row), 0xff, sizeof(*row) * what.words());
            std::memset(static_cast<void*>(const_cast<typename Storage::scale*>(scales)), 0xff, sizeof(*scales) * what.width());
          }
    };
    clear(std::integral_constant<kv_part, kv_part::key>{});
    clear(std::integral_constant<kv_part, kv_part::value>{});
    std::size_t changed = 0;
    const auto planes = cache.pool.planes;
    for (int p = 0; p < cache::plane_count; ++p)
      for (long long i = 0; i < cache::plane_bytes(cache.pool.format, cache.shape, cache::plane(p)) * cache.shape.pages; ++i) changed += planes[p][i] != std::byte{0xff};
    REQUIRE(changed == 0);
  });
}

}  // namespace

TEST_CASE("append stores the nearest integers", "[ops][cache][quantized]") {
  round_trip<policy::kv_int8<>, policy::nhd, 64>({37, 0, 5}, 8, false, 11);
  round_trip<policy::kv_int4<32>, policy::hnd, 128>({19, 33}, 16, true, 33);
#if !defined(__CUDACC__)
  // Groups and heads that are no powers of two: the host's only.
  round_trip<policy::kv_integer<4, kv_scaling::symmetric, bf16, kv_axis::channels, 48>, policy::nhd, 96>({20}, 8, false, 7);
#endif
  round_trip<policy::kv_per_channel_keys<2, 32>, policy::nhd, 64>({96, 32}, 64, false, 32);
  round_trip<policy::kv_per_channel_keys<4, 16, float>, policy::hnd, 64>({64, 16}, 32, true, 64);
}

TEST_CASE("groups that are constant, zero or not finite", "[ops][cache][quantized]") {
  test::for_each_context(seed, [&](const auto& context) {
    std::mt19937 g(seed);
    test::quantized_cache<policy::kv_int4<32>, policy::nhd, 64> cache({6}, 8, 2, false, g);
    for (int c = 0; c < 64; ++c) {
      const auto at = [&](int j) { return std::size_t(j * 2) * 64 + c; };
      cache.keys[0][at(0)] = 0, cache.keys[0][at(1)] = 2.5f, cache.keys[0][at(2)] = c < 32 ? 1.0f : -3.0f;
      if (c == 40) cache.keys[0][at(3)] = INFINITY, cache.keys[0][at(4)] = NAN;
    }
    REQUIRE(cache.store(context, 0, 0, 6).code == errc::ok);
    const auto stored = [&](int j, int c) { return cache.template stored<kv_part::key>(0, 0, j, c); };
    for (int c = 0; c < 64; ++c) {
      CHECK(stored(0, c) == 0);
      CHECK(stored(1, c) == 2.5f);
      CHECK(stored(2, c) == (c < 32 ? 1.0f : -3.0f));
      for (int j : {3, 4}) CHECK(std::isnan(stored(j, c)) == (c >= 32));      // seen by whoever multiplies with it, in its group only
    }
  });
}

#if !defined(__CUDACC__)
namespace {
template <class Storage> struct good {
  using append = cache::append<bf16, Storage, policy::nhd, 64>;
  cache::pool_shape shape{.pages = 3, .page = 32, .kv_heads = 2, .key_dim = 64, .value_dim = 64};
  test::array<std::byte> memory;
  test::array<bf16> k{64 * 128}, v{64 * 128};
  test::array<int> slots{64};
  cache::page_pool pool{};
  good() : memory(cache::pool_bytes<Storage>(shape)) {
    std::memset(memory.data(), 0, memory.size());
    REQUIRE(cache::make_pool<Storage>(shape, {memory.data(), memory.size()}, pool).code == errc::ok);
    for (auto* x : {&k, &v}) for (bf16& e : *x) e = bf16{0};
    for (int i = 0; i < 64; ++i) slots[i] = 32 + i;
  }
  typename append::args args() { return {.pool = pool, .k = {k.data(), 64, 128, 128}, .v = {v.data(), 64, 128, 128}, .slots = slots.data()}; }
};
template <class Storage, class F> void refuses(errc code, const std::string& sentence, F change) {
  good<Storage> all;
  auto x = all.args();
  REQUIRE(good<Storage>::append::check(test::any_context(), x).code == errc::ok);
  change(x, all);
  const status st = good<Storage>::append::run(test::any_context(), x);
  CAPTURE(sentence, st.what);
  REQUIRE(st.code == code);
  REQUIRE(std::string(st.what).find(sentence) != std::string::npos);
  for (std::size_t i = 0; i < all.memory.size(); ++i) REQUIRE(all.memory[i] == std::byte{0});       // nothing was stored
}
}  // namespace

TEST_CASE("appends to integers refuse what would be silently wrong", "[ops][cache][quantized]") {
  using int8 = policy::kv_int8<>;
  using by_channel = policy::kv_per_channel_keys<2, 32>;
  refuses<int8>(errc::bad_value, "codecs are not mixed", [](auto& x, auto&) { x.pool.format = policy::kv_int4<32>::format; });
  refuses<int8>(errc::bad_value, "codecs are not mixed", [](auto& x, auto&) { x.pool.format.scale = policy::kv_code::bf16; });
  refuses<int8>(errc::bad_shape, "key_dim and value_dim must be those", [](auto& x, auto&) { x.pool.shape.key_dim = 128; });
  refuses<int8>(errc::bad_value, "finds its scales itself", [](auto& x, auto&) { x.key_scale = 2; });
  refuses<int8>(errc::aliased, "must not overlap", [](auto& x, auto& a) { x.k.data = reinterpret_cast<const bf16*>(a.pool.planes[2]); });
  refuses<by_channel>(errc::bad_shape, "whole groups", [](auto& x, auto&) { x.k.rows = x.v.rows = 33; });
  refuses<by_channel>(errc::bad_value, "one after another", [](auto&, auto& a) { a.slots[40] = 5; });
  refuses<by_channel>(errc::bad_value, "one after another", [](auto&, auto& a) { for (int i = 0; i < 64; ++i) a.slots[i] = 16 + i; });
  refuses<by_channel>(errc::bad_value, "one after another", [](auto&, auto& a) { a.slots[0] = -1; });
  // Shapes that no pool has.
  cache::page_pool out{};
  test::array<std::byte> memory(1 << 16);
  const status page = cache::make_pool<by_channel>({.pages = 2, .page = 48, .kv_heads = 1, .key_dim = 64, .value_dim = 64}, {memory.data(), memory.size()}, out);
  CHECK(page.code == errc::bad_shape);
  CHECK(std::string(page.what).find("group of tokens") != std::string::npos);
  const status dim = cache::make_pool<policy::kv_int4<48>>({.pages = 2, .page = 16, .kv_heads = 1, .key_dim = 64, .value_dim = 64}, {memory.data(), memory.size()}, out);
  CHECK(dim.code == errc::bad_shape);
  CHECK(std::string(dim.what).find("group of channels") != std::string::npos);
}

TEST_CASE("attention refuses codes and scales of other shapes", "[ops][attention][quantized]") {
  using storage = policy::kv_int8<>;
  using op = attention::flash<bf16, 64, attention::paged_quantized_kv<storage>>;
  std::mt19937 g(seed);
  test::quantized_cache<storage, policy::nhd, 64> cache({20}, 8, 2, false, g);
  REQUIRE(cache.store(test::any_context(), 0, 0, 20).code == errc::ok);
  test::array<bf16> q(4 * 64), o(4 * 64);
  for (bf16& x : q) x = bf16{0};
  const auto refused = [&](errc code, const std::string& sentence, auto change) {
    typename op::args x{.q = attention::bshd<const bf16>(q.data(), 1, 1, 4, 64), .kv = cache.source(20), .o = attention::bshd(o.data(), 1, 1, 4, 64)};
    const status fit = op::check(test::any_context(), x);
    CAPTURE(fit.what, fit.got, fit.need);
    REQUIRE(fit.code == errc::ok);
    change(x);
    const status st = op::check(test::any_context(), x);
    CAPTURE(sentence, st.what);
    CHECK(st.code == code);
    CHECK(std::string(st.what).find(sentence) != std::string::npos);
  };
  refused(errc::bad_shape, "words of a token", [](auto& x) { x.kv.k.codes.cols = 64; });
  refused(errc::bad_shape, "scales (and minima) of a row", [](auto& x) { x.kv.v.scales.cols = 2; });
  refused(errc::bad_shape, "heads and pages of the codes", [](auto& x) { x.kv.k.scales.count -= 1; });
  refused(errc::bad_shape, "heads and pages of kv.k", [](auto& x) { x.kv.v.codes.heads = x.kv.v.scales.heads = 1; });
  refused(errc::null_pointer, "kv.k is null", [](auto& x) { x.kv.k.scales.data = nullptr; });
  refused(errc::bad_shape, "page_stride must hold", [](auto& x) { x.kv.k.scales.page_stride -= x.kv.k.scales.slot_stride; });
  refused(errc::bad_value, "must not be negative", [&](auto&) { cache.length[0] = -1; });
  cache.length[0] = 20;
  refused(errc::aliased, "o must not overlap kv", [&](auto& x) { x.o.data = reinterpret_cast<bf16*>(cache.memory.data()); });

  using dense = attention::flash<bf16, 64, attention::quantized_kv<policy::kv_per_channel_keys<2, 32>>>;
  test::array<std::uint32_t> codes(64 * 4);
  test::array<fp16> scales(64 * 128);
  const auto none = [&](errc code, const std::string& sentence, auto change) {
    typename dense::args x{.q = attention::bshd<const bf16>(q.data(), 1, 1, 4, 64), .kv = {}, .o = attention::bshd(o.data(), 1, 1, 4, 64)};
    x.kv.k = {attention::bshd<const std::uint32_t>(codes.data(), 1, 64, 1, 4), attention::bshd<const fp16>(scales.data(), 1, 2, 1, 128)};
    x.kv.v = {attention::bshd<const std::uint32_t>(codes.data(), 1, 64, 1, 4), attention::bshd<const fp16>(scales.data(), 1, 64, 1, 4)};
    const status fit = dense::check(test::any_context(), x);
    CAPTURE(fit.what, fit.got, fit.need);
    REQUIRE(fit.code == errc::ok);
    change(x);
    const status st = dense::check(test::any_context(), x);
    CAPTURE(sentence, st.what);
    CHECK(st.code == code);
    CHECK(std::string(st.what).find(sentence) != std::string::npos);
  };
  none(errc::bad_shape, "for each group of tokens", [](auto& x) { x.kv.k.scales.rows = 1; });
  none(errc::bad_shape, "sequences and heads of the codes", [](auto& x) { x.kv.k.scales.heads = 2; });
  none(errc::bad_shape, "as many rows as kv.k", [](auto& x) { x.kv.v.codes.rows = 63; });
  test::array<std::int32_t> offsets(2);
  offsets[0] = 0, offsets[1] = 64;
  none(errc::bad_value, "do not lie in ragged batches", [&](auto& x) { x.kv.k.codes.offsets = offsets.data(); });
}
#endif
