// Named systems against their direct definitions, in double: distributed attention, adaptive parallel encoding, HSTU, texts with
// parallel paths, packed tries, layers without positions, mixed batches, concurrent caches.
#include <catch2/catch.hpp>
#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include "ops/attention_problem.hpp"
#include "reference/position.hpp"
#include <smalti/ops/attention/ape.hpp>
#include <smalti/ops/attention/branches.hpp>
#include <smalti/ops/attention/dist_attention.hpp>
#include <smalti/ops/attention/fastgen.hpp>
#include <smalti/ops/attention/hogwild.hpp>
#include <smalti/ops/attention/hstu.hpp>
#include <smalti/ops/attention/hybrid_nope_rope.hpp>
#include <smalti/ops/attention/mla.hpp>
#include <smalti/policy/masks/compose.hpp>

using namespace smalti;
namespace policy = smalti::policy;
using test::attention_shape;
using test::row_order;
using test::rows_of_batch;

namespace {

constexpr unsigned seed = 71;
constexpr int d = 32;
struct into_float : attention::options { using out = float; };
using rows = rows_of_batch<bf16>;

template <class Op, class Context, class Args> void run(const Context& context, const Args& x) {
  test::scratch memory([&] {
    if constexpr (requires { Op::workspace_bytes(context, x); }) return Op::workspace_bytes(context, x);
    else return std::size_t(0);
  }());
  const status st = [&] {
    if constexpr (requires { Op::run(context, x, memory.get()); }) return Op::run(context, x, memory.get());
    else return Op::run(context, x);
  }();
  INFO(st.what << " got " << st.got << " need " << st.need);
  REQUIRE(st.code == errc::ok);
  test::wait(context);
  REQUIRE(memory.guarded());
}

// What the oracle gives for one head, compared with rows of a result. `slack`: of each weight, beyond the model.
template <class Rows> void close(const oracle::attention_problem& p, const Rows& o, int s, int h, double slack = 0) {
  const auto r = oracle::attention(p);
  for (int i = 0; i < p.queries; ++i)
    for (int e = 0; e < p.dv; ++e) {
      const double want = r.o[std::size_t(i) * p.dv + e], got = o.get(s, h, i, e);
      if (!(std::abs(got - want) <= test::attention_error<bf16, float>(r, p, i, e) + slack * r.size[std::size_t(i) * p.dv + e])) {
        CAPTURE(seed, s, h, i, e, got, want);
        FAIL("a value");
      }
    }
}
oracle::attention_problem head_of(const rows& q, const rows& k, const rows& v, int queries, int keys, int s, int h, int group, double scale = 1 / std::sqrt(double(d))) {
  oracle::attention_problem p;
  p.queries = queries, p.keys = keys, p.d = d, p.dv = d, p.scale = scale;
  for (int i = 0; i < queries; ++i)
    for (int c = 0; c < d; ++c) p.q.push_back(q.get(s, h, i, c));
  for (int j = 0; j < keys; ++j)
    for (int c = 0; c < d; ++c) p.k.push_back(k.get(s, h / group, j, c)), p.v.push_back(v.get(s, h / group, j, c));
  return p;
}
// Rotates one head of one token, half split.
void rotate(rows& x, int s, int h, int i, int position) {
  std::vector<float> cos(d / 2), sin(d / 2);
  policy::fill_rotations(policy::rotary<>{d}, policy::rotary_use::encode, position, 1, cos.data(), sin.data());
  policy::rotate_head(policy::half_split{d}, cos.data(), sin.data(), &x.at(s, h, i, 0));
}

}  // namespace

TEST_CASE("dist_attention: keys in several places", "[ops][attention][systems]") {
  std::mt19937 generator(seed);
  const int queries = 3, keys = 100, heads = 4;
  rows q({queries, 1}, heads, d, row_order::ragged), k({keys, keys}, 2, d, row_order::bshd), v({keys, keys}, 2, d, row_order::bshd);
  q.fill(generator), k.fill(generator), v.fill(generator);
  using op = attention::dist_attention<bf16, d, attention::dense_kv<bf16>, policy::placed<policy::causal_top_left>, into_float>;
  using merge = attention::merge<float, float>;
  CHECK((op::sent(heads) == heads * d && op::received(heads) == heads * (d + 1)));
  for (const auto& cut : {std::vector<int>{0, 100}, {0, 37, 37, 100}, {0, 0, 64, 99, 100}, {0, 100, 100, 100}}) {
    const int parts = int(cut.size()) - 1;
    test::for_each_context(seed, [&](const auto& context) {
      const std::size_t tokens = queries + 1;
      test::array<float> o(parts * tokens * heads * d), lse(parts * tokens * heads);
      rows_of_batch<float> out({queries, 1}, heads, d, row_order::ragged), all({queries, 1}, heads, 1, row_order::ragged);
      const auto like = [&](float* data, int cols) {
        auto r = out.rows();
        return attention::head_rows<float>{data, 2, heads, queries, cols, 0, cols, heads * cols, r.offsets};
      };
      for (int n = 0; n < parts; ++n) {
        attention::dense_kv<bf16> kv{k.rows<const bf16>(), v.rows<const bf16>()};
        for (auto* x : {&kv.k, &kv.v}) x->data += cut[n] * x->row_stride, x->rows = cut[n + 1] - cut[n];
        typename op::part::args x{.q = q.rows<const bf16>(), .kv = kv, .o = like(o.data() + n * tokens * heads * d, d), .lse = like(lse.data() + n * tokens * heads, 1)};
        x.mask = {{keys - queries}, 0, cut[n]};
        run<typename op::part>(context, x);
        if (cut[n] == cut[n + 1])
          for (std::size_t i = 0; i < tokens * heads * d; ++i) o[n * tokens * heads * d + i] = NAN;      // a holder without keys: whatever it sends
      }
      run<merge>(context, typename merge::args{.o = attention::read_only(like(o.data(), d)), .lse = attention::read_only(like(lse.data(), 1)), .o_distance = (long long)(tokens * heads * d), .lse_distance = (long long)(tokens * heads),
                                               .parts = parts, .result = out.rows(), .result_lse = all.rows()});
      for (int s = 0; s < 2; ++s)
        for (int h = 0; h < heads; ++h) {
          auto p = head_of(q, k, v, s == 0 ? queries : 1, keys, s, h, 2);
          p.visible = [=](int i, int j) { return j <= i + keys - queries; };
          close(p, out, s, h, 1e-5);
          for (int i = 0; i < p.queries; ++i) CHECK(std::abs(all.get(s, h, i, 0) - oracle::attention(p).lse[i]) <= 1e-5);
        }
    });
  }
}

TEST_CASE("merge: nothing merges to nothing", "[ops][attention][systems]") {
  using merge = attention::merge<float, bf16, policy::lse_2<float>>;
  test::array<float> o(2 * 16), lse(2), all(1);
  test::array<bf16> out(16);
  for (float& x : o) x = NAN;
  for (float& x : lse) x = -INFINITY;
  test::for_each_context(seed, [&](const auto& context) {
    for (const int parts : {0, 1, 2}) {
      run<merge>(context, merge::args{.o = attention::bshd<const float>(o.data(), 1, 1, 1, 16), .lse = attention::bshd<const float>(lse.data(), 1, 1, 1, 1), .o_distance = 16, .lse_distance = 1, .parts = parts,
                                      .result = attention::bshd(out.data(), 1, 1, 1, 16), .result_lse = attention::bshd(all.data(), 1, 1, 1, 1)});
      for (const bf16& y : out) CHECK(test::value(y) == 0);
      CHECK(all[0] == -INFINITY);
    }
  });
}

TEST_CASE("ape: contexts that were encoded apart", "[ops][attention][systems]") {
  std::mt19937 generator(seed);
  const int queries = 9, contexts = 70, rest = 33, heads = 2;
  rows q({queries}, heads, d, row_order::bshd), ck({contexts}, 1, d, row_order::bshd), cv({contexts}, 1, d, row_order::bshd), rk({rest}, 1, d, row_order::bshd), rv({rest}, 1, d, row_order::bshd);
  for (rows* x : {&q, &ck, &cv, &rk, &rv}) x->fill(generator, 1.5f);
  using op = attention::ape<bf16, d, attention::dense_kv<bf16>, into_float>;
  for (const auto& [t, s] : {std::pair{0.9f, 0.9f}, {0.5f, 1.3f}, {1.0f, 1.0f}, {0.8f, 0.01f}})
    test::for_each_context(seed, [&, t = t, s = s](const auto& context) {
      rows_of_batch<float> o({queries}, heads, d, row_order::bshd), lse({queries}, heads, 1, row_order::bshd);
      run<op>(context, typename op::args{.q = q.rows<const bf16>(), .contexts = {ck.rows<const bf16>(), cv.rows<const bf16>()}, .rest = {rk.rows<const bf16>(), rv.rows<const bf16>()}, .o = o.rows(),
                                         .lse = lse.rows(), .temperature = t, .power = s});
      for (int h = 0; h < heads; ++h) {
        // All keys as one problem: contexts first. Weights by the formula.
        auto p = head_of(q, ck, cv, queries, contexts, 0, h, heads), tail = head_of(q, rk, rv, queries, rest, 0, h, heads);
        p.keys += rest;
        p.k.insert(p.k.end(), tail.k.begin(), tail.k.end());
        p.v.insert(p.v.end(), tail.v.begin(), tail.v.end());
        p.visible = [&](int i, int j) { return j < contexts || j - contexts <= i + rest - queries; };
        double lse_of_all = 0;
        p.normalize = [&](const std::vector<double>& z) {
          oracle::row_weights r{std::vector<double>(z.size())};
          double sum = 0, total = 0;
          for (int j = 0; j < contexts; ++j) sum += std::exp(z[j] / t);
          for (int j = 0; j < int(z.size()); ++j) total += r.w[j] = j < contexts ? std::exp(z[j] / t) * std::pow(sum, double(s) * t - 1) : std::exp(z[j]);
          for (double& w : r.w) w /= total;
          lse_of_all = r.lse = std::log(total);
          return r;
        };
        close(p, o, 0, h, 1e-4);
        const auto r = oracle::attention(p);
        for (int i = 0; i < queries; ++i) CHECK(std::abs(lse.get(0, h, i, 0) - r.lse[i]) <= 1e-5 * (1 + std::abs(r.lse[i])));
      }
    });
  const auto context = test::any_context();
  op::args bad{.q = q.rows<const bf16>()};
  bad.temperature = 0;
  CHECK(std::string(op::check(context, bad).what).find("temperature") != std::string::npos);
}

TEST_CASE("hstu: pointwise weights, targets and time", "[ops][attention][systems]") {
  std::mt19937 generator(seed);
  const std::vector<int> lengths{60, 0, 17, 41};
  const int heads = 2, most = 60;
  rows q(lengths, heads, d, row_order::ragged), k(lengths, heads, d, row_order::ragged), v(lengths, heads, d, row_order::ragged);
  for (rows* x : {&q, &k, &v}) x->fill(generator);
  test::array<int> targets(4), times(4 * most);
  test::array<float> place(2 * most - 1), by_time(129);
  for (int s = 0; s < 4; ++s) targets[s] = s == 0 ? 9 : s == 3 ? 5 : 0;
  for (int s = 0; s < 4; ++s)
    for (int i = 0, now = 0; i < most; ++i) times[s * most + i] = now += int(generator() % 5 == 0 ? 40000 : generator() % 50);
  std::normal_distribution<float> normal;
  for (float& x : place) x = normal(generator);
  for (float& x : by_time) x = normal(generator);
  using bias = policy::chain<policy::relative_bias<>, policy::time_bias>;
  using op = attention::hstu<bf16, d, bias, attention::dense_kv<bf16>, into_float>;
  for (const policy::hstu_mask mask : {policy::hstu_mask{0, 0, 0, targets.data()}, {3, 0, 0, targets.data()}, {0, 12, 0, targets.data()}, {4, 7, 6, targets.data()}, {5, 9, 0, nullptr, 4}})
    test::for_each_context(seed, [&](const auto& context) {
      CAPTURE(mask.contextual, mask.window, mask.full_tail);
      rows_of_batch<float> o(lengths, heads, d, row_order::ragged);
      typename op::args x{.q = q.rows<const bf16>(), .kv = {k.rows<const bf16>(), v.rows<const bf16>()}, .o = o.rows(), .scale = 0.3f};
      x.mask = mask;
      x.logits = {{place.data(), 2 * most - 1, most - 1}, {{times.data(), by_time.data(), most, 129, 0, most}, {}}};
      x.weights = {1.0f / 64};
      run<op>(context, x);
      for (int s = 0; s < 4; ++s)
        for (int h = 0; h < heads; ++h) {
          const int n = lengths[s], c = mask.contextual, offset = c > 0 ? c - 1 : 0, count = mask.targets ? targets[s] : mask.target_count, effective = n - offset - count;
          const auto level = [&](int i) { return std::min(c > 0 ? std::max(i - c + 1, 0) : i, effective); };
          auto p = head_of(q, k, v, n, n, s, h, 1, double(0.3f));
          p.visible = [&](int i, int j) {
            const int a = level(i), b = level(j);
            bool seen = a > b;
            if (mask.window > 0) seen = seen && (a - b <= mask.window || (mask.full_tail > 0 && a >= effective - mask.full_tail));
            return i == j || seen || (c > 0 && a == 0 && b < effective);
          };
          p.logit = [&](double z, int i, int j) {
            const double gap = std::abs(double(times[s * most + std::min(i + 1, n - 1)]) - times[s * most + j]);
            const double bucket = std::log(std::max(1.0, gap)) / 0.301;
            return z + place[std::min(std::max(j - i + most - 1, 0), 2 * most - 2)] + by_time[std::min(int(bucket), 128)];
          };
          p.normalize = oracle::pointwise([](double z) { return z / (1 + std::exp(-z)) / 64; });
          close(p, o, s, h, 1e-5);
        }
    });
  // Candidates score alone what they score together.
  test::for_each_context(seed, [&](const auto& context) {
    using plain = attention::hstu<bf16, d, policy::identity_score, attention::dense_kv<bf16>, into_float>;
    rows_of_batch<float> together({60}, heads, d, row_order::bshd);
    const auto first = [&](rows& x) { return attention::bshd(x.rows<const bf16>().begin(0, 0), 1, 60, heads, d); };
    typename plain::args x{.q = first(q), .kv = {first(k), first(v)}, .o = together.rows(), .scale = 1};
    x.mask.target_count = 9;
    run<plain>(context, x);
    for (int t = 0; t < 9; ++t) {
      rows own[3] = {{{52}, heads, d, row_order::bshd}, {{52}, heads, d, row_order::bshd}, {{52}, heads, d, row_order::bshd}};
      rows* from[3] = {&q, &k, &v};
      for (int n = 0; n < 3; ++n)
        for (int i = 0; i < 52; ++i)
          for (int h = 0; h < heads; ++h)
            for (int e = 0; e < d; ++e) own[n].at(0, h, i, e) = from[n]->at(0, h, i < 51 ? i : 51 + t, e);
      rows_of_batch<float> alone({52}, heads, d, row_order::bshd);
      typename plain::args y{.q = own[0].rows<const bf16>(), .kv = {own[1].rows<const bf16>(), own[2].rows<const bf16>()}, .o = alone.rows(), .scale = 1};
      y.mask.target_count = 1;
      run<plain>(context, y);
      for (int h = 0; h < heads; ++h)
        for (int e = 0; e < d; ++e) CHECK(std::abs(alone.get(0, h, 51, e) - together.get(0, h, 51 + t, e)) <= 1e-5 * (1 + std::abs(alone.get(0, h, 51, e))));
    }
  });
}

TEST_CASE("multiverse: paths that do not see each other", "[ops][attention][systems]") {
  std::mt19937 generator(seed);
  // Text 0..10, a block of three paths (the second holds a block of two), a conclusion, a block of two, a conclusion.
  const std::vector<policy::parallel_path> paths{{10, 22, 0}, {22, 50, 0}, {28, 36, 1}, {36, 45, 1}, {50, 58, 0}, {70, 75, 0}, {75, 84, 0}};
  const int tokens = 90;
  test::array<int> begin(2 * tokens), end(2 * tokens), position(tokens);
  REQUIRE(policy::fill_parallel_paths(tokens, paths.data(), int(paths.size()), 2, tokens, begin.data(), end.data(), position.data()).code == errc::ok);
  const int expected[][2] = {{0, 0}, {9, 9}, {10, 10}, {21, 21}, {22, 10}, {27, 15}, {28, 16}, {35, 23}, {36, 16}, {44, 24}, {45, 25}, {49, 29}, {50, 10}, {57, 17}, {58, 30}, {69, 41}, {70, 42}, {74, 46}, {75, 42}, {83, 50}, {84, 51}};
  for (const auto& [token, place] : expected) {
    CAPTURE(token);
    CHECK(position[token] == place);
  }
  // Two tokens see each other unless two sibling paths hold one each.
  const int blocks[][7] = {{0, 1, 4, -1}, {2, 3, -1}, {5, 6, -1}};
  const auto apart = [&](int i, int j) {
    for (const auto& siblings : blocks)
      for (const int* a = siblings; *a >= 0; ++a)
        for (const int* b = siblings; *b >= 0; ++b)
          if (*a != *b && i >= paths[*a].first && i < paths[*a].last && j >= paths[*b].first && j < paths[*b].last) return true;
    return false;
  };
  for (int i = 0; i < tokens; ++i)
    for (int j = 0; j <= i; ++j)
      if (!apart(i, j)) REQUIRE(position[i] >= position[j]);
  using op = attention::multiverse<bf16, d, 2, attention::dense_kv<bf16>, into_float>;
  rows q({tokens}, 1, d, row_order::bshd), k({tokens}, 1, d, row_order::bshd), v({tokens}, 1, d, row_order::bshd);
  for (rows* x : {&q, &k, &v}) x->fill(generator);
  const auto attend = [&](const auto& context, rows& q, rows& k, rows& v, const auto& b, const auto& e, rows_of_batch<float>& o) {
    typename op::args x{.q = q.rows<const bf16>(), .kv = {k.rows<const bf16>(), v.rows<const bf16>()}, .o = o.rows()};
    x.mask = {b.data(), e.data(), tokens, tokens};
    run<op>(context, x);
  };
  test::for_each_context(seed, [&](const auto& context) {
    rows_of_batch<float> o({tokens}, 1, d, row_order::bshd);
    attend(context, q, k, v, begin, end, o);
    auto p = head_of(q, k, v, tokens, tokens, 0, 0, 1);
    p.visible = [&](int i, int j) { return j <= i && !apart(i, j); };
    close(p, o, 0, 0);
    // The last two paths exchanged, tokens and all: nobody notices.
    const std::vector<policy::parallel_path> turned{{10, 22, 0}, {22, 50, 0}, {28, 36, 1}, {36, 45, 1}, {50, 58, 0}, {70, 79, 0}, {79, 84, 0}};
    test::array<int> b(2 * tokens), e(2 * tokens), place(tokens);
    REQUIRE(policy::fill_parallel_paths(tokens, turned.data(), int(turned.size()), 2, tokens, b.data(), e.data(), place.data()).code == errc::ok);
    const auto from = [](int i) { return i < 70 || i >= 84 ? i : i < 79 ? i + 5 : i - 9; };       // where token i of the exchanged text stood
    rows other[3] = {{{tokens}, 1, d, row_order::bshd}, {{tokens}, 1, d, row_order::bshd}, {{tokens}, 1, d, row_order::bshd}};
    rows one[3] = {{{tokens}, 1, d, row_order::bshd}, {{tokens}, 1, d, row_order::bshd}, {{tokens}, 1, d, row_order::bshd}};
    rows* given[3] = {&q, &k, &v};
    for (int n = 0; n < 3; ++n)
      for (int i = 0; i < tokens; ++i) {
        for (int c = 0; c < d; ++c) one[n].at(0, 0, i, c) = given[n]->at(0, 0, i, c), other[n].at(0, 0, i, c) = given[n]->at(0, 0, from(i), c);
        if (n < 2) rotate(one[n], 0, 0, i, position[i]), rotate(other[n], 0, 0, i, place[i]);
      }
    rows_of_batch<float> before({tokens}, 1, d, row_order::bshd), after({tokens}, 1, d, row_order::bshd);
    attend(context, one[0], one[1], one[2], begin, end, before);
    attend(context, other[0], other[1], other[2], b, e, after);
    for (int i = 0; i < tokens; ++i) {
      REQUIRE(place[i] == position[from(i)]);
      for (int c = 0; c < d; ++c)
        if (!(std::abs(after.get(0, 0, i, c) - before.get(0, 0, from(i), c)) <= 0x1p-8 * 4)) FAIL("the order of paths shows at token " << i);
    }
  });
  const policy::parallel_path deep[] = {{0, 4, 0}, {1, 3, 2}}, outside[] = {{0, 4, 0}, {3, 6, 1}};
  CHECK(policy::fill_parallel_paths(10, deep, 2, 2, 10, begin.data(), end.data(), position.data()).code == errc::bad_value);
  CHECK(policy::fill_parallel_paths(10, outside, 2, 2, 10, begin.data(), end.data(), position.data()).code == errc::bad_value);
}

TEST_CASE("thread_weaver: sequences packed as a trie compute what they compute alone", "[ops][attention][systems]") {
  std::mt19937 generator(seed);
  //        root 0..20, children A (20..35: B 35..50, C 50..52), D (52..80), and a second root (80..90)
  const std::vector<policy::trie_node> nodes{{0, 20, -1}, {20, 35, 0}, {35, 50, 1}, {50, 52, 1}, {52, 80, 0}, {80, 90, -1}};
  const int tokens = 90;
  test::array<int> begin(tokens), end(tokens), position(tokens);
  REQUIRE(policy::fill_trie(tokens, nodes.data(), int(nodes.size()), begin.data(), end.data(), position.data()).code == errc::ok);
  rows q({tokens}, 2, d, row_order::bshd), k({tokens}, 2, d, row_order::bshd), v({tokens}, 2, d, row_order::bshd);
  for (rows* x : {&q, &k, &v}) x->fill(generator);
  for (int i = 0; i < tokens; ++i)
    for (int h = 0; h < 2; ++h) rotate(q, 0, h, i, position[i]), rotate(k, 0, h, i, position[i]);
  using op = attention::thread_weaver<bf16, d, attention::dense_kv<bf16>, into_float>;
  test::for_each_context(seed, [&](const auto& context) {
    rows_of_batch<float> o({tokens}, 2, d, row_order::bshd);
    typename op::args x{.q = q.rows<const bf16>(), .kv = {k.rows<const bf16>(), v.rows<const bf16>()}, .o = o.rows()};
    x.mask = {begin.data(), end.data(), tokens, tokens};
    run<op>(context, x);
    for (const int leaf : {2, 3, 4, 5}) {
      std::vector<int> path, text;
      for (int n = leaf; n >= 0; n = nodes[n].parent) path.insert(path.begin(), n);
      for (int n : path)
        for (int i = nodes[n].first; i < nodes[n].last; ++i) text.push_back(i);
      for (int i = 0; i < int(text.size()); ++i) CHECK(position[text[i]] == i);
      for (int h = 0; h < 2; ++h) {
        oracle::attention_problem p;
        p.queries = p.keys = int(text.size()), p.d = p.dv = d, p.scale = 1 / std::sqrt(double(d));
        for (int i : text)
          for (int c = 0; c < d; ++c) p.q.push_back(q.get(0, h, i, c)), p.k.push_back(k.get(0, h, i, c)), p.v.push_back(v.get(0, h, i, c));
        p.visible = [](int i, int j) { return j <= i; };
        const auto r = oracle::attention(p);
        for (int i = 0; i < p.queries; ++i)
          for (int e = 0; e < d; ++e)
            if (!(std::abs(o.get(0, h, text[i], e) - r.o[std::size_t(i) * d + e]) <= test::attention_error<bf16, float>(r, p, i, e))) FAIL("a value of sequence " << leaf);
      }
    }
  });
  const policy::trie_node gap[] = {{0, 4, -1}, {5, 9, 0}}, order[] = {{0, 3, -1}, {3, 5, -1}, {5, 9, 0}};
  CHECK(policy::fill_trie(9, gap, 2, begin.data(), end.data(), position.data()).code == errc::bad_value);
  CHECK(policy::fill_trie(9, order, 3, begin.data(), end.data(), position.data()).code == errc::bad_value);
}

TEST_CASE("hybrid_nope_rope: the plan of layers", "[ops][attention][systems]") {
  std::mt19937 generator(seed);
  using plan = attention::hybrid_nope_rope<bf16, d, 16, 4, attention::dense_kv<bf16>, into_float>;
  using windowless = attention::hybrid_nope_rope<bf16, d, 0, 0>;
  STATIC_REQUIRE(plan::is_global(0));
  STATIC_REQUIRE(plan::is_global(8));
  STATIC_REQUIRE_FALSE(plan::is_global(3));
  STATIC_REQUIRE_FALSE(plan::has_positions(4));
  STATIC_REQUIRE(plan::has_positions(5));
  STATIC_REQUIRE(windowless::is_global(3));
  STATIC_REQUIRE(windowless::has_positions(0));
  long long kept = 0;
  for (int l = 0; l < 8; ++l) kept += plan::kept(l, 1000);
  CHECK(kept == 2 * 1000 + 6 * 16);
  const int n = 60;
  rows q({n}, 2, d, row_order::bshd), k({n}, 1, d, row_order::bshd), v({n}, 1, d, row_order::bshd);
  for (rows* x : {&q, &k, &v}) x->fill(generator);
  test::for_each_context(seed, [&](const auto& context) {
    for (int layer = 0; layer < 5; ++layer) {
      rows_of_batch<float> o({n}, 2, d, row_order::bshd);
      plan::visit(layer, [&](auto kind, auto mask) {
        using op = typename decltype(kind)::type;
        typename op::args x{.q = q.rows<const bf16>(), .kv = {k.rows<const bf16>(), v.rows<const bf16>()}, .o = o.rows()};
        x.mask = mask;
        run<op>(context, x);
      });
      for (int h = 0; h < 2; ++h) {
        auto p = head_of(q, k, v, n, n, 0, h, 2);
        p.visible = [=](int i, int j) { return j <= i && (layer % 4 == 0 || i - j < 16); };
        close(p, o, 0, h);
      }
    }
  });
}

TEST_CASE("fastgen: steps under a budget are one prefill and then tokens", "[ops][attention][systems]") {
  std::mt19937 generator(seed);
  const std::vector<int> prompts{50, 3, 0, 31}, total{55, 9, 12, 34};        // sequence 2 came with 8 cached tokens
  const int budget = 16;
  rows q(total, 2, d, row_order::ragged), k(total, 1, d, row_order::ragged), v(total, 1, d, row_order::ragged);
  for (rows* x : {&q, &k, &v}) x->fill(generator);
  std::vector<attention::generating> state(4);
  for (int s = 0; s < 4; ++s) state[s] = {prompts[s], s == 2 ? 8 : 0};
  using op = attention::flash<bf16, d, attention::dense_kv<bf16>, policy::causal, into_float>;
  test::for_each_context(seed, [&](const auto& context) {
    auto now = state;
    rows_of_batch<float> all(total, 2, d, row_order::ragged);
    int steps = 0;
    for (; steps < 100; ++steps) {
      test::array<std::int32_t> offsets(5);
      test::array<int> keys(4);
      int count = 0;
      REQUIRE(attention::compose_step(now.data(), 4, budget, offsets.data(), keys.data(), &count).code == errc::ok);
      REQUIRE(count <= budget);
      const bool prompts_left = std::any_of(now.begin(), now.end(), [](const auto& s) { return s.waiting > 0; });
      if (prompts_left) REQUIRE(count == std::min(budget, std::accumulate(now.begin(), now.end(), 0, [](int n, const auto& s) { return n + (s.waiting > 0 ? s.waiting : 1); })));
      bool more = false;
      for (int s = 0; s < 4; ++s) more = more || now[s].cached < total[s];
      if (!more) break;
      // The rows of this step: the next ones of each sequence that still goes on.
      std::vector<int> lengths(4), first(4);
      for (int s = 0; s < 4; ++s) first[s] = now[s].cached, lengths[s] = std::min(offsets[s + 1] - offsets[s], total[s] - now[s].cached);
      rows step(lengths, 2, d, row_order::ragged);
      for (int s = 0; s < 4; ++s)
        for (int i = 0; i < lengths[s]; ++i)
          for (int h = 0; h < 2; ++h)
            for (int c = 0; c < d; ++c) step.at(s, h, i, c) = q.at(s, h, first[s] + i, c);
      for (int s = 0; s < 4; ++s) keys[s] = first[s] + lengths[s];
      rows_of_batch<float> o(lengths, 2, d, row_order::ragged);
      typename op::args x{.q = step.rows<const bf16>(), .kv = {k.rows<const bf16>(), v.rows<const bf16>(), keys.data()}, .o = o.rows()};
      run<op>(context, x);
      for (int s = 0; s < 4; ++s) {
        for (int i = 0; i < lengths[s]; ++i)
          for (int h = 0; h < 2; ++h)
            for (int c = 0; c < d; ++c) all.at(s, h, first[s] + i, c) = float(o.get(s, h, i, c));
        now[s].waiting = std::max(0, now[s].waiting - (offsets[s + 1] - offsets[s]));
        now[s].cached += lengths[s];
      }
    }
    CHECK(steps < 100);
    for (int s = 0; s < 4; ++s)
      for (int h = 0; h < 2; ++h) {
        auto p = head_of(q, k, v, total[s], total[s], s, h, 2);
        p.visible = [](int i, int j) { return j <= i; };
        const auto r = oracle::attention(p);
        for (int i = s == 2 ? 8 : 0; i < total[s]; ++i)
          for (int e = 0; e < d; ++e)
            if (!(std::abs(all.get(s, h, i, e) - r.o[std::size_t(i) * d + e]) <= test::attention_error<bf16, float>(r, p, i, e))) FAIL("a value of sequence " << s << ", row " << i);
      }
  });
  std::int32_t offsets[2];
  int keys[1], count;
  CHECK(attention::compose_step(state.data(), 1, 0, offsets, keys, &count).code == errc::bad_value);
  CHECK(attention::compose_step(state.data(), 1, 8, nullptr, keys, &count).code == errc::null_pointer);
}

TEST_CASE("hogwild: a query turned for each block reads one cache in any order", "[ops][attention][systems]") {
  std::mt19937 generator(seed);
  constexpr int slots = 3;
  const int workers = 2, own_rows = 2, heads = 4, kv_heads = 2, size = 8, pool = 24;
  // Cache blocks: 0 the prompt, 1 and 2 the workers'. Worker 0 reads 0, 2, 1; worker 1 reads 0, 1, 2: the own one last.
  const int block_length[] = {30, 21, 13}, order[workers][slots] = {{0, 2, 1}, {0, 1, 2}}, first_page[] = {0, 8, 16};
  rows plain({30, 21, 13}, kv_heads, d, row_order::ragged), v({30, 21, 13}, kv_heads, d, row_order::ragged), q({own_rows, own_rows}, heads, d, row_order::bshd);
  for (rows* x : {&plain, &v, &q}) x->fill(generator);
  test::array<bf16> pk(std::size_t(pool) * size * kv_heads * d), pv(std::size_t(pool) * size * kv_heads * d);
  for (bf16& x : pk) x = bf16{0x7fc0};
  for (bf16& x : pv) x = bf16{0x7fc0};
  rows stored({30, 21, 13}, kv_heads, d, row_order::ragged);
  for (int b = 0; b < 3; ++b)
    for (int j = 0; j < block_length[b]; ++j)
      for (int h = 0; h < kv_heads; ++h) {
        for (int c = 0; c < d; ++c) stored.at(b, h, j, c) = plain.at(b, h, j, c);
        rotate(stored, b, h, j, j);                                  // from the beginning of its block, once
        for (int c = 0; c < d; ++c) {
          const std::size_t at = ((std::size_t(first_page[b] + j / size) * size + j % size) * kv_heads + h) * d + c;
          pk[at] = stored.at(b, h, j, c), pv[at] = v.at(b, h, j, c);
        }
      }
  test::array<int> table(slots * workers * 4), length(slots * workers), positions(slots * workers * own_rows);
  test::array<float> frequencies(4 * d / 2);
  policy::fill_frequencies(policy::rotary<>{d}, frequencies.data());
  for (int t = 0; t < slots; ++t)
    for (int w = 0; w < workers; ++w) {
      length[t * workers + w] = block_length[order[w][t]];
      for (int n = 0; n < 4; ++n) table[(t * workers + w) * 4 + n] = n * size < block_length[order[w][t]] ? first_page[order[w][t]] + n : 1 << 28;
    }
  using op = attention::hogwild<bf16, d, slots, 0, into_float>;
  op::fill_positions(length.data(), workers, own_rows, positions.data());
  CHECK(positions[0] == 62);                      // worker 0's first row: the 63rd token of its view
  CHECK(positions[2 * workers * own_rows] == 62 - 43);
  test::for_each_context(seed, [&](const auto& context) {
    rows_of_batch<float> o({own_rows, own_rows}, heads, d, row_order::bshd), lse({own_rows, own_rows}, heads, 1, row_order::bshd);
    typename op::args x{.q = q.rows<const bf16>(), .positions = positions.data(), .frequencies = frequencies.data(), .o = o.rows(), .lse = lse.rows()};
    for (int t = 0; t < slots; ++t)
      x.slots[t] = {attention::pool_of(policy::nhd{}, static_cast<const bf16*>(pk.data()), pool, size, kv_heads, d), attention::pool_of(policy::nhd{}, static_cast<const bf16*>(pv.data()), pool, size, kv_heads, d),
                    pages{table.data() + t * workers * 4, 4, 0, length.data() + t * workers, 0, size}, workers, 30};
    run<op>(context, x);
    // The definition: the blocks one after another, every key rotated by its place there, in double.
    std::vector<long double> frequency(d / 2);
    for (int i = 0; i < d / 2; ++i) frequency[i] = oracle::rope_inverse_frequency(i, d, 10000);
    const auto turned = [&](const std::vector<double>& head, int position) { return oracle::rope(head, frequency, position, false); };
    for (int w = 0; w < workers; ++w)
      for (int h = 0; h < heads; ++h) {
        oracle::attention_problem p;
        p.queries = own_rows, p.keys = 64, p.d = p.dv = d, p.scale = 1 / std::sqrt(double(d));
        for (int i = 0; i < own_rows; ++i) {
          std::vector<double> head(d);
          for (int c = 0; c < d; ++c) head[c] = q.get(w, h, i, c);
          for (double y : turned(head, 62 + i)) p.q.push_back(y);
        }
        int place = 0;
        for (int t = 0; t < slots; ++t)
          for (int j = 0; j < block_length[order[w][t]]; ++j, ++place) {
            std::vector<double> head(d);
            for (int c = 0; c < d; ++c) head[c] = plain.get(order[w][t], h / 2, j, c), p.v.push_back(v.get(order[w][t], h / 2, j, c));
            for (double y : turned(head, place)) p.k.push_back(y);
          }
        p.visible = [](int i, int j) { return j <= 62 + i; };
        const auto r = oracle::attention(p);
        for (int i = 0; i < own_rows; ++i) {
          // Rotated queries and keys were rounded to bf16: a score is off by at most 2^-7 of its reach.
          const double slack = 2 * 0x1p-8 * r.reach[i];
          for (int e = 0; e < d; ++e)
            if (!(std::abs(o.get(w, h, i, e) - r.o[i * d + e]) <= test::attention_error<bf16, float>(r, p, i, e) + slack * r.size[i * d + e])) FAIL("a value of worker " << w);
          CHECK(std::abs(lse.get(w, h, i, 0) - r.lse[i]) <= slack);
        }
      }
    auto bad = x;
    bad.positions = nullptr;
    CHECK(op::check(context, bad).code == errc::null_pointer);
    bad = x, bad.q.head_stride = 2 * d;
    CHECK(op::check(context, bad).code == errc::bad_shape);
  });
}

TEST_CASE("mla_decode: absorbed attention is attention with expanded keys and values", "[ops][attention][systems]") {
  std::mt19937 generator(seed);
  constexpr int latent = 64, rotary = 16, heads = 6, nope = 24, value = 24, queries = 2, keys = 75, size = 16, pool = 9;
  using op = attention::mla_decode<bf16, latent, rotary, attention::paged_kv<bf16>, into_float>;
  std::normal_distribution<double> normal;
  rows cache({keys}, 1, latent + rotary, row_order::bshd);
  cache.fill(generator);
  // Weights of the model, and queries as the model has them.
  std::vector<double> up_k(heads * nope * latent), up_v(heads * value * latent), own(queries * heads * nope);
  for (double& x : up_k) x = normal(generator) / 8;
  for (double& x : up_v) x = normal(generator) / 8;
  for (double& x : own) x = normal(generator);
  rows q({queries}, heads, latent + rotary, row_order::bshd);
  q.fill(generator);
  for (int i = 0; i < queries; ++i)
    for (int h = 0; h < heads; ++h)
      for (int c = 0; c < latent; ++c) {
        double sum = 0;
        for (int e = 0; e < nope; ++e) sum += up_k[(h * nope + e) * latent + c] * own[(i * heads + h) * nope + e];
        q.at(0, h, i, c) = narrow<bf16>(float(sum));
      }
  test::array<bf16> slots(std::size_t(pool) * size * (latent + rotary));
  test::array<int> table(6), length(1);
  for (bf16& x : slots) x = bf16{0x7fc0};
  const int order[] = {7, 2, 0, 8, 5};
  for (int n = 0; n < 6; ++n) table[n] = n < 5 ? order[n] : 1 << 28;
  length[0] = keys;
  for (int j = 0; j < keys; ++j)
    for (int c = 0; c < latent + rotary; ++c) slots[(std::size_t(table[j / size]) * size + j % size) * (latent + rotary) + c] = cache.at(0, 0, j, c);
  const auto k = attention::pool_of(policy::nhd{}, static_cast<const bf16*>(slots.data()), pool, size, 1, latent + rotary);
  const double scale = 1 / std::sqrt(double(nope + rotary));
  test::for_each_context(seed, [&](const auto& context) {
    rows_of_batch<float> o({queries}, heads, latent, row_order::bshd);
    typename op::args x{.q = q.rows<const bf16>(), .kv = {k, attention::leading(k, latent), pages{table.data(), 6, 0, length.data(), 0, size}, 1, keys}, .o = o.rows(), .scale = float(scale)};
    run<op>(context, x);
    for (int h = 0; h < heads; ++h) {
      // The absorbed problem, with the queries that the operation got.
      oracle::attention_problem p;
      p.queries = queries, p.keys = keys, p.d = latent + rotary, p.dv = latent, p.scale = scale;
      p.visible = [=](int i, int j) { return j <= i + keys - queries; };
      for (int i = 0; i < queries; ++i)
        for (int c = 0; c < latent + rotary; ++c) p.q.push_back(q.get(0, h, i, c));
      for (int j = 0; j < keys; ++j) {
        for (int c = 0; c < latent + rotary; ++c) p.k.push_back(cache.get(0, 0, j, c));
        for (int c = 0; c < latent; ++c) p.v.push_back(cache.get(0, 0, j, c));
      }
      close(p, o, 0, h);
      // The expanded problem: keys [W c; r], values W c, queries as they were before they were absorbed and rounded.
      oracle::attention_problem wide;
      wide.queries = queries, wide.keys = keys, wide.d = nope + rotary, wide.dv = value, wide.scale = scale, wide.visible = p.visible;
      for (int i = 0; i < queries; ++i) {
        for (int e = 0; e < nope; ++e) wide.q.push_back(own[(i * heads + h) * nope + e]);
        for (int c = 0; c < rotary; ++c) wide.q.push_back(q.get(0, h, i, latent + c));
      }
      const auto expand = [&](const std::vector<double>& up, int row, const auto& at) {
        double sum = 0;
        for (int c = 0; c < latent; ++c) sum += up[row * latent + c] * at(c);
        return sum;
      };
      for (int j = 0; j < keys; ++j) {
        const auto at = [&](int c) { return cache.get(0, 0, j, c); };
        for (int e = 0; e < nope; ++e) wide.k.push_back(expand(up_k, h * nope + e, at));
        for (int c = 0; c < rotary; ++c) wide.k.push_back(cache.get(0, 0, j, latent + c));
        for (int e = 0; e < value; ++e) wide.v.push_back(expand(up_v, h * value + e, at));
      }
      const auto r = oracle::attention(wide), absorbed = oracle::attention(p);
      for (int i = 0; i < queries; ++i)
        for (int e = 0; e < value; ++e) {
          const double got = expand(up_v, h * value + e, [&](int c) { return o.get(0, h, i, c); });
          // Absorbed queries were rounded to bf16: 2^-9 of the reach of a score, twice in a weight; weights again by 2^-8.
          double size = 0;
          for (int c = 0; c < latent; ++c) size += std::abs(up_v[(h * value + e) * latent + c]) * absorbed.size[i * latent + c];
          CHECK(std::abs(got - r.o[i * value + e]) <= (0x1p-8 + 2 * 0x1p-9 * absorbed.reach[i]) * size);
        }
    }
  });
}
