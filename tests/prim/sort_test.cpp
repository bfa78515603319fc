#include "../reference/order.hpp"
#include "../support/arrays.hpp"
#include "../support/contexts.hpp"

#include <limits>
#include <random>
#include <string>

#include <smalti/prim/select_k.hpp>
#include <smalti/prim/sort.hpp>

using namespace smalti;
using prim::direction;

namespace {

constexpr unsigned seed = 20261121;

template <class Op, class Context> void run(const Context& context, const typename Op::args& x) {
  test::scratch memory(Op::workspace_bytes(context, x));
  const status st = Op::run(context, x, memory.get());
  CAPTURE(st.what, st.got, st.need);
  REQUIRE(st.code == errc::ok);
  test::wait(base_of(context));
  REQUIRE(memory.guarded());
}

enum class kind { any_bits, few, equal, rising, one_byte, one_bit };

template <class Key> void fill(test::array<Key>& keys, kind what, std::mt19937& g) {
  std::uint64_t i = 0;
  for (Key& key : keys) {
    const std::uint64_t draw = (std::uint64_t(g()) << 32) | g();
    if (what == kind::any_bits) std::memcpy(&key, &draw, sizeof key);
    else if (what == kind::few) {
      if constexpr (std::is_same_v<Key, float>) {
        const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
        const float few[] = {0.0f, -0.0f, 1, -1, inf, -inf, nan, -nan};
        key = few[draw % 8];
      } else {
        const Key few[] = {0, 1, std::numeric_limits<Key>::min(), std::numeric_limits<Key>::max(), 256};
        key = few[draw % 5];
      }
    } else key = what == kind::equal ? Key(3) : what == kind::rising ? Key(i++) : what == kind::one_bit ? Key(draw % 2 * 32768) : Key((draw % 256) * 65536);
  }
}

template <class Key, direction Direction> void sorts() {
  using op = prim::sort_by_key<Key, Direction>;
  std::mt19937 g(seed);
  for (const kind what : {kind::any_bits, kind::few, kind::equal, kind::rising, kind::one_byte, kind::one_bit})
    for (const int n : {0, 1, 2, 255, 1000, 33001}) {
      CAPTURE(seed, int(what), n, int(Direction));
      test::array<Key> keys(std::size_t(n), 1), keys_out(std::size_t(n), 1);
      test::array<std::int32_t> values(std::size_t(n), 1), values_out(std::size_t(n), 1);
      fill(keys, what, g);
      for (std::int32_t& v : values) v = std::int32_t(g());
      const std::vector<std::int32_t> places = oracle::order_of(keys.data(), n, Direction == direction::descending);
      test::for_each_context(seed, [&](const auto& context) {
        for (const int wanted : {1, 2, 3}) {                             // keys, values, both
          for (const bool own_values : {true, false}) {
            if (n > 1000 && wanted != 3) continue;
            std::memset(keys_out.data(), 0x5A, std::size_t(n) * sizeof(Key));
            std::memset(values_out.data(), 0x5A, std::size_t(n) * 4);
            typename op::args x;
            x.keys = keys.data(), x.count = n;
            if (own_values) x.values = values.data();
            if (wanted & 1) x.keys_out = keys_out.data();
            if (wanted & 2) x.values_out = values_out.data();
            run<op>(context, x);
            bool good = true;
            for (int i = 0; i < n; ++i) {
              const std::size_t place = std::size_t(places[std::size_t(i)]);
              if (wanted & 1) good = good && oracle::same_bits(keys_out[std::size_t(i)], keys[place]);
              good = good && values_out[std::size_t(i)] == (wanted & 2 ? (own_values ? values[place] : std::int32_t(place)) : 0x5A5A5A5A);
            }
            CAPTURE(wanted, own_values);
            REQUIRE(good);
            REQUIRE(keys_out.guarded());
            REQUIRE(values_out.guarded());
          }
        }
      });
    }
}

}  // namespace

TEMPLATE_TEST_CASE("sort_by_key agrees with a stable sort", "[prim][sort]", std::uint32_t, std::int32_t, std::uint64_t, float) {
  sorts<TestType, direction::ascending>();
  sorts<TestType, direction::descending>();
}

TEST_CASE("select_k is the beginning of sort_by_key", "[prim][sort]") {
  std::mt19937 g(seed);
  test::array<float> keys(5000), selected(300), sorted(5000);
  fill(keys, kind::few, g);
  test::for_each_context(seed, [&](const auto& context) {
    prim::sort_by_key<float, direction::descending>::args x;
    x.keys = keys.data(), x.keys_out = sorted.data(), x.count = 5000;
    run<prim::sort_by_key<float, direction::descending>>(context, x);
    prim::select_k<float>::args y;
    y.rows = {keys.data(), 1, 5000, 5000}, y.k = 300, y.values = {selected.data(), 1, 300, 300};
    run<prim::select_k<float>>(context, y);
    REQUIRE(std::memcmp(selected.data(), sorted.data(), 300 * sizeof(float)) == 0);
  });
}

TEST_CASE("sort_by_key refuses what it cannot do", "[prim][sort]") {
  using op = prim::sort_by_key<float>;
  const auto context = test::any_context();
  test::array<float> keys(100), keys_out(100);
  test::array<std::int32_t> values(100), values_out(100);
  op::args good;
  good.keys = keys.data(), good.values = values.data(), good.keys_out = keys_out.data(), good.values_out = values_out.data(), good.count = 100;
  REQUIRE(op::check(context, good).code == errc::ok);
  const auto refused = [&](auto spoil, errc code, const char* what) {
    op::args x = good;
    spoil(x);
    const status st = op::check(context, x);
    CHECK(st.code == code);
    CHECK(std::string(st.what) == what);
  };
  const auto odd = [](auto* p) { return reinterpret_cast<decltype(p)>(reinterpret_cast<std::uintptr_t>(p) + 1); };
  refused([](op::args& x) { x.count = -1; }, errc::bad_shape, "count must not be negative");
  refused([](op::args& x) { x.count = 1ll << 31; }, errc::out_of_reach, "count must be below 2^31: values and places are 32 bits");
  refused([](op::args& x) { x.keys = nullptr; }, errc::null_pointer, "keys is null: it needs count elements");
  refused([](op::args& x) { x.keys_out = nullptr, x.values_out = nullptr; }, errc::null_pointer,
          "keys_out and values_out are both null: one of them must have memory for count elements");
  refused([&](op::args& x) { x.keys = odd(x.keys); }, errc::misaligned, "keys must begin on a multiple of a key's size");
  refused([&](op::args& x) { x.values = odd(x.values); }, errc::misaligned, "values must begin on a multiple of 4 bytes");
  refused([&](op::args& x) { x.keys_out = odd(x.keys_out); }, errc::misaligned, "keys_out must begin on a multiple of a key's size");
  refused([&](op::args& x) { x.values_out = odd(x.values_out); }, errc::misaligned, "values_out must begin on a multiple of 4 bytes");
  refused([](op::args& x) { x.keys_out = const_cast<float*>(x.keys); }, errc::aliased, "keys_out must not overlap keys or values");
  refused([](op::args& x) { x.values_out = const_cast<std::int32_t*>(x.values) + 99; }, errc::aliased, "values_out must not overlap keys or values");
  refused([](op::args& x) { x.values_out = reinterpret_cast<std::int32_t*>(x.keys_out); }, errc::aliased, "keys_out and values_out must not overlap");
  const std::size_t need = op::workspace_bytes(context, good);
  test::array<unsigned char> memory(need);
  CHECK(op::run(context, good).code == errc::workspace_too_small);
  CHECK(op::run(context, good, {memory.data(), need - 1}).code == errc::workspace_too_small);
  good.keys_out = reinterpret_cast<float*>(memory.data());
  CHECK(op::run(context, good, {memory.data(), need}).code == errc::aliased);
}
