// Positions: which phase a query and a key carry, and how a phase is applied. The owner of rotary embeddings (RoPE) and
// of linear biases (ALiBi). RoPE: Su et al. 2021, arXiv:2104.09864.
//
// Pair i of a head turns by an angle proportional to the position p. Angles are measured in turns (1 turn = 2 pi):
//     turns(p, i) = p * base^(-2 i / dims) / (2 pi),     (x, y) -> (x cos - y sin, y cos + x sin)
// Only whole turns are dropped, so two rotations add up: R(a) R(b) = R(a + b), and <R(a) q, R(b) k> depends on a - b.
//
// Precision. In f32, p * frequency loses one bit of the angle for each doubling of p: at p = 2^17 the angle is off by
// up to 2^-7 radians. Here the whole turns are dropped before anything is rounded, in one of two ways:
// - in registers: the position is split into 4096 * high + low, 0 <= low < 4096, and the turns of 4096 tokens (coarse)
//   and of one token (fine) are each kept as a multiple of 2^-12 and a rest. high * coarse and low * fine are exact in
//   f32 for |p| < 2^24, and so are their fractions; the rests add at most one turn. The result is within 2^-22.5 turns,
//   and its sine and cosine within 1.2e-6, on every machine;
// - from tables of cosines and sines, computed by the host in double and rounded once to f32: within 2^-25 for the same
//   positions, for 8 bytes a pair and position.
//
// Keys are stored rotated by default. A variant that also scales (YaRN) scales when a vector is first encoded, never
// when a stored key is rotated again: see rotary_use.
#pragma once
#include <concepts>
#include <type_traits>
#include <smalti/core/float.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

// ---- frequencies: host, double

//! inverse frequencies as trained: base^(-2 pair / dims) radians a token.
struct unscaled {
  double inverse_frequency(int pair, int dims, double base) const { return __builtin_pow(base, -2.0 * pair / dims); }
  double attention_scale() const { return 1; }
  constexpr status check() const { return {}; }
};

//! Position interpolation: every position divided by `factor`. Chen et al. 2023, arXiv:2306.15595.
struct linear_scaling {
  double factor = 1;
  double inverse_frequency(int pair, int dims, double base) const { return unscaled{}.inverse_frequency(pair, dims, base) / factor; }
  double attention_scale() const { return 1; }
  constexpr status check() const {
    if (!(factor >= 1)) return {errc::bad_value, "linear_scaling.factor must be at least 1", 0, 0};
    return {};
  }
};

//! A larger base, so that the slowest pair turns `factor` times slower and the fastest as before:
//! base * factor^(dims / (dims - 2)). Known as NTK-aware scaling; described in arXiv:2309.00071, section 3.1.
struct ntk_scaling {
  double factor = 1;
  double inverse_frequency(int pair, int dims, double base) const {
    const double wider = dims > 2 ? base * __builtin_pow(factor, double(dims) / (dims - 2)) : base;
    return unscaled{}.inverse_frequency(pair, dims, wider);
  }
  double attention_scale() const { return 1; }
  constexpr status check() const {
    if (!(factor >= 1)) return {errc::bad_value, "ntk_scaling.factor must be at least 1", 0, 0};
    return {};
  }
};

//! Llama 3.1: a pair that turns more than `high` times in the original context stays, one that turns less than `low`
//! times is divided by `factor`, and between them the two are mixed by the number of turns.
struct llama3_scaling {
  double factor = 8, low = 1, high = 4;
  int original_context = 8192;
  double inverse_frequency(int pair, int dims, double base) const {
    const double f = unscaled{}.inverse_frequency(pair, dims, base);
    const double turns = original_context * f / 6.283185307179586476925286766559;
    if (turns > high) return f;
    if (turns < low) return f / factor;
    const double keep = (turns - low) / (high - low);
    return keep * f + (1 - keep) * f / factor;
  }
  double attention_scale() const { return 1; }
  constexpr status check() const {
    if (!(factor >= 1)) return {errc::bad_value, "llama3_scaling.factor must be at least 1", 0, 0};
    if (!(low > 0 && high > low)) return {errc::bad_value, "llama3_scaling needs 0 < low < high", 0, 0};
    if (original_context <= 0) return {errc::bad_value, "llama3_scaling.original_context must be positive", original_context, 1};
    return {};
  }
};

//! YaRN: pairs below the one that turns `fast` times in the original context stay, those above the one that turns
//! `slow` times are divided by `factor`, with a linear ramp between (its ends rounded outwards to whole pairs, as the
//! authors' program does); queries and keys are scaled by 0.1 ln(factor) + 1, or by `attention` where that is not 0
//! (models that say so in their configuration). Peng et al. 2023, arXiv:2309.00071.
struct yarn_scaling {
  double factor = 1, fast = 32, slow = 1;
  int original_context = 4096;
  double attention = 0;
  double inverse_frequency(int pair, int dims, double base) const {
    const double f = unscaled{}.inverse_frequency(pair, dims, base);
    double first = __builtin_floor(pair_of(fast, dims, base)), last = __builtin_ceil(pair_of(slow, dims, base));
    first = first < 0 ? 0 : first;
    last = last > dims - 1 ? dims - 1 : last;
    if (first == last) last += 0.001;
    double ramp = (pair - first) / (last - first);
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    return f * (1 - ramp) + f / factor * ramp;
  }
  double attention_scale() const { return attention != 0 ? attention : factor > 1 ? 0.1 * __builtin_log(factor) + 1 : 1; }
  constexpr status check() const {
    if (!(factor >= 1)) return {errc::bad_value, "yarn_scaling.factor must be at least 1", 0, 0};
    if (!(slow > 0 && fast > slow)) return {errc::bad_value, "yarn_scaling needs 0 < slow < fast", 0, 0};
    if (original_context <= 0) return {errc::bad_value, "yarn_scaling.original_context must be positive", original_context, 1};
    if (!(attention >= 0)) return {errc::bad_value, "yarn_scaling.attention must not be negative; 0 takes the paper's formula", 0, 0};
    return {};
  }

private:
  // Where a pair turns `times` times in the original context: not a whole number.
  double pair_of(double times, int dims, double base) const {
    return dims * __builtin_log(original_context / (times * 6.283185307179586476925286766559)) / (2 * __builtin_log(base));
  }
};

template <class S>
concept rotary_scaling = std::copyable<S> && requires(const S s) {
  { s.inverse_frequency(0, 2, 1e4) } -> std::same_as<double>;
  { s.attention_scale() } -> std::same_as<double>;
  { s.check() } -> std::same_as<status>;
};

//! Why S is not a scaling of rotary frequencies, in one sentence.
template <class S> consteval bool explain_rotary_scaling() {
  static_assert(requires(const S s) { { s.inverse_frequency(0, 2, 1e4) } -> std::same_as<double>; },
    "smalti: a rotary scaling needs  double inverse_frequency(int pair, int dims, double base) const  in radians a token");
  static_assert(requires(const S s) { { s.attention_scale() } -> std::same_as<double>; },
    "smalti: a rotary scaling needs  double attention_scale() const  (1 where the variant has none)");
  static_assert(requires(const S s) { { s.check() } -> std::same_as<status>; }, "smalti: a rotary scaling needs  status check() const");
  return rotary_scaling<S>;
}

//! A rotary embedding as a model's configuration describes it. `dims` counts the columns of a head that are rotated: all
//! of them, or the first `dims` of a partly rotated head. Lives on the host; kernels get frequencies or tables.
template <class Scaling = unscaled>
struct rotary {
  int dims = 128;
  double base = 10000;
  Scaling scaling{};
  int pairs() const { return dims / 2; }
  //! The fraction of a turn that pair `pair` makes in one token.
  double turns_per_token(int pair) const {
    static_assert(explain_rotary_scaling<Scaling>());
    return scaling.inverse_frequency(pair, dims, base) / 6.283185307179586476925286766559;
  }
  status check() const {
    if (dims < 2 || dims % 2 != 0) return {errc::bad_shape, "rotary.dims must be even and at least 2: it counts rotated columns", dims, dims < 2 ? 2 : dims + 1};
    if (!(base > 1)) return {errc::bad_value, "rotary.base must be above 1", 0, 0};
    return scaling.check();
  }
};

//! What an angle is for: encode a fresh query or key (with the variant's attention scale), or rotate one that has been
//! encoded before (a rotation alone, else the scale would be applied twice).
enum class rotary_use { encode, again };

//! Exact for |position| below this.
constexpr int position_reach = 1 << 24;

//! The turns of one pair: (coarse + coarse_rest) in 4096 tokens and (fine + fine_rest) in one, whole turns dropped;
//! coarse and fine are multiples of 2^-12.
template <class V> struct frequency { V coarse, coarse_rest, fine, fine_rest; };

//! Splits a frequency, in turns a token.
inline frequency<float> frequency_of(double turns_per_token) {
  const double fine = turns_per_token - __builtin_floor(turns_per_token + 0.5);
  const double coarse = fine * 4096 - __builtin_floor(fine * 4096 + 0.5);
  const double c = __builtin_floor(coarse * 4096 + 0.5) / 4096, f = __builtin_floor(fine * 4096 + 0.5) / 4096;
  return {float(c), float(coarse - c), float(f), float(fine - f)};
}

//! frequencies[part][pair] as f32, part 0 to 3 in the order of frequency's members: 4 * pairs() floats for kernels.
template <class Scaling> void fill_frequencies(const rotary<Scaling>& r, float* frequencies) {
  const int n = r.pairs();
  for (int i = 0; i < n; ++i) {
    const frequency<float> f = frequency_of(r.turns_per_token(i));
    frequencies[i] = f.coarse;
    frequencies[n + i] = f.coarse_rest;
    frequencies[2 * n + i] = f.fine;
    frequencies[3 * n + i] = f.fine_rest;
  }
}

//! cos[n][pair] and sin[n][pair] of positions first + n, computed in double: count * pairs() floats each.
template <class Scaling>
void fill_rotations(const rotary<Scaling>& r, rotary_use use, int first, int count, float* cos, float* sin) {
  const double scale = use == rotary_use::encode ? r.scaling.attention_scale() : 1;
  const int pairs = r.pairs();
  for (int i = 0; i < pairs; ++i) {
    const double step = r.turns_per_token(i);
    for (int n = 0; n < count; ++n) {
      const double t = step * (double(first) + n), angle = (t - __builtin_floor(t + 0.5)) * 6.283185307179586476925286766559;
      cos[static_cast<long long>(n) * pairs + i] = float(scale * __builtin_cos(angle));
      sin[static_cast<long long>(n) * pairs + i] = float(scale * __builtin_sin(angle));
    }
  }
}

// ---- rotations: templates over values; P holds positions (ints), V floats

template <class V> struct rotation { V cos, sin; };

namespace detail {

// The nearest integer, for |x| <= 2^22: adding 1.5 * 2^23 leaves no bit below 1. Two additions on every machine.
template <class V> SMALTI_HD V nearest(V x) { return (x + 12582912.0f) - 12582912.0f; }

}  // namespace detail

//! The angle at `position` (negative ones turn back), in turns within [-1/2, 1/2], whole turns dropped.
//! |position| < position_reach. Error at most 2^-22.5 turns.
template <class P, class V>
SMALTI_HD auto turns(P position, const frequency<V>& f) {
  using namespace scalar;
  const auto low = to_float(position & 4095), high = to_float(position >> 12);
  const auto far = high * f.coarse, near = low * f.fine;               // exact
  const auto whole = (far - detail::nearest(far)) + (near - detail::nearest(near));   // exact: a multiple of 2^-12 within [-1, 1]
  const auto t = whole + (high * f.coarse_rest + low * f.fine_rest);   // |t| < 2: rounds by 2^-24, the rests by 3 * 2^-25
  return t - detail::nearest(t);
}

//! cos and sin of an angle in turns within [-1/2, 1/2], times `scale` (1 for rotary_use::again). Error at most 1.2e-7.
//! Not by the machine's sin and cos: those must reduce any angle of radians, which costs more than all of this, and on
//! a GPU memory in every thread. Here the angle is already reduced: nearest quarter turn, then polynomials on what is
//! left, |x| <= 1/8 turn (interpolated at Chebyshev's points: below 3e-8 with the coefficients rounded to f32).
template <class V>
SMALTI_HD rotation<V> rotation_by(V turns, float scale = 1.0f) {
  using namespace scalar;
  const V quarter = detail::nearest(turns * 4.0f), x = turns - quarter * 0.25f, square = x * x;
  const V s = x * (((square * -75.4016113f + 81.5925446f) * square - 41.3416634f) * square + 6.28318548f);
  const V c = (((square * 59.4241066f - 85.448822f) * square + 64.9393692f) * square - 19.7392082f) * square + 1.0f;
  const auto odd = quarter * quarter == 1.0f;
  const V sine = where(odd, c, s), cosine = where(odd, s, c);
  return {where(quarter > 0.5f || quarter < -1.5f, -cosine, cosine) * scale, where(quarter > 1.5f || quarter < -0.5f, -sine, sine) * scale};
}

//! The rotation of one pair at a position.
template <class P, class V>
SMALTI_HD auto rotation_at(P position, const frequency<V>& f, float scale = 1.0f) { return rotation_by(turns(position, f), scale); }

//! The other way round: R(-a). Undoes a rotation that did not scale.
template <class V> SMALTI_HD constexpr rotation<V> inverse(const rotation<V>& r) { return {r.cos, -r.sin}; }

//! One after the other: R(a) R(b) = R(a + b), rounded. For many steps add the positions instead: rounding accumulates.
template <class V> SMALTI_HD constexpr rotation<V> composed(const rotation<V>& a, const rotation<V>& b) {
  return {a.cos * b.cos - a.sin * b.sin, a.sin * b.cos + a.cos * b.sin};
}

//! The two results for a pair (x, y). Two functions, since a map of the tile vocabulary has one result.
template <class V, class R> SMALTI_HD constexpr V rotate_first(V x, V y, const rotation<R>& r) { return x * r.cos - y * r.sin; }
template <class V, class R> SMALTI_HD constexpr V rotate_second(V x, V y, const rotation<R>& r) { return y * r.cos + x * r.sin; }

//! The result for one column of a head from its own element and its partner's, where `second` is true for columns that
//! hold the y of a pair. For tiles whose partner columns were loaded as a tile of their own.
template <class V, class R, class M> SMALTI_HD auto rotate_column(V x, V partner, const rotation<R>& r, M second) {
  using namespace scalar;
  return x * r.cos + where(second, partner, -partner) * r.sin;
}

//! Which columns form pair i, with the half-split layout: (i, i + dims / 2). GPT-NeoX's and Hugging Face Llama's.
struct half_split {
  int dims = 128;
  SMALTI_HD constexpr int first(int pair) const { return pair; }
  SMALTI_HD constexpr int second(int pair) const { return pair + dims / 2; }
  template <class C> SMALTI_HD auto is_second(C column) const { return column >= dims / 2; }
  template <class C> SMALTI_HD auto pair(C column) const {
    using namespace scalar;
    return where(column >= dims / 2, column - dims / 2, column);
  }
  template <class C> SMALTI_HD auto partner(C column) const {
    using namespace scalar;
    return where(column >= dims / 2, column - dims / 2, column + dims / 2);
  }
};

//! Pair i is (2 i, 2 i + 1): the paper's layout, GPT-J's and Meta's Llama. The same rotation after the permutation
//! of columns that sends interleaved's first(i), second(i) to half_split's.
struct interleaved {
  int dims = 128;
  SMALTI_HD constexpr int first(int pair) const { return 2 * pair; }
  SMALTI_HD constexpr int second(int pair) const { return 2 * pair + 1; }
  template <class C> SMALTI_HD auto is_second(C column) const { return (column & 1) == 1; }
  template <class C> SMALTI_HD auto pair(C column) const { return column >> 1; }
  template <class C> SMALTI_HD auto partner(C column) const { return column ^ 1; }
};

template <class L>
concept pair_layout = std::is_trivially_copyable_v<L> && requires(const L l, int i) {
  { l.dims } -> std::convertible_to<int>;
  { l.first(i) } -> std::same_as<int>;
  { l.second(i) } -> std::same_as<int>;
  { l.pair(i) } -> std::same_as<int>;
  { l.partner(i) } -> std::same_as<int>;
  { l.is_second(i) } -> std::same_as<bool>;
};

//! Why L is not a layout of pairs, in one sentence.
template <class L> consteval bool explain_pair_layout() {
  static_assert(std::is_trivially_copyable_v<L>, "smalti: a pair layout is copied to the GPU by value, so it must be trivially copyable");
  static_assert(pair_layout<L>,
    "smalti: a pair layout needs an int dims, int first(int pair) const, second(pair), and for columns pair(c), partner(c), is_second(c), SMALTI_HD");
  return pair_layout<L>;
}

//! Rotates one head in place, in plain loops: the meaning of the layouts. cos and sin hold dims / 2 values, a row of
//! fill_rotations' tables; columns from dims on stay. Computes in f32 and rounds once. T: float or a storage type.
template <class Layout, class T>
void rotate_head(const Layout& layout, const float* cos, const float* sin, T* x) {
  static_assert(explain_pair_layout<Layout>());
  for (int i = 0; i < layout.dims / 2; ++i) {
    T& a = x[layout.first(i)];
    T& b = x[layout.second(i)];
    const rotation<float> r{cos[i], sin[i]};
    const float u = to_float(a), v = to_float(b);
    if constexpr (std::is_same_v<T, float>) {
      a = rotate_first(u, v, r);
      b = rotate_second(u, v, r);
    } else {
      a = narrow<T>(rotate_first(u, v, r));
      b = narrow<T>(rotate_second(u, v, r));
    }
  }
}

// ---- phases: which position a query and a key take part with

enum class key_storage { rotated, plain };

// A position policy answers, for tokens given by their place in the text (`position`) and their place among the tokens
// that are kept (`rank`):
//   query_phase(position, rank)    the phase a query is rotated by
//   key_phase(position, rank)      the phase a key has in the score
//   stored_phase(position, rank)   the phase a key has in memory (with key_storage::plain: none, 0)
//   steady = true                  may be missing: of plain keys, key_phase(position + 1, rank + 1) is key_phase(position, rank) + 1
// A score depends on query_phase - key_phase only. Where key_phase and stored_phase differ, the load (or the step that
// compacts the cache) rotates the key by their difference: key_correction.

//! Every token keeps its place in the text, whatever is evicted. The default: nothing is ever rotated again.
struct keep_original {
  static constexpr key_storage storage = key_storage::rotated;
  template <class P, class R> SMALTI_HD constexpr auto query_phase(P position, R) const { return position; }
  template <class P, class R> SMALTI_HD constexpr auto key_phase(P position, R) const { return position; }
  template <class P, class R> SMALTI_HD constexpr auto stored_phase(P position, R) const { return position; }
};

//! Survivors close ranks: the r-th kept key counts as position r. Keys lie in memory as they were written, at their
//! place in the text, and are rotated by rank - position when the cache is compacted (once: rounding accumulates).
struct compact {
  static constexpr key_storage storage = key_storage::rotated;
  template <class P, class R> SMALTI_HD constexpr auto query_phase(P, R rank) const { return rank; }
  template <class P, class R> SMALTI_HD constexpr auto key_phase(P, R rank) const { return rank; }
  template <class P, class R> SMALTI_HD constexpr auto stored_phase(P position, R) const { return position; }
};

//! The same phases from keys stored plain and rotated by the load: for ranks that change often. Xiao et al. 2023
//! (StreamingLLM), arXiv:2309.17453.
struct rotate_on_read {
  static constexpr key_storage storage = key_storage::plain;
  static constexpr bool steady = true;                 // from rank to rank one token
  template <class P, class R> SMALTI_HD constexpr auto query_phase(P, R rank) const { return rank; }
  template <class P, class R> SMALTI_HD constexpr auto key_phase(P, R rank) const { return rank; }
  template <class P, class R> SMALTI_HD constexpr auto stored_phase(P position, R) const { return position * 0; }
};

//! `group` neighbouring tokens share a position, so that a text longer than those of the training has positions that the model knows:
//! keys stored plain and rotated by the load. shift: of queries, window - window / group where nearer keys are a part of their own with
//! positions as they are. Jin et al. 2024 (SelfExtend), arXiv:2401.01325.
struct grouped_positions {
  int group = 1, shift = 0;
  static constexpr key_storage storage = key_storage::plain;
  template <class P, class R> SMALTI_HD constexpr auto query_phase(P position, R) const { return position / group + shift; }
  template <class P, class R> SMALTI_HD constexpr auto key_phase(P position, R) const { return position / group; }
  template <class P, class R> SMALTI_HD constexpr auto stored_phase(P position, R) const { return position * 0; }
};

//! Keys of a segment count from its beginning, and the query is rotated back by where the segment begins in the view
//! of its reader: one segment serves readers that see it at different places, and no key is rotated again.
//! `rank` of a key is its index in the segment. <R(p) q, R(origin + j) k> = <R(p - origin) q, R(j) k>.
struct block_relative {
  int origin = 0;
  static constexpr key_storage storage = key_storage::rotated;
  template <class P, class R> SMALTI_HD constexpr auto query_phase(P position, R) const { return position - origin; }
  template <class P, class R> SMALTI_HD constexpr auto key_phase(P, R rank) const { return rank; }
  template <class P, class R> SMALTI_HD constexpr auto stored_phase(P, R rank) const { return rank; }
};

//! No positions (NoPE): every phase is 0.
struct no_position {
  static constexpr key_storage storage = key_storage::plain;
  template <class P, class R> SMALTI_HD constexpr auto query_phase(P position, R) const { return position * 0; }
  template <class P, class R> SMALTI_HD constexpr auto key_phase(P position, R) const { return position * 0; }
  template <class P, class R> SMALTI_HD constexpr auto stored_phase(P position, R) const { return position * 0; }
};

//! By how much a stored key must be rotated to take part.
template <class Policy, class P, class R> SMALTI_HD constexpr auto key_correction(const Policy& policy, P position, R rank) {
  return policy.key_phase(position, rank) - policy.stored_phase(position, rank);
}

template <class P>
concept position_policy = std::is_trivially_copyable_v<P> && requires(const P p, int i) {
  { P::storage } -> std::convertible_to<key_storage>;
  { p.query_phase(i, i) } -> std::same_as<int>;
  { p.key_phase(i, i) } -> std::same_as<int>;
  { p.stored_phase(i, i) } -> std::same_as<int>;
};

//! Why P is not a position policy, in one sentence.
template <class P> consteval bool explain_position_policy() {
  static_assert(std::is_trivially_copyable_v<P>, "smalti: a position policy is copied to the GPU by value, so it must be trivially copyable");
  static_assert(requires { { P::storage } -> std::convertible_to<key_storage>; },
    "smalti: a position policy needs  static constexpr key_storage storage  (rotated, or plain for keys rotated by the load)");
  static_assert(requires(const P p, int i) { { p.query_phase(i, i) } -> std::same_as<int>; },
    "smalti: a position policy needs  template <class P, class R> auto query_phase(P position, R rank) const  (SMALTI_HD; no if on values)");
  static_assert(requires(const P p, int i) { { p.key_phase(i, i) } -> std::same_as<int>; },
    "smalti: a position policy needs  template <class P, class R> auto key_phase(P position, R rank) const  (SMALTI_HD; no if on values)");
  static_assert(requires(const P p, int i) { { p.stored_phase(i, i) } -> std::same_as<int>; },
    "smalti: a position policy needs  template <class P, class R> auto stored_phase(P position, R rank) const  (SMALTI_HD; no if on values)");
  return position_policy<P>;
}

// ---- linear biases

//! The slope of one head, Press et al. 2021, arXiv:2108.12409: 2^(-8 (head + 1) / heads) for a power of two; otherwise
//! the slopes of the next lower power n, then those of 2 n with an even index, from the first.
inline float alibi_slope(int head, int heads) {
  int n = 1;
  while (n <= heads / 2) n *= 2;
  const double power = head < n ? -8.0 * (head + 1) / n : -4.0 * (2 * (head - n) + 1) / n;
  return float(__builtin_exp2(power));
}

//! score - slope * |query - key|, in positions. Added to the scaled score in natural units, before any soft cap: a scale
//! folded into the exponent must not touch it.
struct alibi {
  float slope = 0;
  template <class V, class Q, class K> SMALTI_HD auto operator()(V score, Q query, K key) const {
    using namespace scalar;
    return score - to_float(abs(query - key)) * slope;
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
