// What compression of a paged cache refuses, by name, with nothing half moved.
#include "compress_problem.hpp"

using namespace smalti;
using namespace test::compressed;

TEST_CASE("compress and observe refuse by name, and a refused call changes nothing", "[ops][cache][compress]") {
  using S = cache::snapkv<bf16, D, window>;
  const auto context = test::any_context();
  world w({.pages = 24, .page = 8, .kv_heads = 2, .key_dim = D, .value_dim = D, .per_head = true}, 2, 8);
  w.append(context, 60);
  w.observe<S>(context, window);
  test::array<int> kept(2 * 60), budgets(2);
  S::args good{.cache = &w.pages, .sequence = w.s, .pool = w.pool, .scores = w.score_view(), .tokens = 20};
  test::array<std::byte> plan(S::plan_bytes(good));
  good.plan = {plan.data(), plan.size()};
  test::scratch scratch(S::workspace_bytes(context, good));
  REQUIRE(S::check(context, good).code == errc::ok);
  budgets[0] = 4, budgets[1] = 53;
  static const int* too_many = budgets.data();
  const std::vector<std::byte> pool(w.memory.begin(), w.memory.end()), metadata(w.metadata.begin(), w.metadata.end());
  const auto refused = [&](const char* what, errc code, void (*spoil)(S::args&)) {
    S::args x = good;
    spoil(x);
    const status st = S::run(context, x, scratch.get());
    CAPTURE(what, st.what, st.got, st.need);
    REQUIRE(std::string(st.what).find(what) == 0);
    REQUIRE(st.code == code);
    REQUIRE(std::memcmp(pool.data(), w.memory.data(), pool.size()) == 0);
    REQUIRE(std::memcmp(metadata.data(), w.metadata.data(), metadata.size()) == 0);
  };
  refused("cache is null", errc::null_pointer, [](S::args& x) { x.cache = nullptr; });
  refused("sequence: it is not open", errc::bad_value, [](S::args& x) { ++x.sequence.generation; });
  refused("pool: it holds another storage", errc::bad_value, [](S::args& x) { x.pool.format = policy::kv_plain<float>::format; });
  refused("pool: it has another layout", errc::bad_value, [](S::args& x) { x.pool.order = policy::kv_order::hnd; });
  refused("pool: it has another shape", errc::bad_shape, [](S::args& x) { ++x.pool.shape.pages; });
  refused("pool: its keys or values have no memory", errc::null_pointer, [](S::args& x) { x.pool.planes[0] = nullptr; });
  refused("tokens must be positive", errc::bad_value, [](S::args& x) { x.tokens = 0; });
  refused("tokens must not be below the protected", errc::bad_value, [](S::args& x) { x.tokens = window - 1; });
  refused("sinks must not be negative", errc::bad_value, [](S::args& x) { x.sinks = -1; });
  refused("recent must not be negative", errc::bad_value, [](S::args& x) { x.recent = -2; });
  refused("scores is null", errc::null_pointer, [](S::args& x) { x.scores.data = nullptr; });
  refused("scores needs a row for each track", errc::bad_shape, [](S::args& x) { x.scores.rows = 1; });
  refused("scores needs a column", errc::bad_shape, [](S::args& x) { x.scores.cols = 59; });
  refused("scores: the stride", errc::bad_shape, [](S::args& x) { x.scores.stride = 60; });
  refused("plan is missing", errc::workspace_too_small, [](S::args& x) { x.plan.size -= 1; });
  refused("plan must begin", errc::misaligned, [](S::args& x) { x.plan.data += 1, x.plan.size += 1; });
  refused("budgets: a track keeps", errc::bad_value, [](S::args& x) { x.budgets = too_many; });
  {
    S::args x = good;
    x.kept = {kept.data(), 2, 19, 19};
    REQUIRE(std::string(S::check(context, x).what).find("kept needs most_kept") == 0);
    x.kept = {kept.data(), 1, 20, 20};
    REQUIRE(std::string(S::check(context, x).what).find("kept needs a row") == 0);
    REQUIRE(S::run(context, good, {nullptr, 0}).code == errc::workspace_too_small);
  }
  // The pool has 24 pages of which 16 are held: 2 tracks of 36 tokens want 10 while those are held.
  S::args x = good;
  x.tokens = 36;
  test::array<std::byte> more_plan(S::plan_bytes(x));
  x.plan = {more_plan.data(), more_plan.size()};
  test::scratch more(S::workspace_bytes(context, x));
  const status st = S::run(context, x, more.get());
  REQUIRE((st.code == errc::exhausted && st.got == 8 && st.need == 10));
  REQUIRE(std::memcmp(pool.data(), w.memory.data(), pool.size()) == 0);
  REQUIRE(std::memcmp(metadata.data(), w.metadata.data(), metadata.size()) == 0);
  REQUIRE(w.pages.audit().code == errc::ok);

  // Layers that share pages cannot keep tokens of their own; keys that turn need frequencies; lists need a place.
  world shared({.pages = 40, .page = 8, .kv_heads = 2, .key_dim = D, .value_dim = D, .layers = 2}, 2, 8);
  shared.append(context, 30);
  const auto why = [&](auto system, world& in) {
    using T = typename decltype(system)::type;
    const typename T::args y{.cache = &in.pages, .sequence = in.s, .pool = in.pool, .scores = in.score_view(), .tokens = 20};
    return std::string(T::check(context, y).what);
  };
  REQUIRE(why(std::type_identity<S>{}, shared).find("pool: its layers share pages") == 0);
  REQUIRE(why(std::type_identity<cache::streaming_llm<bf16, D>>{}, shared).find("frequencies is null") == 0);
  REQUIRE(why(std::type_identity<cache::compress<bf16, D, policy::observation_window<window>, policy::uniform, policy::skip_read>>{}, w).find("kept is null") == 0);

  // observe
  typename S::observe::args o;
  const int width = w.pages.width_for(&w.s, 1);
  const cache::batch_tables lies = w.pages.tables_of(1, width);
  test::array<int> table(std::size_t(lies.ints()));
  REQUIRE(w.pages.tables(&w.s, 1, width, table.data(), lies.ints()).code == errc::ok);
  test::array<bf16> q(64 * 4 * D);
  o.q = {q.data(), 1, 4, window, D, 0, D, 4 * D, nullptr};
  o.kv = cache::kv_of<bf16>(w.pool, 0, lies.at(table.data()), 1, 60);
  o.scores = w.score_view();
  REQUIRE(S::observe::check(context, o).code == errc::ok);
  const auto observed = [&](const char* what, void (*spoil)(S::observe::args&)) {
    S::observe::args y = o;
    spoil(y);
    const status bad = S::observe::check(context, y);
    CAPTURE(what, bad.what);
    REQUIRE(std::string(bad.what).find(what) == 0);
  };
  observed("q is null", [](S::observe::args& y) { y.q.data = nullptr; });
  observed("q: a head has D columns", [](S::observe::args& y) { y.q.cols = 32; });
  observed("q: the query heads must be a multiple", [](S::observe::args& y) { y.q.heads = 3; });
  observed("q: heads are reduced together", [](S::observe::args& y) { y.q.row_stride = 3 * D / 2 + D; });
  observed("q must begin on a multiple", [](S::observe::args& y) { ++y.q.data; });
  observed("lse: needs a number", [](S::observe::args& y) { y.lse = {y.scores.data, 1, 4, 3, 1, 0, 1, 4, nullptr}; });
  observed("heads_per_track must be 1", [](S::observe::args& y) { y.heads_per_track = 3; });
  observed("scale must be positive", [](S::observe::args& y) { y.scale = -1; });
  observed("scorer.decay must be", [](S::observe::args& y) { y.scorer.decay = 2; });
  observed("scores is null", [](S::observe::args& y) { y.scores.data = nullptr; });
  observed("scores needs a column", [](S::observe::args& y) { y.scores.cols = 59; });
  if constexpr (is_host<std::decay_t<decltype(context)>>) {
    observed("kv: a track has more tokens", [](S::observe::args& y) { y.kv.most = 59; });
    table[0] = 24;
    observed("kv: the table names a page outside", [](S::observe::args&) {});
  }
}
