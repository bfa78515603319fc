// Systems that read less and keep everything, as one kind of thing, and the laws that hold for each of them.
#pragma once
#include <smalti/flow/cache.hpp>
#include "ops/compress_problem.hpp"

namespace test::compressed {

struct in_float : attention::options { using out = float; };

constexpr int recall_page = 16;

// What each system that reads less answers to the newest token's queries. pages: of how many it reads; lists: which, [head][pages], where it says so.
struct read_by_quest {
  using op = attention::quest<bf16, D, recall_page, in_float>;
  test::array<bf16> low, high;
  explicit read_by_quest(const pool_shape& s) : low(std::size_t(s.pages) * s.kv_heads * D), high(low.size()) {}
  template <class Context> void read(const Context& context, const attention::paged_kv<bf16, recall_page>& kv, const attention::head_rows<const bf16>& q, const attention::head_rows<float>& o, int pages) {
    const int rows = int(low.size()) / D;
    REQUIRE(op::bounds::run(context, {.kv = kv, .bounds = {{low.data(), rows, D, D}, {high.data(), rows, D, D}}}).code == errc::ok);
    const op::args x{.q = q, .kv = kv, .bounds = {{low.data(), rows, D, D}, {high.data(), rows, D, D}}, .k = pages, .o = o};
    test::scratch scratch(op::workspace_bytes(context, x));
    REQUIRE(op::run(context, x, scratch.get()).code == errc::ok);
    test::wait(context);
    REQUIRE((scratch.guarded() && low.guarded() && high.guarded()));
  }
};
struct read_by_actqkv {
  using op = cache::actqkv<bf16, D, recall_page>;
  using attend = attention::flash<bf16, D, attention::paged_kv<bf16, recall_page>, policy::causal, attention::with_padded_lists<in_float, recall_page, 1>>;
  pool_shape shape;
  test::array<bf16> means;
  explicit read_by_actqkv(const pool_shape& s) : shape(s), means(std::size_t(s.pages) * s.kv_heads * D) {}
  template <class Context> void read(const Context& context, const attention::paged_kv<bf16, recall_page>& kv, const attention::head_rows<const bf16>& q, const attention::head_rows<float>& o, int pages) {
    const int heads = shape.kv_heads;
    test::array<float> scores(std::size_t(heads) * 16);
    test::array<int> in_use(static_cast<std::size_t>(heads)), blocks(std::size_t(heads) * std::size_t(pages));
    const op::args x{.q = q, .kv = kv, .means = {means.data(), shape.pages * heads, D, D}, .scores = {scores.data(), heads, 16, 16}, .pages = in_use.data(), .k = pages, .blocks = {blocks.data(), heads, pages, pages}};
    test::scratch scratch(op::workspace_bytes(context, x));
    REQUIRE(op::means(context, x).code == errc::ok);
    REQUIRE(op::score(context, x, scratch.get()).code == errc::ok);
    REQUIRE(op::choose(context, x, scratch.get()).code == errc::ok);
    attend::args a{.q = q, .kv = kv, .o = o};
    a.blocks = {{blocks.data(), heads, pages, pages}, q.heads / heads, 1, true};
    test::scratch rest(attend::workspace_bytes(context, a));
    REQUIRE(attend::run(context, a, rest.get()).code == errc::ok);
    test::wait(context);
    REQUIRE((scratch.guarded() && rest.guarded() && scores.guarded() && blocks.guarded() && in_use.guarded()));
  }
};
struct read_by_sparf {
  using op = cache::sparf<bf16, D, recall_page, in_float>;
  pool_shape shape;
  test::array<bf16> channels;
  test::array<float> sums;
  explicit read_by_sparf(const pool_shape& s) : shape(s), channels(std::size_t(s.pages) * s.kv_heads * D * recall_page), sums(std::size_t(s.kv_heads) * D) {}
  template <class Context> void read(const Context& context, const attention::paged_kv<bf16, recall_page>& kv, const attention::head_rows<const bf16>& q, const attention::head_rows<float>& o, int pages) {
    const op::index_op::args index{.kv = kv, .channels = {channels.data(), shape.pages * shape.kv_heads * D, recall_page, recall_page}, .sums = {sums.data(), shape.kv_heads, D, D}};
    REQUIRE(op::index_op::run(context, index).code == errc::ok);
    const op::args x{.q = q, .index = index, .channels_read = pages >= 8 ? D : D / 4, .tokens = pages * recall_page, .window = recall_page, .o = o};
    test::scratch scratch(op::workspace_bytes(context, x));
    REQUIRE(op::run(context, x, scratch.get()).code == errc::ok);
    test::wait(context);
    REQUIRE(scratch.guarded());
  }
};

// Of systems that read less and keep everything: all of it read is dense attention; the cache is what it was, token, page and byte; equal bits in every order of
// blocks and from call to call; a smaller budget is another answer.
template <class System> void reading_laws(unsigned salt) {
  constexpr int heads = 2, group = 2, n = 120;
  std::vector<float> first;
  test::for_each_context(seed, [&](const auto& context) {
    world w({.pages = 40, .page = recall_page, .kv_heads = heads, .key_dim = D, .value_dim = D}, group, salt);
    w.append(context, n);
    const int width = w.pages.width_for(&w.s, 1);
    const cache::batch_tables lies = w.pages.tables_of(1, width);
    test::array<int> table(std::size_t(lies.ints()));
    REQUIRE(w.pages.tables(&w.s, 1, width, table.data(), lies.ints()).code == errc::ok);
    const auto plain = cache::kv_of<bf16>(w.pool, 0, lies.at(table.data()), 1, n);
    const attention::paged_kv<bf16, recall_page> kv{plain.k, plain.v, plain.where, 1, n};
    test::array<bf16> q(heads * group * D);
    std::copy(w.q[0].end() - std::ptrdiff_t(q.size()), w.q[0].end(), q.begin());
    const auto rows = attention::bshd<const bf16>(q.data(), 1, 1, heads * group, D);
    const std::vector<std::byte> pool(w.memory.begin(), w.memory.end()), metadata(w.metadata.begin(), w.metadata.end());
    System system(w.shape);
    const auto answer = [&](int pages) {
      test::array<float> o(q.size());
      system.read(context, kv, rows, attention::bshd(o.data(), 1, 1, heads * group, D), pages);
      REQUIRE(o.guarded());
      return std::vector<float>(o.begin(), o.end());
    };
    const std::vector<float> all = answer(8), few = answer(3);
    using dense = attention::flash<bf16, D, attention::paged_kv<bf16>, policy::causal, in_float>;
    test::array<float> o(q.size());
    const typename dense::args x{.q = rows, .kv = plain, .o = attention::bshd(o.data(), 1, 1, heads * group, D)};
    test::scratch scratch(dense::workspace_bytes(context, x));
    REQUIRE(dense::run(context, x, scratch.get()).code == errc::ok);
    test::wait(context);
    // Probabilities are rounded to bf16 before they meet values below 4, on either side: 2^-8 of the sum of their shares each.
    for (std::size_t i = 0; i < all.size(); ++i) REQUIRE(std::abs(all[i] - o[i]) <= 8 * 0x1p-8f);
    REQUIRE(few != all);
    REQUIRE(answer(3) == few);
    REQUIRE(std::memcmp(pool.data(), w.memory.data(), pool.size()) == 0);
    REQUIRE(std::memcmp(metadata.data(), w.metadata.data(), metadata.size()) == 0);
    if (first.empty()) first = few;
    if (is_host<std::decay_t<decltype(context)>>) REQUIRE(first == few);
  });
}

}  // namespace test::compressed
