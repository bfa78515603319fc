// The laws of masks, on every rectangle of up to 24 queries and 24 keys: `visible` is its meaning, written here a second
// time, on ints and on packs in both orientations; keys, whole, queries and whole_queries are true of the counted
// rectangles, and as tight as the mask says; classify never calls a tile skipped or full that is not. Tables end where
// nothing may be read.
#include <catch2/catch.hpp>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <smalti/policy/masks/bits.hpp>
#include <smalti/policy/masks/columns.hpp>
#include <smalti/policy/masks/compose.hpp>
#include <smalti/policy/masks/document.hpp>
#include <smalti/policy/masks/from_key.hpp>
#include <smalti/policy/masks/prefix.hpp>
#include <smalti/policy/masks/window.hpp>
#include <smalti/tile/flat.hpp>
#include <smalti/tile/host/block.hpp>

#include "support/guarded.hpp"

using namespace smalti;
using namespace smalti::policy;

namespace {

constexpr unsigned seed = 20;
constexpr int most = 24;

using meaning = std::function<bool(int q, int k, int queries, int keys)>;

// How much a mask claims to know of tiles.
enum class knows { little, spans, tiles };

// How many of a rectangle are visible, by prefix sums.
struct counted {
  int sum[most + 1][most + 1] = {};
  counted(const meaning& seen, int queries, int keys) {
    for (int q = 0; q < most; ++q)
      for (int k = 0; k < most; ++k)
        sum[q + 1][k + 1] = sum[q][k + 1] + sum[q + 1][k] - sum[q][k] + (q < queries && k < keys && seen(q, k, queries, keys));
  }
  int operator()(span q, span k) const { return sum[q.last][k.last] - sum[q.first][k.last] - sum[q.last][k.first] + sum[q.first][k.first]; }
};

// The span of [0, n) that holds every x with has(x), and whether it is all of them.
template <class Has> span hull_of(int n, Has has, bool* gap = nullptr) {
  span s{0, 0};
  int count = 0;
  for (int x = 0; x < n; ++x) {
    if (!has(x)) continue;
    if (count++ == 0) s.first = x;
    s.last = x + 1;
  }
  if (gap != nullptr) *gap = count != s.last - s.first;
  return s;
}

bool inside(span s, int n) { return s.first >= 0 && s.last <= n && (s.first < s.last || s == span{0, 0}); }

template <class Mask> std::string spans_broken(const Mask& mask, const counted& count, int queries, int keys, knows how) {
  for (int first = 0; first < queries; ++first)
    for (int last = first + 1; last <= queries; ++last) {
      const span q{first, last};
      for (int length = 0; length <= keys; ++length) {
        const span some = mask.keys(q, length), all = mask.whole(q, length);
        if (!inside(some, length) || !inside(all, length)) return "keys or whole leaves [0, length)";
        if (count(q, {0, some.first}) + count(q, {some.last, length}) != 0 && length > 0) return "a key outside keys is visible";
        if (count(q, all) != (last - first) * (all.last - all.first)) return "a key of whole is hidden from a query";
        if (how == knows::little) continue;
        bool gap = false;
        if (hull_of(length, [&](int k) { return count(q, {k, k + 1}) > 0; }) != some) return "keys is wider than it need be";
        const span exact = hull_of(length, [&](int k) { return count(q, {k, k + 1}) == last - first; }, &gap);
        if (how == knows::spans && !gap && exact != all) return "whole is narrower than it need be";
      }
      for (int a = 0; a < keys; ++a)
        for (int b = a + 1; b <= keys; ++b) {
          const int n = count(q, {a, b}), area = (last - first) * (b - a);
          const tile_class c = classify(mask, q, {a, b});
          if (c == tile_class::skip && n != 0) return "a tile with visible keys is skipped";
          if (c == tile_class::full && n != area) return "a tile with hidden keys is called full";
          if (how != knows::little && c == tile_class::partial && (n == 0 || n == area)) return "a tile that is all or nothing is called partial";
        }
    }
  for (int first = 0; first < keys; ++first)
    for (int last = first + 1; last <= keys; ++last)
      for (int n = 0; n <= queries; ++n) {
        const span k{first, last}, some = policy::queries(mask, k, n), all = policy::whole_queries(mask, k, n);
        if (!inside(some, n) || !inside(all, n)) return "queries or whole_queries leaves [0, n)";
        if (n > 0 && count({0, some.first}, k) + count({some.last, n}, k) != 0) return "a query outside queries sees a key";
        if (count(all, k) != (last - first) * (all.last - all.first)) return "a query of whole_queries does not see every key";
        if (how != knows::spans) continue;
        bool gap = false;
        if (hull_of(n, [&](int q) { return count({q, q + 1}, k) > 0; }) != some) return "queries is wider than it need be";
        const span exact = hull_of(n, [&](int q) { return count({q, q + 1}, k) == last - first; }, &gap);
        if (!gap && exact != all) return "whole_queries is narrower than it need be";
      }
  return "";
}

// Packs reach past the last query and key, as tiles do; what they give there is not asked.
template <class Mask> std::string packs_broken(const Mask& mask, const meaning& seen, int queries, int keys) {
  for (int q = 0; q < queries; ++q)
    for (int k = 0; k < keys; k += host::lane_count) {
      const host::mask by_key = mask.visible(host::uniform{q}, host::consecutive{k}), by_ints = mask.visible(host::ints{q}, host::ints(host::consecutive{k}));
      for (int i = 0; i < host::lane_count && k + i < keys; ++i)
        if (by_key[i] != seen(q, k + i, queries, keys) || by_ints[i] != by_key[i]) return "visible on packs of keys";
    }
  for (int k = 0; k < keys; ++k)
    for (int q = 0; q < queries; q += host::lane_count) {
      const host::mask by_query = mask.visible(host::consecutive{q}, host::uniform{k});
      for (int i = 0; i < host::lane_count && q + i < queries; ++i)
        if (by_query[i] != seen(q + i, k, queries, keys)) return "visible on packs of queries";
    }
  return "";
}

template <class Mask> std::string broken(const Mask& unbound, const meaning& seen, int queries, int keys, knows how, int sequence = 0, int head = 0) {
  const auto mask = bound(unbound, place{sequence, head, queries, keys});
  static_assert(mask_policy<Mask> && explain_mask<Mask>() && mask_policy<std::remove_const_t<decltype(mask)>>);
  for (int q = 0; q < queries; ++q)
    for (int k = 0; k < keys; ++k)
      if (mask.visible(q, k) != seen(q, k, queries, keys)) return "visible on ints";
  if (std::string bad = packs_broken(mask, seen, queries, keys); !bad.empty()) return bad;
  return spans_broken(mask, counted(seen, queries, keys), queries, keys, how);
}

constexpr int shapes[][2] = {{24, 24}, {24, 13}, {9, 24}, {1, 24}, {24, 1}, {5, 6}};

template <class Mask> void law(const char* name, const Mask& mask, const meaning& seen, knows how) {
  for (const auto& shape : shapes) {
    CAPTURE(seed, name, shape[0], shape[1]);
    CHECK(broken(mask, seen, shape[0], shape[1], how) == "");
  }
  static_assert(flat::fields_of<Mask>::count >= 0);      // crosses a launch
}

meaning diagonal(const std::function<bool(int p, int k)>& seen) {
  return [seen](int q, int k, int queries, int keys) { return seen(q + keys - queries, k); };
}

}  // namespace

TEST_CASE("masks of distance", "[policy][mask]") {
  law("full", full{}, [](int, int, int, int) { return true; }, knows::spans);
  law("causal", causal{}, diagonal([](int p, int k) { return k <= p; }), knows::spans);
  law("causal, shifted", causal{3}, diagonal([](int p, int k) { return k <= p + 3; }), knows::spans);
  law("causal, shifted back", causal{-2}, diagonal([](int p, int k) { return k <= p - 2; }), knows::spans);
  law("causal_top_left", causal_top_left{}, [](int q, int k, int, int) { return k <= q; }, knows::spans);
  for (const int w : {1, 2, 7, 40}) {
    CAPTURE(w);
    law("window_keys", window_keys(w), diagonal([w](int p, int k) { return k <= p && p - k < w; }), knows::spans);
    law("window_left", window_left(w, 2), diagonal([w](int p, int k) { return k <= p + 2 && p - k <= w; }), knows::spans);
    law("sink_window_keys", sink_window_keys(3, w), diagonal([w](int p, int k) { return k <= p && (p - k < w || k < 3); }), knows::tiles);
    law("chunked", chunked<>{w}, diagonal([w](int p, int k) { return k <= p && k / w == p / w; }), knows::spans);
  }
  law("sliding_window without limits", sliding_window<>{}, diagonal([](int p, int k) { return k <= p; }), knows::spans);
  law("sliding_window, top left", sliding_window<alignment::top_left>{2, 1}, [](int q, int k, int, int) { return k <= q + 1 && k >= q - 2; }, knows::spans);
  law("sink_window without sinks", sink_window_keys(0, 4), diagonal([](int p, int k) { return k <= p && p - k < 4; }), knows::tiles);
  for (const int n : {0, 5, 30}) {
    CAPTURE(n);
    law("from_key", from_key{n}, [n](int, int k, int, int) { return k >= n; }, knows::spans);
    law("prefix", prefix<>{n}, diagonal([n](int p, int k) { return k < n || k <= p; }), knows::spans);
  }
}

TEST_CASE("each sequence has its own prefix", "[policy][mask]") {
  guarded<int> lengths(3);
  lengths[0] = 2, lengths[1] = 0, lengths[2] = 9;
  for (int s = 0; s < 3; ++s) {
    CHECK(broken(prefix<>{100, lengths.data()}, diagonal([&](int p, int k) { return k < lengths[s] || k <= p; }), 9, 24, knows::spans, s) == "");
    CHECK(broken(from_key{100, lengths.data()}, [&](int, int k, int, int) { return k >= lengths[s]; }, 9, 24, knows::spans, s) == "");
  }
}

TEST_CASE("documents, ids and groups", "[policy][mask]") {
  std::mt19937 random(seed);
  for (int round = 0; round < 3; ++round)
    for (const auto& shape : shapes) {
      const int queries = shape[0], keys = shape[1];
      CAPTURE(seed, round, queries, keys);
      std::vector<std::int32_t> offsets{0};
      while (offsets.back() < keys) offsets.push_back(std::min<int>(keys, offsets.back() + int(random() % 8)));
      guarded<int> begin(2 * keys), end(2 * keys), query_id(queries), key_id(keys);
      for (int i = 0; i < keys; ++i) begin[i] = 0, end[i] = keys;                 // sequence 0: one document
      fill_documents(segments<std::int32_t>{offsets.data(), int(offsets.size()) - 1}, begin.data() + keys, end.data() + keys);
      const auto at = [&](int p) { return int(std::upper_bound(offsets.begin(), offsets.end(), p) - offsets.begin()) - 1; };
      const auto together = [&](int p, int k) { return p >= 0 && at(p) == at(k); };
      const auto table = [&](auto inner) { return document<decltype(inner)>{begin.data(), end.data(), keys, keys, inner}; };
      CHECK(broken(table(full{}), diagonal(together), queries, keys, knows::spans, 1) == "");
      CHECK(broken(table(causal_top_left{}), diagonal([&](int p, int k) { return together(p, k) && k <= p; }), queries, keys, knows::little, 1) == "");
      CHECK(broken(table(causal_top_left{}), diagonal([](int p, int k) { return k <= p; }), queries, keys, knows::little, 0) == "");
      CHECK(broken(table(chunked<alignment::top_left>{3}), diagonal([&](int p, int k) {
              return together(p, k) && k <= p && (k - offsets[at(k)]) / 3 == (p - offsets[at(k)]) / 3;
            }), queries, keys, knows::little, 1) == "");
      CHECK(broken(mask_and{causal{}, table(full{})}, diagonal([&](int p, int k) { return together(p, k) && k <= p; }), queries, keys, knows::little, 1) == "");

      for (int i = 0; i < queries; ++i) query_id[i] = int(random() % 5);
      for (int i = 0; i < keys; ++i) key_id[i] = int(random() % 5);
      CHECK(broken(same_id{query_id.data(), key_id.data(), queries, keys}, [&](int q, int k, int, int) { return query_id[q] == key_id[k]; }, queries, keys, knows::little) == "");
      for (int i = 0; i < queries; ++i) query_id[i] = int(random() % 9) - 2;
      for (int i = 0; i < keys; ++i) key_id[i] = int(random() % 9) - 2;
      CHECK(broken(group_order{query_id.data(), key_id.data(), queries, keys}, [&](int q, int k, int, int) {
              const int a = query_id[q], b = key_id[k];
              return a == b || (b >= 0 && b % 2 == 0 && b < a);
            }, queries, keys, knows::little) == "");
    }
}

TEST_CASE("column intervals", "[policy][mask]") {
  std::mt19937 random(seed);
  for (int round = 0; round < 4; ++round)
    for (const auto& shape : shapes) {
      const int queries = shape[0], keys = shape[1], block = 1 + int(random() % 6), blocks = (keys + block - 1) / block;
      CAPTURE(seed, round, queries, keys, block);
      guarded<int> begin(2 * keys), end(2 * keys), summary(8 * blocks);
      for (int i = 0; i < 2 * keys; ++i) {
        begin[i] = int(random() % (most + 1));
        end[i] = round == 0 ? most : begin[i] + int(random() % 9) - 2;
        if (round == 1) begin[i] = 4, end[i] = 11;                      // whole blocks hidden
      }
      fill_column_summary(begin.data(), end.data(), 2, keys, keys, block, summary.data());
      const auto hidden = [&](int q, int k) {
        return (q >= begin[k] && q < end[k]) || (q >= begin[keys + k] && q < end[keys + k]);
      };
      const column_interval<2, full> plain{begin.data(), end.data(), keys, keys};
      CHECK(broken(plain, [&](int q, int k, int, int) { return !hidden(q, k); }, queries, keys, knows::little) == "");
      const column_interval<2, causal> known{begin.data(), end.data(), keys, keys, 0, 0, summary.data(), block};
      CHECK(broken(known, [&](int q, int k, int n, int m) { return k <= q + m - n && !hidden(q, k); }, queries, keys, knows::little) == "");
      const column_interval<1, full> one{begin.data(), end.data(), keys, keys, keys, 0, summary.data(), block, 4 * blocks};
      for (const int head : {0, 1})
        CHECK(broken(one, [&](int q, int k, int, int) { return !(q >= begin[head * keys + k] && q < end[head * keys + k]); }, queries, keys, knows::little, 0, head) == "");
    }
}

TEST_CASE("a summary of column intervals skips hidden tiles and spares untouched ones", "[policy][mask]") {
  // Two branches of 8 tokens behind 8 of a common text, in blocks of 4: neither sees the other.
  const int n = 24, block = 4;
  std::vector<int> begin(n, 0), end(n, 0), summary(4 * n / block);
  for (int k = 8; k < 16; ++k) begin[k] = 16, end[k] = 24;
  fill_column_summary(begin.data(), end.data(), 1, n, n, block, summary.data());
  const auto mask = bound(column_interval<1, causal>{begin.data(), end.data(), n, n, 0, 0, summary.data(), block}, place{0, 0, n, n});
  CHECK(classify(mask, {16, 20}, {8, 16}) == tile_class::skip);
  CHECK(classify(mask, {16, 20}, {0, 8}) == tile_class::full);
  CHECK(classify(mask, {12, 16}, {8, 12}) == tile_class::full);
  CHECK(classify(mask, {12, 20}, {8, 12}) == tile_class::partial);
  CHECK(classify(mask, {12, 16}, {12, 16}) == tile_class::partial);
  CHECK(classify(mask, {0, 4}, {8, 12}) == tile_class::skip);
}

TEST_CASE("bit masks, rows of any width, ragged sequences", "[policy][mask]") {
  std::mt19937 random(seed);
  for (const auto& shape : shapes)
    for (const int row_bits : {0, shape[1], (shape[1] + 7) / 8 * 8, shape[1] + 3}) {
      const int queries = shape[0], keys = shape[1], width = row_bits == 0 ? keys : row_bits;
      CAPTURE(seed, queries, keys, row_bits);
      const int bytes = (queries * width + 7) / 8;
      guarded<unsigned char> bits(3 * bytes);
      guarded<long long> offset(2);
      offset[0] = bytes, offset[1] = 2 * bytes;
      for (int i = 0; i < 3 * bytes; ++i) bits[i] = static_cast<unsigned char>(random());
      for (int b = 0; b < width && queries > 2; ++b) bits[bytes + (2 * width + b) / 8] &= static_cast<unsigned char>(~(1 << ((2 * width + b) % 8)));   // a row that sees nothing
      for (const int sequence : {0, 1}) {
        const meaning seen = [&](int q, int k, int, int) {
          const long long bit = static_cast<long long>(q) * width + k;
          return bits[(1 + sequence) * bytes + bit / 8] >> (bit % 8) & 1;
        };
        CHECK(broken(bitmask{bits.data(), 0, 0, row_bits, 0, 0, offset.data()}, seen, queries, keys, knows::little, sequence) == "");
        CHECK(broken(bitmask{bits.data() + bytes, 0, 0, row_bits, 0, bytes}, seen, queries, keys, knows::little, sequence) == "");
        CHECK(broken(bitmask{bits.data() + bytes, 0, 0, row_bits, bytes}, seen, queries, keys, knows::little, 0, sequence) == "");
      }
    }
}

TEST_CASE("a bit mask beyond 2^31 bits", "[policy][mask]") {
  // Rows of 2^31 + 8 bits, of which only the bytes that are asked for exist: the base pointer is moved back.
  const long long row_bits = (1LL << 31) + 8;
  std::vector<unsigned char> window(64, 0);
  window[10] = 1 << 5;
  const long long first = 3 * row_bits / 8 + (1 << 20) / 8;          // the byte of query 3, key 2^20
  const bitmask mask{reinterpret_cast<const unsigned char*>(reinterpret_cast<std::uintptr_t>(window.data()) + 10 - std::uintptr_t(first)), 4, (1 << 20) + 64, row_bits};
  CHECK(mask.visible(3, (1 << 20) + 5));
  CHECK_FALSE(mask.visible(3, (1 << 20) + 4));
}

template <int Words> void trees(int tokens, std::mt19937& random) {
  for (const int text : {0, 7, 24 - tokens}) {
    if (text < 0 || text + tokens > most) continue;
    CAPTURE(seed, Words, tokens, text);
    const int stride = Words + 1;
    guarded<int> words(2 * tokens * stride);
    std::vector<int> parent(tokens);
    for (int i = 0; i < 2 * tokens * stride; ++i) words[i] = int(random());      // what is not a row is rubbish
    for (int t = 0; t < tokens; ++t) {
      parent[t] = int(random() % (t + 1)) - 1;
      int* row = words.data() + (tokens + t) * stride;
      for (int w = 0; w < Words; ++w) row[w] = 0;
      for (int a = t; a >= 0; a = parent[a]) row[a / 32] |= int(1u << (a % 32));
      if (t + 1 < 32 * Words) row[(t + 1) / 32] |= int(1u << ((t + 1) % 32));    // a later token: does not count
    }
    const meaning seen = [&](int q, int k, int, int) {
      if (k < text) return true;
      for (int a = q; a >= 0; a = parent[a])
        if (a == k - text) return true;
      return false;
    };
    CHECK(broken(tree<Words>{words.data(), tokens, stride, tokens * stride}, seen, tokens, text + tokens, knows::little, 1) == "");
  }
}
TEST_CASE("trees of drafted tokens", "[policy][mask]") {
  std::mt19937 random(seed);
  for (const int tokens : {1, 5, 17, 24}) {
    trees<1>(tokens, random);
    trees<2>(tokens, random);
  }
  // A tree of more than one word.
  const int tokens = 70;
  std::vector<int> words(tokens * 3, 0);
  for (int t = 0; t < tokens; ++t)
    for (int a = t; a >= 0; a = a % 2 == 0 ? a / 2 - 1 : (a - 1) / 2) words[t * 3 + a / 32] |= int(1u << (a % 32));
  const auto mask = bound(tree<3>{words.data(), tokens, 3}, place{0, 0, tokens, tokens + 4});
  for (int q = 0; q < tokens; ++q)
    for (int k = 0; k < tokens; ++k) {
      bool seen = false;
      for (int a = q; a >= 0; a = a % 2 == 0 ? a / 2 - 1 : (a - 1) / 2) seen = seen || a == k;
      if (mask.visible(q, k + 4) != seen) FAIL("tree of three words at " << q << ", " << k);
    }
}

namespace {
struct odd_sum {
  template <class Q, class K> SMALTI_HD constexpr auto operator()(Q q, K k) const { return ((q + k) & 1) == 1; }
};
// What a user's first mask looks like: the three members that are needed.
struct stripes {
  int width = 3;
  SMALTI_HD constexpr span keys(span, int length) const { return {0, length}; }
  SMALTI_HD constexpr span whole(span, int) const { return {0, 0}; }
  template <class Q, class K> SMALTI_HD constexpr auto visible(Q q, K k) const { return (q - k) % width == 0; }
};
}  // namespace

TEST_CASE("masks of functions and of other masks", "[policy][mask]") {
  law("predicate", predicate{odd_sum{}}, [](int q, int k, int, int) { return (q + k) % 2 == 1; }, knows::little);
  law("a user's mask", stripes{}, [](int q, int k, int, int) { return (q - k) % 3 == 0; }, knows::little);
  const auto near = [](int p, int k) { return k <= p && p - k < 5; };
  law("and", mask_and{causal{}, window_left(4, 9)}, diagonal(near), knows::spans);
  law("and, disjoint", mask_and{causal{-8}, mask_not{causal{-3}}}, [](int, int, int, int) { return false; }, knows::little);
  law("or", mask_or{window_keys(3), prefix<alignment::bottom_right>{4, nullptr, -100}}, diagonal([](int p, int k) { return (k <= p && p - k < 3) || k < 4; }), knows::tiles);
  law("or, apart", mask_or{causal{-12}, window_keys(2)}, diagonal([](int p, int k) { return k <= p - 12 || (k <= p && p - k < 2); }), knows::tiles);
  law("not", mask_not{causal{}}, diagonal([](int p, int k) { return k > p; }), knows::spans);
  law("not, of a window", mask_not{window_keys(4)}, diagonal([](int p, int k) { return k > p || p - k >= 4; }), knows::little);
  law("not, of everything", mask_not{full{}}, [](int, int, int, int) { return false; }, knows::spans);
  law("not, of or", mask_and{causal{}, mask_not{mask_or{window_keys(2), predicate{odd_sum{}}}}},
      [](int q, int k, int n, int m) { return k <= q + m - n && !(q + m - n - k < 2) && (q + k) % 2 == 0; }, knows::little);
}

TEST_CASE("a mask on a part of its rectangle is the mask", "[policy][mask]") {
  const auto near = [](int p, int k) { return k <= p && p - k < 5; };
  for (const int query : {0, 3, 12})
    for (const int key : {0, 5, 20}) {
      CAPTURE(query, key);
      const auto moved = [=](int q, int k, int, int) { return near(q + query, k + key); };
      CHECK(broken(placed<sliding_window<alignment::top_left>>{{4, 0, 0}, query, key}, moved, 12, 24, knows::spans) == "");
      CHECK(broken(placed{window_keys(5), query, key}, moved, 12, 24, knows::spans) == "");
    }
}

TEST_CASE("what masks refuse", "[policy][mask]") {
  const mask_extent e{2, 4, 40, 50};
  const int table[1] = {};
  const auto refused = [&](const auto& mask, const char* word) {
    const status s = check_mask(mask, e);
    CAPTURE(word, s.what);
    CHECK(s.code != errc::ok);
    CHECK(std::string(s.what).find(word) != std::string::npos);
  };
  CHECK(check_mask(causal{}, e).code == errc::ok);
  CHECK(check_mask(window_keys(1), e).code == errc::ok);
  refused(window_keys(0), "left");
  refused(window_left(0, -1), "right");
  refused(sink_window_keys(-1, 4), "sinks");
  refused(chunked<>{0}, "size");
  refused(document<>{}, "begin");
  refused(document<>{table, table, 49}, "tokens");
  refused(document<>{table, table, 50, -1}, "sequence_stride");
  refused(document<chunked<alignment::top_left>>{table, table, 50, 0, {0}}, "chunked");
  refused(same_id{}, "query_id");
  refused(same_id{table, table, 39, 50}, "query_count");
  refused(group_order{table, table, 40, 49}, "key_count");
  refused(column_interval<1>{}, "begin");
  refused(column_interval<2>{table, table, 50, 49}, "stride");
  refused(column_interval<1>{table, table, 50, 50, 0, 0, nullptr, 0}, "block");
  refused(bitmask{}, "bits");
  refused(bitmask{reinterpret_cast<const unsigned char*>(table), 40, 50, 49}, "row_bits");
  refused(tree<1>{table, 40}, "words");
  refused(tree<2>{nullptr, 40}, "null");
  refused(tree<2>{table, 40, 1}, "stride");
  refused(mask_and{causal{}, chunked<>{0}}, "chunked");
  refused(mask_not{document<>{}}, "begin");
}
