// What attention is told besides its operands: normalizers, score modifiers, lists of blocks; and latent keys (MLA).
#include <catch2/catch.hpp>
#include <set>
#include <smalti/policy/gate.hpp>
#include <smalti/policy/sink_window_blocks.hpp>
#include <smalti/policy/work_list.hpp>
#include "ops/attention_problem.hpp"

using namespace smalti;
namespace policy = smalti::policy;
using test::attention_shape;
using test::row_order;
using test::rows_of_batch;

namespace {

constexpr unsigned seed = 20261123;

template <class Normalizer, class Score = policy::identity_score, class Blocks = policy::all_blocks, int V = 0, bool Split = false> struct with : attention::options {
  using out = float;
  using normalizer = Normalizer;
  using score = Score;
  using blocks = Blocks;
  static constexpr int value_dim = V;
  static constexpr bool split_kv = Split;
};

template <class Gate> struct with_gate : with<policy::softmax> { using gate = Gate; };

template <int D, class Mask, class Options, class F>
void compare(const attention_shape& shape, const test::problem_terms& terms, F finish, float size = 1) {
  std::mt19937 generator(seed + D);
  CAPTURE(seed, D);
  rows_of_batch<bf16> q(shape.queries, shape.heads, D, row_order::ragged), k(shape.keys, shape.kv_heads, D, row_order::ragged), v(shape.keys, shape.kv_heads, D, row_order::ragged);
  q.fill(generator, size), k.fill(generator), v.fill(generator);
  using op = test::tuned_op<attention::flash<bf16, D, attention::dense_kv<bf16>, Mask, Options>, test::small_tiles>;
  test::check_attention<op, bf16, float>(shape, q, row_order::ragged, [&](int s, int h, int j, int c) { return k.get(s, h, j, c); },
                                         [&](int s, int h, int j, int c) { return v.get(s, h, j, c); }, terms, seed, [&](const auto&, auto& x) {
                                           x.kv = {k.template rows<const bf16>(), v.template rows<const bf16>()};
                                           finish(x);
                                         });
}

struct latent : with<policy::softmax, policy::identity_score, policy::all_blocks, 512> {
  static constexpr bool packed = true;
};

struct float_out : attention::options { using out = float; };
struct balanced : attention::options {
  using out = float;
  using work = policy::balanced_work;
  static constexpr bool split_kv = true;
};

const attention_shape prefill{{40, 0, 21}, {77, 9, 0}, 4, 2, 64, 64}, decode{{1, 2, 1}, {77, 128, 0}, 8, 2, 64, 64};

oracle::normalizer with_power(double power) {
  return [power](const std::vector<double>& z) {
    auto r = oracle::softmax()(z);
    r.lse *= power;
    return r;
  };
}

}  // namespace

TEST_CASE("a learned sink is one more logit without a value", "[ops][attention]") {
  for (const auto& shape : {prefill, decode}) {
    test::array<float> sinks(shape.heads);
    for (int h = 0; h < shape.heads; ++h) sinks[h] = h == 1 ? -INFINITY : float(h) - 1.5f;
    const auto terms = [&](oracle::attention_problem& p, int s, int h) {
      test::causal_terms()(p, s, h);
      p.normalize = oracle::softmax(sinks[h]);
    };
    compare<64, policy::causal, with<policy::softmax_with_sink>>(shape, terms, [&](auto& x) { x.weights = {sinks.data(), shape.heads}; });
    compare<64, policy::causal, with<policy::softmax_with_sink, policy::identity_score, policy::all_blocks, 0, true>>(shape, terms, [&](auto& x) { x.weights = {sinks.data(), shape.heads}, x.split_keys = 32; });
  }
}

TEST_CASE("a power multiplies the log-sum-exp alone", "[ops][attention]") {
  compare<64, policy::full, with<policy::softmax_with_power>>(prefill, [](oracle::attention_problem& p, int, int) { p.normalize = with_power(0.81); }, [](auto& x) { x.weights.power = 0.81f; });
}

TEST_CASE("weights of one logit alone add up", "[ops][attention]") {
  const auto silu = [](double z) { return z / (1 + std::exp(-z)) / 50; };
  for (const auto& shape : {prefill, decode}) {
    const auto terms = [&](oracle::attention_problem& p, int s, int h) {
      test::causal_terms()(p, s, h);
      p.normalize = oracle::pointwise(silu);
    };
    compare<64, policy::causal, with<policy::silu_weights>>(shape, terms, [](auto& x) { x.weights.inverse_n = 1 / 50.0f; });
    compare<64, policy::causal, with<policy::silu_weights, policy::identity_score, policy::all_blocks, 0, true>>(shape, terms, [](auto& x) { x.weights.inverse_n = 1 / 50.0f, x.split_keys = 32; });
    compare<64, policy::causal, with<policy::linear_weights>>(shape, [&](oracle::attention_problem& p, int s, int h) {
      test::causal_terms()(p, s, h);
      p.normalize = oracle::pointwise([](double z) { return z / 50; });
    }, [](auto& x) { x.weights.inverse_n = 1 / 50.0f; });
  }
}

TEST_CASE("a share of the mean value is blended in", "[ops][attention]") {
  const attention_shape shape{{1}, {77}, 8, 2, 64, 64};
  test::array<float> shares(shape.heads), means(std::size_t(shape.heads) * 64);
  std::mt19937 generator(seed);
  for (int h = 0; h < shape.heads; ++h) shares[h] = 0.1f * h;
  for (float& m : means) m = 0;                // a mean of zero: what is left is the share
  const auto terms = [&](oracle::attention_problem& p, int, int h) {
    p.normalize = [share = double(shares[h])](const std::vector<double>& z) {
      auto r = oracle::softmax()(z);
      for (double& w : r.w) w *= share;
      return r;
    };
  };
  compare<64, policy::full, with<policy::softmax_with_mean>>(shape, terms, [&](auto& x) { x.weights = {shares.data(), means.data(), shape.heads, 1, 64}; });
}

TEST_CASE("a soft cap comes after the scale and before the mask", "[ops][attention]") {
  const auto terms = [](oracle::attention_problem& p, int s, int h) {
    test::causal_terms()(p, s, h);
    p.logit = [](double z, int, int) { return 5 * std::tanh(z / 5); };
  };
  compare<64, policy::causal, with<policy::softmax, policy::soft_cap>>(prefill, terms, [](auto& x) { x.logits.cap = 5; }, 4);
  compare<64, policy::causal, with<policy::softmax, policy::soft_cap>>(decode, terms, [](auto& x) { x.logits.cap = 5; }, 4);
}

// Lists for `Height` rows; each holds some of the blocks, some are empty; the mask holds inside them.
template <int Width, int Height, bool Split> void listed(const attention_shape& shape, int list_heads) {
  std::mt19937 generator(seed + Width + Height);
  CAPTURE(Width, Height, Split, list_heads);
  const int rows = (shape.most_queries() + Height - 1) / Height;
  std::vector<std::set<int>> lists(std::size_t(shape.sequences()) * list_heads * rows);
  test::array<std::int32_t> offsets(lists.size() + 1);
  std::vector<int> all;
  offsets[0] = 0;
  for (std::size_t r = 0; r < lists.size(); ++r) {
    const int sequence = int(r / (std::size_t(list_heads) * rows)), blocks = (shape.keys[sequence] + Width - 1) / Width;
    for (int b = 0; b < blocks; ++b)
      if (generator() % 3 != 0 && r % 5 != 1) lists[r].insert(b);
    for (int b : lists[r]) all.push_back(b);
    offsets[r + 1] = std::int32_t(all.size());
  }
  test::array<std::int32_t> indices(all.size() + 1);
  for (std::size_t i = 0; i < all.size(); ++i) indices[i] = all[i];
  const auto terms = [&](oracle::attention_problem& p, int s, int h) {
    p.visible = [&, s, h, shift = p.keys - p.queries](int i, int j) {
      return j <= i + shift && lists[(std::size_t(s) * list_heads + h / (shape.heads / list_heads)) * rows + i / Height].count(j / Width) != 0;
    };
  };
  using options = with<policy::softmax, policy::identity_score, policy::block_lists<Width, Height>, 0, Split>;
  compare<64, policy::causal, options>(shape, terms, [&](auto& x) {
    x.blocks = {offsets.data(), indices.data(), list_heads, rows};
    x.split_keys = Split ? 64 : 0;
  });
}

TEST_CASE("lists of blocks say which keys are looked at", "[ops][attention]") {
  listed<32, 32, false>({{70, 40}, {150, 99}, 4, 2, 64, 64}, 2);
  listed<64, 32, true>({{70, 40}, {150, 99}, 4, 2, 64, 64}, 4);
  listed<32, 1, false>({{3, 1}, {150, 99}, 8, 2, 64, 64}, 2);
  listed<16, 1, true>({{3, 1}, {150, 99}, 8, 2, 64, 64}, 8);
}

TEST_CASE("a window with sinks looks at its own blocks only", "[ops][attention]") {
  const auto compare_window = [](auto blocks, const attention_shape& shape, int sinks, int count) {
    using iterator = decltype(blocks);
    CAPTURE(sinks, count, iterator::width, iterator::height);
    const auto mask = policy::sink_window_keys(sinks, count);
    const auto terms = [=](oracle::attention_problem& p, int, int) {
      p.visible = [=, shift = p.keys - p.queries](int i, int j) { return j <= i + shift && (j < sinks || j > i + shift - count); };
    };
    compare<64, policy::sink_window<>, with<policy::softmax, policy::identity_score, iterator, 0, true>>(shape, terms, [&](auto& x) {
      x.mask = mask;
      x.blocks = policy::blocks_of<iterator::width, iterator::height>(mask);
      x.split_keys = 64;
    });
  };
  for (const auto& [sinks, count] : {std::pair{4, 20}, {33, 1}, {0, 70}, {200, 5}}) {
    compare_window(policy::sink_window_blocks<32, 32>{}, {{70, 40}, {150, 33}, 4, 2, 64, 64}, sinks, count);
    compare_window(policy::sink_window_blocks<16, 1>{}, {{3, 1}, {150, 99}, 8, 2, 64, 64}, sinks, count);
  }
  // Every pair that the mask shows lies in a block of the list, blocks ascend, and there are no more than those of sinks and window.
  for (int keys = 0; keys <= 70; keys += 7)
    for (int queries = 1; queries <= 40; queries += 3)
      for (int sinks : {0, 1, 16, 17, 40})
        for (int count : {1, 16, 30}) {
          const auto mask = policy::for_lengths(policy::sink_window_keys(sinks, count), queries, keys);
          const auto blocks = policy::for_lengths(policy::blocks_of<16, 8>(policy::sink_window_keys(sinks, count)), queries, keys);
          for (int row = 0; row * 8 < queries; ++row) {
            const auto list = blocks.at(0, 0, row);
            std::set<int> there;
            for (int i = 0; i < list.count(); ++i) {
              REQUIRE((i == 0 || list.block(i) > list.block(i - 1)));
              REQUIRE(list.block(i) * 16 < keys);
              there.insert(list.block(i));
            }
            REQUIRE(list.count() <= (sinks + 15) / 16 + (count + 7 + 14) / 16 + 1);
            for (int q = row * 8; q < queries && q < row * 8 + 8; ++q)
              for (int k = 0; k < keys; ++k)
                if (mask.visible(q, k)) REQUIRE(there.count(k / 16) == 1);
          }
        }
}

TEST_CASE("a gate multiplies the result before it is rounded", "[ops][attention]") {
  const auto compare_gated = [](auto gate, const attention_shape& shape, auto activation) {
    std::mt19937 generator(seed);
    rows_of_batch<bf16> g(shape.queries, shape.heads, 64, row_order::ragged);
    g.fill(generator);
    const auto terms = [&](oracle::attention_problem& p, int s, int h) {
      test::causal_terms()(p, s, h);
      p.gate = [&, s, h](int i, int e) { return activation(g.get(s, h, i, e)); };
    };
    compare<64, policy::causal, with_gate<decltype(gate)>>(shape, terms, [&](auto& x) { x.gate = g.rows<const bf16>(); });
  };
  const auto sigmoid = [](double z) { return 1 / (1 + std::exp(-z)); };
  compare_gated(policy::sigmoid_gate<bf16>{}, prefill, sigmoid);
  compare_gated(policy::sigmoid_gate<bf16>{}, decode, sigmoid);
  compare_gated(policy::silu_gate<bf16>{}, decode, [=](double z) { return z * sigmoid(z); });
  compare_gated(policy::product_gate<bf16>{}, prefill, [](double z) { return z; });
}

TEST_CASE("ragged work in parts of equal length", "[ops][attention]") {
  using op = test::tuned_op<attention::flash<bf16, 64, attention::dense_kv<bf16>, policy::causal, balanced>, test::small_tiles>;
  const auto compare_parts = [](const attention_shape& shape, int blocks, bool decode) {
    CAPTURE(blocks, decode);
    std::mt19937 generator(seed);
    rows_of_batch<bf16> q(shape.queries, shape.heads, 64, row_order::ragged), k(shape.keys, shape.kv_heads, 64, row_order::ragged), v(shape.keys, shape.kv_heads, 64, row_order::ragged);
    q.fill(generator), k.fill(generator), v.fill(generator);
    const int count = policy::balanced_items(shape.sequences(), blocks);
    test::array<policy::work_item> items(count);
    test::array<std::int32_t> begins(blocks + 1);
    test::check_attention<op, bf16, float>(shape, q, row_order::ragged, [&](int s, int h, int j, int c) { return k.get(s, h, j, c); },
                                           [&](int s, int h, int j, int c) { return v.get(s, h, j, c); }, test::causal_terms(), seed, [&](const auto&, auto& x) {
                                             x.kv = {k.rows<const bf16>(), v.rows<const bf16>()};
                                             REQUIRE(policy::plan_balanced(shape.keys.data(), shape.sequences(), 32, blocks, items.data(), count, begins.data()).code == errc::ok);
                                             x.work = {items.data(), count, begins.data(), blocks};
                                           });
  };
  for (const int blocks : {1, 4, 9}) {
    compare_parts({{1, 1, 2, 1}, {300, 7, 130, 0}, 4, 2, 64, 64}, blocks, true);
    compare_parts({{40, 3}, {170, 99}, 4, 2, 64, 64}, blocks, false);
  }
}

#if !defined(__CUDACC__)
TEST_CASE("a list of work that leaves parts out is refused", "[ops][attention]") {
  using op = attention::flash<bf16, 64, attention::dense_kv<bf16>, policy::causal, balanced>;
  test::array<bf16> memory(4 * 2 * 128 * 64);
  test::array<float> o(2 * 64);
  const std::int32_t lengths[] = {128, 128};
  policy::work_item items[6];
  std::int32_t begins[5];
  const host_context context{1};
  op::args x{.q = attention::bshd<const bf16>(memory.data(), 2, 1, 1, 64), .kv = {attention::bshd<const bf16>(memory.data(), 2, 128, 1, 64), attention::bshd<const bf16>(memory.data(), 2, 128, 1, 64)}, .o = attention::bshd(o.data(), 2, 1, 1, 64)};
  x.work = {items, 6, begins, 4};
  const auto plan = [&] { REQUIRE(policy::plan_balanced(lengths, 2, 32, 4, items, 6, begins).code == errc::ok); };
  plan();
  REQUIRE(op::check(context, x).code == errc::ok);
  items[1].begin += 1;
  REQUIRE(op::check(context, x).code == errc::bad_value);
  plan(), items[2].sequence = 0;
  REQUIRE(op::check(context, x).code == errc::bad_value);
  plan(), items[0].parts = 7;
  REQUIRE(op::check(context, x).code == errc::bad_value);
  plan();
  for (policy::work_item& item : items)
    if (item.sequence == 1) item.sequence = -1;
  REQUIRE(op::check(context, x).code == errc::bad_shape);
  plan(), x.split_keys = 64;
  REQUIRE(op::check(context, x).code == errc::bad_value);
  x.split_keys = 0, x.work.count = 1;
  REQUIRE(op::check(context, x).code == errc::bad_shape);
  x.work = {items, 6, begins, 4};
  plan(), begins[4] -= 1;
  REQUIRE(op::check(context, x).code == errc::bad_value);
  plan(), begins[1] = begins[4];
  REQUIRE(op::check(context, x).code == errc::bad_value);
  plan(), x.work.workers = 0;
  REQUIRE(op::check(context, x).code == errc::bad_value);
  x.work = {items, 6, nullptr, 4};
  REQUIRE(op::check(context, x).code == errc::null_pointer);
  x.work = {nullptr, 6, begins, 4};
  REQUIRE(op::check(context, x).code == errc::null_pointer);
}
#endif

TEST_CASE("a balanced list covers every tile once", "[policy][attention]") {
  std::mt19937 generator(seed);
  CAPTURE(seed);
  for (int trial = 0; trial < 200; ++trial) {
    const int sequences = int(generator() % 9), workers = 1 + int(generator() % 40), tile = 1 + int(generator() % 64), overhead = int(generator() % 4);
    std::vector<std::int32_t> lengths(sequences), begins(workers + 1);
    long long all = 0;
    for (auto& n : lengths) n = std::int32_t(generator() % (trial % 2 ? 2000 : 5)), all += (n + tile - 1) / tile + overhead;
    std::vector<policy::work_item> items(policy::balanced_items(sequences, workers));
    CAPTURE(trial, sequences, workers, tile, overhead);
    REQUIRE(policy::plan_balanced(lengths.data(), sequences, tile, workers, items.data(), int(items.size()), begins.data(), overhead).code == errc::ok);
    int w = 0;
    for (int s = 0; s < sequences; ++s) {
      int at = 0;
      const int first = w, parts = items[w].parts;
      for (int p = 0; p < parts; ++p, ++w) {
        REQUIRE(items[w].sequence == s);
        REQUIRE(items[w].part == p);
        REQUIRE(items[w].parts == parts);
        REQUIRE(items[w].place == first);
        REQUIRE(items[w].begin == at);
        at = items[w].end;
      }
      REQUIRE(at == (lengths[s] + tile - 1) / tile);
    }
    REQUIRE(begins[0] == 0);
    REQUIRE(begins[workers] == w);
    for (int k = 0; k < workers; ++k) {
      REQUIRE(begins[k] <= begins[k + 1]);
      long long cost = 0;
      for (int i = begins[k]; i < begins[k + 1]; ++i) cost += items[i].end - items[i].begin + overhead;
      REQUIRE(cost <= (all + workers - 1) / workers + std::max(overhead, 1));
      for (int i = begins[k] + 1; i < begins[k + 1]; ++i) REQUIRE(items[i].sequence > items[i - 1].sequence);
    }
    for (; w < int(items.size()); ++w) REQUIRE(items[w].sequence == -1);
  }
  policy::work_item one[3];
  std::int32_t begins[4];
  const std::int32_t length = 5, negative = -1;
  REQUIRE(policy::plan_balanced(&length, 1, 0, 1, one, 3, begins).code == errc::bad_value);
  REQUIRE(policy::plan_balanced(&length, 1, 16, 0, one, 3, begins).code == errc::bad_value);
  REQUIRE(policy::plan_balanced(&length, 1, 16, 3, one, 3, begins).code == errc::bad_shape);
  REQUIRE(policy::plan_balanced(&negative, 1, 16, 1, one, 3, begins).code == errc::bad_value);
}

TEST_CASE("values of latent attention are the beginnings of its keys", "[ops][attention]") {
  attention_shape shape{{3, 1}, {77, 40}, 8, 1, 576, 512};      // 24 rows of a group: packed
  std::mt19937 generator(seed);
  rows_of_batch<bf16> q(shape.queries, shape.heads, 576, row_order::ragged), k(shape.keys, 1, 576, row_order::ragged);
  q.fill(generator), k.fill(generator);
  using op = attention::flash<bf16, 576, attention::dense_kv<bf16>, policy::causal, latent>;
  const auto value = [&](int s, int h, int j, int c) { return k.get(s, h, j, c); };
  test::check_attention<test::tuned_op<op, test::small_tiles>, bf16, float>(shape, q, row_order::ragged, value, value, test::causal_terms(), seed, [&](const auto&, auto& x) {
    const auto keys = k.rows<const bf16>();
    x.kv = {keys, attention::leading(keys, 512)};
  });
}

TEST_CASE("parts of the keys merge to the result over all of them", "[ops][attention]") {
  constexpr int D = 64, heads = 4, rows = 21, keys = 90, parts = 4;
  std::mt19937 generator(seed);
  attention_shape shape{{rows}, {keys}, heads, 2, D, D};
  rows_of_batch<bf16> q(shape.queries, heads, D, row_order::bshd), k(shape.keys, 2, D, row_order::bshd), v(shape.keys, 2, D, row_order::bshd);
  q.fill(generator), k.fill(generator), v.fill(generator);
  // Part p has the keys [cut[p], cut[p + 1]); the second has none.
  const int cut[] = {0, 30, 30, 77, keys};
  using op = attention::flash<bf16, D, attention::dense_kv<bf16>, policy::full, float_out>;
  std::vector<oracle::attention_problem> problems;
  for (int h = 0; h < heads; ++h)
    problems.push_back(test::oracle_of(shape, q, [&](int s, int g, int j, int c) { return k.get(s, g, j, c); }, [&](int s, int g, int j, int c) { return v.get(s, g, j, c); }, 0.125, 0, h));
  test::for_each_context(seed, [&](const auto& context) {
    test::array<float> o(std::size_t(parts) * rows * heads * D), lse(std::size_t(parts) * rows * heads), all(std::size_t(rows) * heads * D), all_lse(std::size_t(rows) * heads);
    for (float& x : o) x = NAN;
    for (int p = 0; p < parts; ++p) {
      const int n = cut[p + 1] - cut[p];
      auto part_of = [&](auto x) { return x.data += std::size_t(cut[p]) * x.row_stride, x.rows = n, x; };
      const typename op::args x{.q = q.rows<const bf16>(), .kv = {part_of(k.rows<const bf16>()), part_of(v.rows<const bf16>())},
                                .o = attention::bshd(o.data() + std::size_t(p) * rows * heads * D, 1, rows, heads, D), .lse = attention::bshd(lse.data() + std::size_t(p) * rows * heads, 1, rows, heads, 1)};
      test::scratch memory(op::workspace_bytes(context, x));
      REQUIRE(op::run(context, x, memory.get()).code == errc::ok);
      test::wait(context);
    }
    for (std::size_t i = 0; i < std::size_t(rows) * heads * D; ++i) o[std::size_t(rows) * heads * D + i] = NAN;      // values of a part without keys are not looked at
    using merge = attention::merge<>;
    const merge::args x{.o = attention::bshd<const float>(o.data(), 1, rows, heads, D), .lse = attention::bshd<const float>(lse.data(), 1, rows, heads, 1), .o_distance = rows * heads * D,
                        .lse_distance = rows * heads, .parts = parts, .result = attention::bshd(all.data(), 1, rows, heads, D), .result_lse = attention::bshd(all_lse.data(), 1, rows, heads, 1)};
    REQUIRE(merge::run(context, x).code == errc::ok);
    test::wait(context);
    REQUIRE(all.guarded());
    for (int h = 0; h < heads; ++h) {
      const auto r = oracle::attention(problems[h]);
      for (int i = 0; i < rows; ++i) {
        for (int e = 0; e < D; ++e) REQUIRE(std::abs(all[(std::size_t(i) * heads + h) * D + e] - r.o[i * D + e]) <= 2 * test::attention_error<bf16, float>(r, problems[h], i, e));
        REQUIRE(std::abs(all_lse[i * heads + h] - r.lse[i]) <= 1e-4 * std::max(1.0, std::abs(r.lse[i])));
      }
    }
  });
}
