// One product C[m x n] = A[m x k] B^T (B stored n x k) with operands of small integers, so that every sum is
// exact in f32 and in s32 in any order, and the answer of each contender is compared for equality.
#pragma once
#include <interleave.hpp>
#include <peers/onednn.hpp>
#include <peers/openblas.hpp>
#include <rotate.hpp>
#include <smalti/core/float.hpp>

#include <bit>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace bench {

// The conversions are this file's own: a library that converts wrongly must not find its inputs to its liking.
template <class T> T from_integer(int i) {
  if constexpr (std::is_same_v<T, smalti::bf16>)
    return {static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(static_cast<float>(i)) >> 16)};  // exact below 256
  else return static_cast<T>(i);
}
template <class T> int to_integer(T v) {
  if constexpr (std::is_same_v<T, smalti::bf16>) return static_cast<int>(std::bit_cast<float>(std::uint32_t(v.bits) << 16));
  else return static_cast<int>(v);
}

template <class In> using sum_of = std::conditional_t<std::is_same_v<In, std::int8_t>, std::int32_t, float>;

template <class In> constexpr const char* type_name() {
  return std::is_same_v<In, float> ? "f32" : std::is_same_v<In, std::int8_t> ? "s8" : "bf16";
}

template <class In> struct problem {
  using out = sum_of<In>;
  int m, n, k;
  rotating<In> a, b;
  pages memory;

  problem(int m_, int n_, int k_, bool rotate)
      : m(m_),
        n(n_),
        k(k_),
        a(std::size_t(m) * k, false, fill),
        b(std::size_t(n) * k, rotate, fill),
        memory(std::size_t(m) * n * sizeof(out)) {}

  out* c() { return reinterpret_cast<out*>(memory.data); }
  double flop() const { return 2.0 * m * n * k; }
  double bytes() const { return (double(m) * k + double(n) * k) * sizeof(In) + double(m) * n * sizeof(out); }

  //! Runs it once on spoilt memory and compares corners and a spread of other results with an integer sum.
  template <class Run> void demand(const std::string& who, Run run) {
    std::memset(memory.data, 0x7b, memory.size);
    run();
    const std::int64_t total = std::int64_t(m) * n;
    for (std::int64_t probe = 0; probe < 64; ++probe) {
      const std::int64_t at = probe == 0   ? 0
                              : probe == 1 ? n - 1
                              : probe == 2 ? total - n
                              : probe == 3 ? total - 1
                                           : probe * 7919 * 104729 % total;
      const In *x = a.first() + at / n * k, *w = b.first() + at % n * k;
      std::int64_t sum = 0;
      for (int p = 0; p < k; ++p) sum += std::int64_t(to_integer(x[p])) * to_integer(w[p]);
      if (static_cast<double>(c()[at]) != static_cast<double>(sum))
        throw std::runtime_error(who + " gave a wrong answer: its time means nothing");
    }
  }

 private:
  static void fill(In* first, std::size_t count) {
    std::uint64_t state = 0x9e3779b97f4a7c15u;
    for (std::size_t i = 0; i < count; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      first[i] = from_integer<In>(static_cast<int>((state >> 33) % 7) - 3);  // 9 k stays below 2^24
    }
  }
};

#if defined(SMALTI_BENCH_ONEDNN)
template <class In>
constexpr onednn::element onednn_type = std::is_same_v<In, float>         ? onednn::element::f32
                                        : std::is_same_v<In, std::int8_t> ? onednn::element::s8
                                                                          : onednn::element::bf16;

template <class In> contender onednn_on(std::shared_ptr<problem<In>> p, int threads, bool packed) {
  auto product = std::make_shared<onednn::linear>(onednn_type<In>, p->m, p->n, p->k, packed, threads);
  product->prepare(p->b.first());
  const std::string name = onednn::version() + (packed ? " packed" : "") + " [" + product->implementation() + "]";
  auto once = [=] { product->run(p->a.first(), p->b.next(), p->c()); };
  p->demand(name, once);
  return timed(packed ? "onednn_packed" : "onednn", name, threads, once);
}
#endif

#if defined(SMALTI_BENCH_OPENBLAS)
inline contender openblas_on(std::shared_ptr<problem<float>> p, int threads) {
  auto once = [=] { openblas::linear(p->a.first(), p->b.next(), p->c(), p->m, p->n, p->k, threads); };
  p->demand(openblas::version(), once);
  return timed("openblas", openblas::version(), threads, once);
}
#endif

//! Every peer that this build has for the type, the one that claims compare with first: OpenBLAS for f32,
//! oneDNN on plain arrays otherwise. "packed" keeps its weights in its own order from before, which neither
//! the library nor the others may; it packs a single copy, so it does not take part where operands rotate.
template <class In> std::vector<contender> peers_of(std::shared_ptr<problem<In>> p, int threads) {
  std::vector<contender> peers;
#if defined(SMALTI_BENCH_OPENBLAS)
  if constexpr (std::is_same_v<In, float>) peers.push_back(openblas_on(p, threads));
#endif
#if defined(SMALTI_BENCH_ONEDNN)
  peers.push_back(onednn_on(p, threads, false));
  if (p->b.copies() == 1) peers.push_back(onednn_on(p, threads, true));
#endif
  return peers;
}

//! What the build compares with, for the JSON's context.
inline std::string peers_here() {
  std::string list;
#if defined(SMALTI_BENCH_ONEDNN)
  list += onednn::version();
#endif
#if defined(SMALTI_BENCH_OPENBLAS)
  list += (list.empty() ? "" : ", ") + openblas::version();
#endif
  return list.empty() ? "none" : list;
}

template <class In> std::vector<instruction> instructions_of() {
  if constexpr (std::is_same_v<In, float>) return {instruction::fma};
  else if constexpr (std::is_same_v<In, std::int8_t>) return {instruction::s8_dot, instruction::amx_s8};
  else return {instruction::fma, instruction::bf16_dot, instruction::amx_bf16};  // an FMA on widened operands
}

inline std::string case_name(const char* room, const char* type, const std::string& layer, int m, int n, int k, int threads) {
  return std::string(room) + "/" + type + "/" + (layer.empty() ? "" : layer + "/") + std::to_string(m) + "x" + std::to_string(n) + "x" +
         std::to_string(k) + "/threads:" + std::to_string(threads);
}

}  // namespace bench
