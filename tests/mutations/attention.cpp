// The attention agent on small tiles against a double oracle: masks, fp8 keys, pages of three sizes, extreme scores.
#include <numeric>

#include <smalti/block/attention/flash.hpp>
#include <smalti/block/attention/kv_rotated.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/policy/score.hpp>
#include <smalti/tile/launch.hpp>

#include "battery.hpp"

using namespace smalti;
using namespace battery;

namespace {

constexpr int d = 32, heads = 4, kv_heads = 2;

template <class Problem> struct kernel {
  using arguments = typename Problem::arguments;
  template <target> using agent = attention::flash_agent<attention::attention_tuning{16, 32}, Problem>;
};

// Only keys near the query; says which keys that leaves and nothing about whole tiles.
struct window {
  int width = 0;
  constexpr policy::span keys(policy::span q, int length) const {
    return {std::min(std::max(q.first - width, 0), length), std::min(q.last, length)};
  }
  constexpr policy::span whole(policy::span, int) const { return {0, 0}; }
  template <class Q, class K> auto visible(Q q, K k) const { return k <= q && k > q - width; }
};

// P is rounded to bf16: |error| <= 2^-8 max |v| and a little.
template <class Kv, class Mask, class Key, class Value, class Visible>
void compare(int q_len, int kv_len, const Kv& kv, const Mask& mask, Key key, Value val, Visible visible, float scale, const char* what) {
  const matrix<bf16> q(heads, q_len, d, d, 51);
  matrix<float> o(heads, q_len, d, d), lse(1, heads, q_len, q_len + 3);
  using problem = attention::flash_problem<bf16, d, d, Kv, float, Mask, policy::identity_score, policy::softmax, policy::lse_2<float>, false, false>;
  for (const host_context& context : contexts()) {
    o.at.poison(), lse.at.poison();
    poison_stack();
    const status st = launch<kernel<problem>>(context, {.q = attention::bhsd<const bf16>(q.at.data(), 1, q_len, heads, d),
                                                        .o = attention::bhsd(o.at.data(), 1, q_len, heads, d),
                                                        .lse = {lse.at.data(), 1, heads, q_len, 1, 0, q_len + 3, 1},
                                                        .heads_per_kv = heads / kv_heads,
                                                        .group = 1,
                                                        .scale = scale * 0.6931471805599453f,
                                                        .kv = kv,
                                                        .mask = mask,
                                                        .score = {},
                                                        .normalizer = {},
                                                        .splits = 1,
                                                        .split_tiles = 0,
                                                        .partial = nullptr,
                                                        .stats = {},
                                                        .arrived = nullptr,
                                                        .blocks = {}});
    expect(st.code == errc::ok, st.what);
    expect(o.intact() && lse.intact(), "attention stays inside");
    std::vector<double> w(kv_len);
    for (int h = 0; h < heads; ++h)
      for (int i = 0; i < q_len; ++i) {
        double top = -INFINITY, sum = 0, most = 0;
        for (int j = 0; j < kv_len; ++j) {
          double s = 0;
          for (int e = 0; e < d; ++e) s += q.get(h, i, e) * key(h / 2, j, e);
          w[j] = visible(i, j) ? s * scale : -INFINITY;
          top = std::max(top, w[j]);
        }
        for (double& x : w) sum += x = x == -INFINITY ? 0 : std::exp2(x - top);
        for (int e = 0; e < d; ++e) {
          double s = 0;
          for (int j = 0; j < kv_len; ++j)
            if (w[j] != 0) s += w[j] * val(h / 2, j, e), most = std::max(most, std::abs(val(h / 2, j, e)));
          expect(std::abs((sum > 0 ? s / sum : 0) - o.get(h, i, e)) <= 0x1p-8 * most + 1e-6, what);
        }
        const double got = lse.get(0, h, i);
        expect(sum > 0 ? std::abs(top + std::log2(sum) - got) <= 1e-4 + 1e-6 * std::abs(top) : got == -INFINITY, "the log-sum-exp");
      }
  }
}

template <class T> void contiguous(int q_len, int kv_len, float k_scale, float v_scale) {
  const matrix<T> k(kv_heads, kv_len, d, d, 61), v(kv_heads, kv_len, d, d, 62);
  const attention::dense_kv<T> kv{attention::bhsd<const T>(k.at.data(), 1, kv_len, kv_heads, d),
                                  attention::bhsd<const T>(v.at.data(), 1, kv_len, kv_heads, d), nullptr, k_scale, v_scale};
  const int shift = kv_len - q_len;
  const auto key = [&](int h, int j, int e) { return k_scale * k.get(h, j, e); };
  const auto val = [&](int h, int j, int e) { return v_scale * v.get(h, j, e); };
  compare(
      q_len, kv_len, kv, policy::causal{}, key, val, [=](int i, int j) { return j <= i + shift; }, 0.1f, "causal attention");
  if constexpr (std::is_same_v<T, bf16>) {
    compare(
        q_len, kv_len, kv, policy::full{}, key, val, [](int, int) { return true; }, 0.1f, "attention to every key");
    compare(
        q_len, kv_len, kv, window{20}, key, val, [](int i, int j) { return j <= i && j > i - 20; }, 0.1f, "attention in a window");
    compare(
        q_len, kv_len, kv, policy::causal{}, key, val, [=](int i, int j) { return j <= i + shift; }, 40.0f,
        "attention with extreme scores");
  }
}
void contiguous_keys() {
  contiguous<bf16>(37, 77, 1, 1);
  contiguous<bf16>(37, 30, 1, 1);
  contiguous<fp8_e4m3>(21, 77, 0.25f, 0.5f);
}
// Keys lie plain and are turned by their slot.
void turned_keys() {
  const int q_len = 37, kv_len = 77;
  const matrix<bf16> k(kv_heads, kv_len, d, d, 61), v(kv_heads, kv_len, d, d, 62);
  std::vector<float> frequencies(2 * d), cosine(d / 2), sine(d / 2);
  policy::fill_frequencies(policy::rotary<>{d}, frequencies.data());
  matrix<bf16> turned(kv_heads, kv_len, d, d, 61);
  for (int h = 0; h < kv_heads; ++h)
    for (int j = 0; j < kv_len; ++j) {
      policy::fill_rotations(policy::rotary<>{d}, policy::rotary_use::encode, j, 1, cosine.data(), sine.data());
      policy::rotate_head(policy::half_split{d}, cosine.data(), sine.data(), &turned(h, j, 0));
    }
  const attention::rotated_kv<attention::dense_kv<bf16>> kv{{attention::bhsd<const bf16>(k.at.data(), 1, kv_len, kv_heads, d), attention::bhsd<const bf16>(v.at.data(), 1, kv_len, kv_heads, d)}, frequencies.data()};
  compare(
      q_len, kv_len, kv, policy::causal{}, [&](int h, int j, int e) { return turned.get(h, j, e); }, [&](int h, int j, int e) { return v.get(h, j, e); },
      [=](int i, int j) { return j <= i + kv_len - q_len; }, 0.1f, "attention to keys that are turned when they are read");
}
// Most queries add up to something positive, so their scores against negative keys lie far below zero: nothing may
// begin with a maximum of 0.
void negative_scores() {
  const int q_len = 5, kv_len = 40;
  matrix<bf16> k(kv_heads, kv_len, d, d, 63), v(kv_heads, kv_len, d, d, 64);
  for (int h = 0; h < kv_heads; ++h)
    for (int j = 0; j < kv_len; ++j)
      for (int e = 0; e < d; ++e) k(h, j, e) = element<bf16>(e == 0 ? 0.0 : -4 + j % 3 * 0.25);
  const attention::dense_kv<bf16> kv{attention::bhsd<const bf16>(k.at.data(), 1, kv_len, kv_heads, d),
                                     attention::bhsd<const bf16>(v.at.data(), 1, kv_len, kv_heads, d)};
  compare(
      q_len, kv_len, kv, policy::full{}, [&](int h, int j, int e) { return k.get(h, j, e); },
      [&](int h, int j, int e) { return v.get(h, j, e); }, [](int, int) { return true; }, 8.0f, "attention with scores far below zero");
}

// What lies in free slots is NaN; entries of the table past the last page point far away.
template <int Page> void paged(int q_len, int kv_len) {
  const int used = ceil_div(kv_len, Page), pool = used + 3, width = kv_heads * d, shift = kv_len - q_len;
  std::vector<int> table(used + 4, 1 << 28);
  for (int i = 0; i < used; ++i) table[i] = (i * 2 + 1) % pool == 0 ? pool - 1 : (i * 2 + 1) % pool;
  std::vector<bool> taken(pool, false);
  for (int i = 0; i < used; ++i) {
    while (taken[table[i]]) table[i] = (table[i] + 1) % pool;
    taken[table[i]] = true;
  }
  matrix<bf16> k(pool, Page, width, width), v(pool, Page, width, width);
  const matrix<bf16> from(2, kv_len, width, width, 71);
  for (int t = 0; t < kv_len; ++t)
    for (int e = 0; e < width; ++e) k(table[t / Page], t % Page, e) = from(0, t, e), v(table[t / Page], t % Page, e) = from(1, t, e);
  const attention::paged_kv<bf16, Page> kv{attention::pool_of<const bf16>(policy::nhd{}, k.at.data(), pool, Page, kv_heads, d),
                                           attention::pool_of<const bf16>(policy::nhd{}, v.at.data(), pool, Page, kv_heads, d),
                                           {table.data(), 0, 0, &kv_len, 0, Page},
                                           1,
                                           kv_len};
  compare(
      q_len, kv_len, kv, policy::causal{}, [&](int h, int j, int e) { return from.get(0, j, h * d + e); },
      [&](int h, int j, int e) { return from.get(1, j, h * d + e); }, [=](int i, int j) { return j <= i + shift; }, 0.1f,
      "attention over pages");
}
void paged_keys() {
  paged<16>(21, 77);
  paged<32>(21, 109);
  paged<64>(21, 108);
  paged<32>(5, 64);
}

// Few rows of a group over split keys: merged parts, keys on the left, lists of blocks.
struct splitting : attention::options {
  using out = float;
  static constexpr bool split_kv = true;
};
struct splitting_lists : splitting {
  using blocks = policy::block_lists<32, 32>;
};
template <class Options> void split_case(int q_len, int kv_len, const char* what) {
  using op = attention::flash<bf16, d, attention::dense_kv<bf16>, policy::full, Options>;
  const matrix<bf16> q(heads, q_len, d, d, 81), k(kv_heads, kv_len, d, d, 82), v(kv_heads, kv_len, d, d, 83);
  matrix<float> o(heads, q_len, d, d);
  const std::int32_t offsets[] = {0, 2}, indices[] = {0, 2};       // with lists: blocks 0 and 2 of the first 32 rows
  for (const host_context& context : contexts()) {
    o.at.poison();
    poison_stack();
    typename op::args x{.q = attention::bhsd<const bf16>(q.at.data(), 1, q_len, heads, d),
                        .kv = {attention::bhsd<const bf16>(k.at.data(), 1, kv_len, kv_heads, d), attention::bhsd<const bf16>(v.at.data(), 1, kv_len, kv_heads, d)},
                        .o = attention::bhsd(o.at.data(), 1, q_len, heads, d),
                        .scale = 0.3f,
                        .split_keys = 256};
    constexpr bool listed = Options::blocks::listed;
    if constexpr (listed) x.blocks = {offsets, indices, 1, 1}, x.split_keys = 32;
    memory<std::byte> space(op::workspace_bytes(context, x));
    const status st = op::run(context, x, {space.data(), space.bytes()});
    expect(st.code == errc::ok, st.what);
    expect(o.intact() && space.intact(), "split attention stays inside");
    for (int h = 0; h < heads; ++h)
      for (int i = 0; i < q_len; ++i) {
        std::vector<double> w(kv_len);
        double top = -INFINITY, sum = 0, most = 0;
        for (int j = 0; j < kv_len; ++j) {
          double s = 0;
          for (int e = 0; e < d; ++e) s += q.get(h, i, e) * k.get(h / 2, j, e);
          w[j] = listed && j / 32 != 0 && j / 32 != 2 ? -INFINITY : s * 0.3;
          top = std::max(top, w[j]);
        }
        for (double& y : w) sum += y = std::exp(y - top);
        for (int e = 0; e < d; ++e) {
          double s = 0;
          for (int j = 0; j < kv_len; ++j) s += w[j] * v.get(h / 2, j, e), most = std::max(most, std::abs(v.get(h / 2, j, e)));
          expect(std::abs(s / sum - o.get(h, i, e)) <= 0x1p-7 * most + 1e-6, what);
        }
      }
  }
}
void split_keys() {
  split_case<splitting>(3, 700, "attention over split keys");
  split_case<splitting_lists>(30, 120, "attention over lists of blocks");
}

}  // namespace

namespace battery {
std::vector<check> attention_checks() {
  return {{"attention over contiguous keys", contiguous_keys},
          {"attention with negative scores", negative_scores},
          {"attention over pages", paged_keys},
          {"attention over split keys", split_keys},
          {"attention to keys turned when they are read", turned_keys}};
}
}  // namespace battery
