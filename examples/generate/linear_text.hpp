// What the formats' translation units have in common: a matrix becomes codes and scales, these become a packed weight, and the
// products are smalti's.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/gemm/import.hpp>
#include <smalti/ops/gemm/pack.hpp>
#include <smalti/ops/gemm/quantized.hpp>
#include <smalti/ops/quantize.hpp>
#include <smalti/policy/quantizer.hpp>
#include <smalti/policy/quantizers/gguf.hpp>
#include <smalti/policy/quantizers/integer.hpp>
#include "linear.hpp"

namespace generate::inline GENERATE_MACHINE {

using namespace smalti;

//! A matrix as codes, a byte each, and what belongs to each group of `group` along k (0: of each row).
struct coded_matrix {
  int n = 0, k = 0, group = 0;
  std::vector<std::uint8_t> codes, zero;
  std::vector<float> scale, minimum;

  coded_matrix(const matrix& m, int group) : n(int(m.n)), k(int(m.k)), group(group), codes(std::size_t(m.n * m.k)), scale(std::size_t(m.n) * std::size_t(groups())) {}
  int groups() const { return group == 0 ? 1 : ceil_div(k, group); }
  //! `count` rows from row `first` on, as pack() takes them.
  gemm::weight_source rows(int first, int count) const {
    const std::size_t g = std::size_t(first) * std::size_t(groups());
    return {.codes = codes.data() + std::size_t(first) * std::size_t(k), .stride = k, .n = count, .k = k, .scale = scale.data() + g,
            .zero = zero.empty() ? nullptr : zero.data() + g, .minimum = minimum.empty() ? nullptr : minimum.data() + g};
  }
};

// Where what a quantizer returns goes. Zeros and minima have their place already.
template <class Element> void keep(coded_matrix& to, std::size_t at, Element scale) { to.scale[at] = to_float(scale); }
inline void keep(coded_matrix& to, std::size_t at, const policy::scale_and_zero<float>& s) { to.scale[at] = s.scale, to.zero[at] = s.zero; }
inline void keep(coded_matrix& to, std::size_t at, const policy::scale_and_minimum& s) { to.scale[at] = to_float(s.scale), to.minimum[at] = to_float(s.minimum); }

//! The numbers, quantized in groups of Format::group.
template <class Format, class Quantizer> coded_matrix quantized_rows(const matrix& m) {
  using stored = decltype(Quantizer{}(nullptr, 0, nullptr));
  coded_matrix out(m, Format::group);
  if constexpr (std::is_same_v<stored, policy::scale_and_zero<float>>) out.zero.resize(out.scale.size());
  if constexpr (std::is_same_v<stored, policy::scale_and_minimum>) out.minimum.resize(out.scale.size());
  const int some = 64, pieces = ceil_div(out.n, some);
  std::atomic<bool> bad{false};
#if defined(_OPENMP)
#  pragma omp parallel for schedule(dynamic)
#endif
  for (int piece = 0; piece < pieces; ++piece) {
    const int first = piece * some, count = std::min(some, out.n - first);
    const std::size_t group = std::size_t(first) * std::size_t(out.groups());
    std::vector<float> rows(std::size_t(count) * std::size_t(out.k));
    std::vector<stored> scales(std::size_t(count) * std::size_t(out.groups()));
    m.rows(first, count, rows.data());
    if (!policy::quantize_rows(Quantizer{}, {rows.data(), count, out.k, out.k}, Format::group, out.codes.data() + std::size_t(first) * std::size_t(out.k), scales.data())) bad = true;
    else
      for (std::size_t i = 0; i < scales.size(); ++i) keep(out, group + i, scales[i]);
  }
  if (bad) throw std::runtime_error("a weight is NaN or infinite: it cannot be quantized");
  return out;
}

// The operations of a format: with 8-bit activations, or with bf16 ones.
template <class Format, bool Integers> struct products {
  template <class Epilogue, class Y> using op = gemm::weight_only<Format, Epilogue, bf16, Y>;
};
template <class Format> struct products<Format, true> {
  static constexpr int group = Format::group == 0 ? 32 : Format::group;
  using tokens = policy::int8_tokens<group>;
  struct options : quantize::options { static constexpr int sum_group = Format::scales::zero == policy::zero_point::none ? 0 : group; };
  using rounding = quantize::tokens<bf16, tokens, options>;
  template <class Epilogue, class Y> using op = gemm::quantized<tokens, Format, Epilogue, Y>;
};

template <class Format, bool Integers> class coded final : public linear {
  using of = products<Format, Integers>;
  using sum = typename of::template op<policy::chain<>, bf16>;
  using added = typename of::template op<policy::chain<policy::residual<float>>, float>;
  using gate = typename of::template op<policy::chain<policy::gated<policy::silu>>, bf16>;
  using last = typename of::template op<policy::chain<>, float>;
  using weight = typename sum::weight_type;

public:
  //! `native`: the file's own codes are kept, to the bit, else the numbers are quantized.
  template <class Quantizer> coded(const matrix& m, form f, bool native, Quantizer) : pairs_(f == form::pairs) {
    const int parts = pairs_ ? 2 : 1, n = int(m.n) / parts, k = int(m.k);
    if (native) {
      // q, k and v of a file lie below one another; gate and up are a weight each
      std::vector<const io::quantized*> coded;
      for (const auto& part : m.coded) coded.push_back(part.get());
      const int each = int(coded.size()) / parts;
      fill(n, k, [&](const weight& w, int i) { expect(gemm::pack_imported(w, coded.data() + i * each, each)); });
    } else {
      const coded_matrix c = quantized_rows<Format, Quantizer>(m);
      std::vector<std::byte> filling(gemm::packing_bytes<weight>(k));
      fill(n, k, [&](const weight& w, int i) { expect(gemm::pack(w, c.rows(i * n, n), 0, filling.data())); });
    }
    using stored = typename Format::scales;
    const std::size_t element = sizeof(typename stored::element), beside = stored::zero == policy::zero_point::none ? 0 : stored::zero == policy::zero_point::integer ? 1 : element;
    needed_ = std::size_t(m.n * m.k) * Format::bits / 8 + std::size_t(m.n) * std::size_t(Format::group == 0 ? 1 : ceil_div(k, Format::group)) * (element + beside);
  }
  void project(const machine& on, view<const bf16> x, view<bf16> y, scratch& memory) const override { product<sum>(on, x, {.w = weights_[0], .y = y}, memory); }
  void add_to(const machine& on, view<const bf16> x, view<float> stream, scratch& memory) const override {
    product<added>(on, x, {.w = weights_[0], .y = stream, .epilogue = {.first = {stream}, .rest = {}}}, memory);
  }
  void gated(const machine& on, view<const bf16> x, view<bf16> y, scratch& memory) const override { product<gate>(on, x, {.w = weights_[0], .up = weights_[1], .y = y}, memory); }
  void logits(const machine& on, view<const bf16> x, view<float> y, scratch& memory) const override { product<last>(on, x, {.w = weights_[0], .y = y}, memory); }
  std::size_t bytes() const override { return memory_[0].bytes() + memory_[1].bytes(); }
  std::size_t needed() const override { return needed_; }

private:
  template <class Op> static void product(const machine& on, view<const bf16> x, typename Op::args a, scratch& memory) {
    if constexpr (Integers) {
      using rounding = typename of::rounding;
      const auto lay_out = [&](std::byte* base) {
        carver carve{base};
        const auto rounded = rounding::place(x, carve);
        a.x = rounded.codes, a.x_scales = rounded.scales;
        if constexpr (of::options::sum_group != 0) a.x_sums = rounded.sums;
        const std::size_t rest = Op::workspace_bytes(on, a);
        const workspace of_product{carve.take<std::byte>(rest), rest};
        return std::tuple{rounded, of_product, carve.used};
      };
      const std::size_t all = std::get<2>(lay_out(nullptr));
      const auto [rounded, of_product, used] = lay_out(memory.at_least(all).data);
      expect(rounding::run(on, rounded));
      expect(Op::run(on, a, of_product));
    } else {
      a.x = x;
      run<Op>(on, a, memory);
    }
  }

  template <class Pack> void fill(int n, int k, Pack pack) {
    for (int i = 0; i < (pairs_ ? 2 : 1); ++i) {
      host_buffer<std::byte> packed(weight::bytes(n, k));
      pack(weight::over(packed.data(), n, k), i);
      memory_[i] = on_machine(std::move(packed));
      weights_[i] = weight::over(memory_[i].data(), n, k);
    }
  }

  bool pairs_;
  std::size_t needed_ = 0;
  buffer<std::byte> memory_[2];
  weight weights_[2] = {};
};

//! `Whole`: 8-bit activations can be multiplied with the format's codes.
template <class Format, class Quantizer, bool Whole = true> std::unique_ptr<linear> make_coded(const matrix& w, form f, bool native, bool int8_activations) {
  if constexpr (Whole)
    if (int8_activations) return std::make_unique<coded<Format, true>>(w, f, native, Quantizer{});
  if (int8_activations) throw std::runtime_error("--activations int8 takes weights whose codes are integers: this format is multiplied with bf16 activations");
  return std::make_unique<coded<Format, false>>(w, f, native, Quantizer{});
}

}  // namespace generate::inline GENERATE_MACHINE
