// Tries every importer on the tensors of a file, found by the names their checkpoints use, and holds what is accepted to the
// promises of io/quantized.hpp. Used on malformed layers and by the fuzzer.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include <smalti/io/bitsandbytes.hpp>
#include <smalti/io/block_scaled.hpp>
#include <smalti/io/compressed_tensors.hpp>
#include <smalti/io/ggml_blocks.hpp>
#include <smalti/io/gptq.hpp>
#include <smalti/io/plain.hpp>

#include "walk.hpp"

namespace test {

inline void check_quantized(const smalti::io::quantized& q, bool finite, std::uint64_t& sum) {
  using namespace smalti::io;
  must(q.n >= 1 && q.k >= 1 && q.bits >= 1 && q.bits <= 8 && q.group_n >= 1 && q.group_k >= 1, "extents, bits and groups are positive");
  const std::uint64_t groups = std::uint64_t(q.groups());
  must(q.scale.size() == groups, "every group has a scale");
  must(q.minimum.empty() || q.minimum.size() == groups, "every group has a minimum, or none");
  must(q.zero_points.size() == (q.zero == zero_kind::per_group ? groups : 0), "every group has a zero point, or none");
  must(q.stored.code.empty() || q.stored.code.size() == groups, "every group has its stored scale, or none");
  must(q.column_group.empty() || std::int64_t(q.column_group.size()) == q.k, "every column has a group");
  if (finite)
    for (const float s : q.scale) must(std::isfinite(s), "scales are finite");
  std::vector<std::uint8_t> row(std::size_t(q.k));
  for (std::int64_t i = 0; i < q.n; ++i) {
    q.codes(i, 1, row.data());
    for (std::int64_t j = 0; j < q.k; ++j) {
      must(row[std::size_t(j)] < (1u << q.bits), "a code has the bits it should");
      const std::int64_t g = q.group(i, j);
      must(g >= 0 && std::uint64_t(g) < groups, "every element has a group");
      sum = sum * 31 + row[std::size_t(j)];
    }
  }
  const auto order = q.column_order();
  for (std::size_t p = 0; p < order.size(); ++p)
    must(q.group(0, order[p]) == std::int64_t(p) / q.group_k, "in order, groups are contiguous");
}

template <class Layer> void try_import(const Layer& layer, std::uint64_t& sum, int& accepted) {
  smalti::io::quantized q;
  const auto s = import_layer(layer, q);
  if (!s) {
    must(s.why.what[0] != '\0' && q.n == 0 && q.scale.empty(), "a refused layer leaves nothing behind");
    return;
  }
  check_quantized(q, layer.nan != smalti::io::nan_rule::keep, sum);
  ++accepted;
}

//! Importers that accepted what the file holds.
inline int walk_imports(const smalti::io::safetensors& f, std::uint64_t& sum) {
  using namespace smalti::io;
  int accepted = 0;
  for (const int bits : {2, 3, 4, 8})
    for (const std::int64_t group : {std::int64_t(-1), std::int64_t(32)}) {
      gptq_layer g = find_gptq(f, "l");
      g.bits = bits;
      g.group = group;
      g.version = bits % 2 + 1;
      try_import(g, sum, accepted);
      g.bits = bits + 3;
      g.planar = true;
      try_import(g, sum, accepted);
      awq_layer a = find_awq(f, "l");
      a.group = group;
      try_import(a, sum, accepted);
      pack_quantized_layer p = find_pack_quantized(f, "l");
      p.bits = bits;
      p.group = group;
      try_import(p, sum, accepted);
    }
  bitsandbytes_layer b;
  if (find_bitsandbytes(f, "l", b) && b.n < 65536 && b.k < 65536) try_import(b, sum, accepted);
  const tensor *w = f.find("l.weight"), *s = f.find("l.weight_scale"), *all = f.find("l.weight_scale_2");
  for (const nan_rule nan : {nan_rule::refuse, nan_rule::keep, nan_rule::zero_blocks}) {
    std::vector<block_scaled_layer> layers{nvfp4(w, s, all, tensor_scale_use::multiplies), nvfp4(w, s, all, tensor_scale_use::divides)};
    for (const code_kind kind : {code_kind::e2m1, code_kind::e2m3, code_kind::e3m2, code_kind::e4m3, code_kind::e5m2})
      layers.push_back(mx(w, s, kind));
    for (const std::int64_t n : {0, 1, 128})
      for (const std::int64_t k : {0, 16, 128}) layers.push_back(fp8(w, s, n, k));
    for (auto& layer : layers) {
      layer.nan = nan;
      try_import(layer, sum, accepted);
    }
  }
  for (const tensor& t : f.tensors()) {
    plain p;
    if (!import_plain(t, p)) continue;
    must(std::uint64_t(p.n) * std::uint64_t(p.k) * std::uint64_t(facts(p.type).bits) == t.data.size() * 8,
         "a plain tensor has the elements of its shape");
    if (p.n == 0 || p.k == 0) continue;
    std::vector<float> row(std::size_t(p.k));
    for (std::int64_t i = 0; i < p.n; ++i) {
      p.values(i, 1, row.data());
      sum += row[0] > 0 ? 1u : 0u;
    }
  }
  return accepted;
}

inline int walk_imports(const smalti::io::gguf& f, std::uint64_t& sum) {
  using namespace smalti::io;
  int accepted = 0;
  for (const gguf_tensor& t : f.tensors())
    for (const nan_rule nan : {nan_rule::refuse, nan_rule::keep}) {
      quantized q;
      if (import_tensor(t, q, nan)) {
        check_quantized(q, nan == nan_rule::refuse, sum);
        ++accepted;
      }
      plain p;
      if (!import_plain(t, p) || p.n == 0 || p.k == 0) continue;
      std::vector<float> row(std::size_t(p.k));
      for (std::int64_t i = 0; i < p.n; ++i) p.values(i, 1, row.data());
      ++accepted;
    }
  return accepted;
}

}  // namespace test
