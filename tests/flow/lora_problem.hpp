// Adapters in a pool of rank rows and batches of segments, as the tests of lora use them.
#pragma once
#include "../ops/quantized_problem.hpp"
#include <smalti/flow/lora.hpp>
#include <smalti/ops/cache/page_allocator.hpp>

namespace lora_problem {

using namespace smalti;
using namespace test;

constexpr unsigned lora_seed = 20260903;

// Adapters of mixed ranks whose rank rows lie in pages that an allocator gave out.
struct bank {
  int wide, high, most, cells;
  std::vector<int> ranks;
  array<bf16> a, b;
  array<int> first, rank, page;
  array<float> scale;
  bank(std::vector<int> r, int wide, int high, std::mt19937& generator)
      : wide(wide), high(high), most(*std::max_element(r.begin(), r.end())), cells(std::accumulate(r.begin(), r.end(), 0) + 11), ranks(std::move(r)), a(random_array<bf16>(std::size_t(cells) * wide, generator, 0.2f)),
        b(random_array<bf16>(std::size_t(cells) * high, generator, 0.2f)), first(ranks.size()), rank(ranks.size()), page(std::size_t(cells)), scale(ranks.size()) {
    std::vector<std::byte> room(cache::page_allocator::bytes(cells) + 256);
    cache::page_allocator pages;
    void* p = room.data();
    std::size_t space = room.size();
    REQUIRE(pages.attach(cells, {static_cast<std::byte*>(std::align(256, room.size() - 256, p, space)), room.size() - 256}).code == errc::ok);
    for (int i = 0; i < 11; ++i) static_cast<void>(pages.take());      // as a cache would hold some
    for (int i = 0; i < 11; i += 2) REQUIRE(pages.drop(i).code == errc::ok);
    int used = 0;
    for (std::size_t e = 0; e < ranks.size(); ++e) {
      first[e] = used, rank[e] = ranks[e], scale[e] = 0.5f + 0.25f * float(e % 5);
      for (int q = 0; q < ranks[e]; ++q) REQUIRE((page[used++] = pages.take()) >= 0);
    }
    REQUIRE(pages.free_pages() == 6);      // given out and free make all
    lines = used;
  }
  int lines = 0;
  lora::adapters<bf16> view() const {
    const int n = int(ranks.size());
    return {.a = {.pool = {a.data(), cells, wide, wide}, .first = first.data(), .count = rank.data(), .line = page.data(), .weights = n, .most = most, .lines = lines},
            .b = {.pool = {b.data(), cells, high, high}, .first = first.data(), .count = rank.data(), .line = page.data(), .scale = scale.data(), .weights = n, .most = most, .lines = lines}};
  }
  double at_a(int e, int q, int c) const { return value(a[std::size_t(page[first[e] + q]) * wide + c]); }
  double at_b(int e, int q, int c) const { return value(b[std::size_t(page[first[e] + q]) * high + c]); }
};
inline const std::vector<int> mixed{4, 12, 24, 256, 16, 64, 0, 8, 7};

struct batch {
  std::vector<int> lengths;
  int rows;
  array<std::int32_t> offsets;
  array<int> adapter, of_row;
  batch(std::vector<int> l, int adapters, std::mt19937& generator)
      : lengths(std::move(l)), rows(std::accumulate(lengths.begin(), lengths.end(), 0)), offsets(lengths.size() + 1), adapter(lengths.size()), of_row(std::size_t(rows) + 1) {
    offsets[0] = 0;
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      offsets[s + 1] = offsets[s] + lengths[s], adapter[s] = s % 6 == 4 ? -1 : int(generator() % adapters);
      for (int r = offsets[s]; r < offsets[s + 1]; ++r) of_row[r] = adapter[s];
    }
  }
};

struct invariant : lora::options { static constexpr bool batch_invariant = true; };

}  // namespace lora_problem
