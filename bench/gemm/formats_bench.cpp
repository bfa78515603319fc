// Every format of weights on the same matrices: what it costs a product in accuracy, on real weights, and in time a weight.
//
//     bench.formats --json FILE [--kjv FOLDER] [--smollm FILE.gguf] [--no-times]
//
// Accuracy: relative error of y = x W', || y of the packed weight - y of the weight || / || y of the weight ||, over all matrices of a
// model and 16 rows of Gaussian activations, through gemm::weight_only itself. For such activations it is the relative error of the
// weights. `expected` is that of independent normal weights: the specification's figure where it has one, else measured here.
// Time: one row, one thread, a weight of 512 x 2048 that stays in the second-level cache: decoding, multiplying, scaling.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>
#include <smalti/core/workspace_pool.hpp>
#include <smalti/io/ggml_blocks.hpp>
#include <smalti/io/mapped_file.hpp>
#include <smalti/io/plain.hpp>
#include <smalti/io/safetensors.hpp>
#include <smalti/ops/gemm.hpp>
#include <smalti/ops/gemm/pack.hpp>
#include <smalti/ops/gemm/quantized.hpp>
#include <smalti/ops/quantize.hpp>
#include <smalti/policy/codec.hpp>
#include <smalti/policy/quantizers/bitsandbytes.hpp>
#include <smalti/policy/quantizers/float8.hpp>
#include <smalti/policy/quantizers/gguf.hpp>
#include <smalti/policy/quantizers/integer.hpp>
#include <smalti/policy/quantizers/microscaling.hpp>

namespace {

using namespace smalti;

constexpr int rows_of_x = 16;

struct matrix {
  std::string name;
  int n = 0, k = 0;
  std::vector<float> values;
};

[[noreturn]] void stop(const char* what, const char* why) {
  std::fprintf(stderr, "bench.formats: %s: %s\n", what, why);
  std::exit(1);
}
void expect(const status& s) {
  if (!s) stop("refused", s.what);
}

// ---- matrices

std::vector<matrix> kjv(const std::string& folder) {
  io::mapped_file file;
  io::safetensors f;
  if (!file.open((folder + "/model.safetensors").c_str()) || !f.read(file.data())) stop("cannot read", folder.c_str());
  std::vector<matrix> all;
  for (const io::tensor& t : f.tensors()) {
    if (t.shape.size() != 2 || t.name.find("embed") != std::string::npos) continue;
    io::plain p;
    if (!import_plain(t, p)) stop("cannot read", t.name.c_str());
    matrix m{t.name, int(p.n), int(p.k), std::vector<float>(std::size_t(p.n * p.k))};
    p.values(0, p.n, m.values.data());
    all.push_back(std::move(m));
  }
  return all;
}
// Every fifth layer's seven matrices.
std::vector<matrix> smollm(const char* path) {
  io::mapped_file file;
  io::gguf f;
  if (!file.open(path) || !f.read(file.data())) stop("cannot read", path);
  std::vector<matrix> all;
  for (const io::gguf_tensor& t : f.tensors()) {
    if (t.rank != 2 || !t.name.starts_with("blk.") || std::atoi(std::string(t.name.substr(4)).c_str()) % 5 != 0) continue;
    io::quantized q;
    if (!import_tensor(t, q)) continue;
    matrix m{std::string(t.name), int(q.n), int(q.k), std::vector<float>(std::size_t(q.n * q.k))};
    std::vector<std::uint8_t> codes(m.values.size());
    q.codes(0, q.n, codes.data());
    for (std::int64_t i = 0; i < q.n; ++i)
      for (std::int64_t j = 0; j < q.k; ++j) {
        const auto g = std::size_t(q.group(i, j)), at = std::size_t(i * q.k + j);
        m.values[at] = policy::rounded((float(codes[at]) - float(q.zero_point)) * q.scale[g]) + (q.minimum.empty() ? 0.0f : q.minimum[g]);
      }
    all.push_back(std::move(m));
  }
  return all;
}
matrix normal(int n, int k) {
  std::mt19937 generator(20261121);
  std::normal_distribution<float> d(0, 0.02f);
  matrix m{"normal", n, k, std::vector<float>(std::size_t(n) * std::size_t(k))};
  for (float& v : m.values) v = d(generator);
  return m;
}

// ---- quantizing: a matrix as the arrays that pack() takes

struct arrays {
  std::vector<std::uint8_t> codes, zero, scale_code, minimum_code;
  std::vector<float> scale, minimum, outer, outer_minimum;
  float mean = 0;
  gemm::weight_source source(const matrix& m) const {
    const auto data = [](const auto& v) { return v.empty() ? nullptr : v.data(); };
    return {.codes = data(codes), .stride = m.k, .n = m.n, .k = m.k, .scale = data(scale), .zero = data(zero), .minimum = data(minimum), .scale_code = data(scale_code),
            .minimum_code = data(minimum_code), .outer = data(outer), .outer_minimum = data(outer_minimum), .mean = mean};
  }
};
void keep(arrays& a, float s) { a.scale.push_back(s); }
void keep(arrays& a, fp16 s) { a.scale.push_back(to_float(s)); }
void keep(arrays& a, e8m0 s) { a.scale_code.push_back(s.bits); }
void keep(arrays& a, fp8_e4m3 s) { a.scale_code.push_back(s.bits); }
void keep(arrays& a, const policy::scale_and_zero<float>& s) { a.scale.push_back(to_float(narrow<fp16>(s.scale))), a.zero.push_back(s.zero); }
void keep(arrays& a, const policy::scale_and_minimum& s) { a.scale.push_back(to_float(s.scale)), a.minimum.push_back(to_float(s.minimum)); }
void keep(arrays& a, const policy::super_block<8>& s) {
  a.outer.push_back(to_float(s.d)), a.outer_minimum.push_back(to_float(s.dmin));
  a.scale_code.insert(a.scale_code.end(), s.scale, s.scale + 8), a.minimum_code.insert(a.minimum_code.end(), s.minimum, s.minimum + 8);
}
void keep(arrays& a, const policy::q6_k_block& s) {
  a.outer.push_back(to_float(s.d));
  for (const std::int8_t c : s.scale) a.scale_code.push_back(std::uint8_t(c));
}

template <class Quantizer> arrays in_groups(const matrix& m, int group, const Quantizer& quantizer = {}) {
  using stored = decltype(quantizer(nullptr, 0, nullptr));
  arrays a;
  a.codes.resize(m.values.size());
  const int groups = group == 0 ? 1 : ceil_div(m.k, group);
  std::vector<stored> scales(std::size_t(m.n) * std::size_t(groups));
  expect(policy::quantize_rows(quantizer, {m.values.data(), m.n, m.k, m.k}, group, a.codes.data(), scales.data()));
  for (const stored& s : scales) keep(a, s);
  return a;
}
// Symmetric integers and floats: the largest magnitude is the largest code.
template <class Codec, class Element, int Group> struct symmetric {
  arrays operator()(const matrix& m) const { return in_groups<policy::symmetric_quantizer<Codec, Element>>(m, Group); }
};
template <class Quantizer, int Group> struct by {
  arrays operator()(const matrix& m) const { return in_groups<Quantizer>(m, Group); }
};
struct nvfp4 {
  arrays operator()(const matrix& m) const {
    const float tensor = policy::nvfp4_tensor_scale(policy::absmax{}.reach<policy::e2m1>(m.values.data(), int(m.values.size())));
    arrays a = in_groups(m, 16, policy::nvfp4_modelopt_quantizer{tensor});
    a.outer = {tensor};
    return a;
  }
};
struct nf4_twice {
  arrays operator()(const matrix& m) const {
    arrays a = in_groups<policy::bitsandbytes_quantizer<policy::nf4>>(m, 64);
    const int count = int(a.scale.size());
    a.mean = policy::mean_of(a.scale.data(), count);
    a.scale_code.resize(a.scale.size());
    a.outer.resize(std::size_t(ceil_div(count, 256)));
    policy::double_quantize(a.scale.data(), count, a.mean, a.scale_code.data(), a.outer.data());
    return a;
  }
};
template <int Rows, int Cols> struct fp8_tiles {
  arrays operator()(const matrix& m) const {
    arrays a;
    a.codes.resize(m.values.size());
    a.scale.resize(std::size_t(ceil_div(m.n, Rows)) * std::size_t(Cols == 0 ? 1 : ceil_div(m.k, Cols == 0 ? 1 : Cols)));
    expect(policy::quantize_tiles(policy::deepgemm_rule<>{}, {m.values.data(), m.n, m.k, m.k}, Rows, Cols, a.codes.data(), a.scale.data()));
    return a;
  }
};

// ---- products

struct one_tile {
  constexpr gemm::linear_tuning operator()(target, gemm::gemm_regime) const { return {.m = 16, .n = 64, .k = 256}; }
};
struct options : gemm::linear_options {
  static constexpr bool batch_invariant = true, any_width = true;
};
const auto& on() {
  static const auto context = with_tuning<one_tile>(host_context{.threads = 1});
  return context;
}

template <class Format> struct layer {
  using op = gemm::weight_only<Format, policy::chain<>, bf16, float, options>;
  using weight = typename op::weight_type;
  static std::size_t bytes(int n, int k) { return weight::bytes(n, k); }
  workspace_pool<host_context> packed{host_context{}}, memory{host_context{}};
  weight w;
  layer(const matrix& m, const arrays& a) {
    expect(packed.reserve(weight::bytes(m.n, m.k)));
    w = weight::over(packed.memory().data, m.n, m.k);
    std::vector<std::byte> filling(gemm::packing_bytes<weight>(m.k));
    expect(gemm::pack(w, a.source(m), 0, filling.empty() ? nullptr : filling.data()));
  }
  void operator()(const std::vector<bf16>& x, int rows, std::vector<float>& y) {
    const typename op::args args{.x = {x.data(), rows, w.k, w.k}, .w = w, .y = {y.data(), rows, w.n, w.n}};
    expect(memory.reserve(op::workspace_bytes(on(), args)));
    expect(op::run(on(), args, memory.memory()));
  }
};

// Activations quantized first, each time.
template <class Tokens, class Format> struct tokens_layer {
  using op = gemm::quantized<Tokens, Format, policy::chain<>, float, options>;
  using rounding = quantize::tokens<bf16, Tokens>;
  using weight = typename op::weight_type;
  static constexpr bool integers = std::is_same_v<typename Tokens::code, std::int8_t>;
  static std::size_t bytes(int n, int k) {
    if constexpr (integers) return weight::bytes(n, k);
    else return std::size_t(n) * std::size_t(k) + std::size_t(Format::scales::rows(k)) * std::size_t(Format::scales::cols(n)) * sizeof(float);
  }
  workspace_pool<host_context> packed{host_context{}}, memory{host_context{}}, rounded{host_context{}};
  std::vector<float> scales;
  weight w;
  int n, k;
  tokens_layer(const matrix& m, const arrays& a) : n(m.n), k(m.k) {
    if constexpr (integers) {
      expect(packed.reserve(bytes(n, k)));
      w = weight::over(packed.memory().data, n, k);
      expect(gemm::pack(w, a.source(m)));
    } else {      // as checkpoints have them, but for the scales: K / 128 x N / 128
      const int rows = Format::scales::rows(k), cols = Format::scales::cols(n);
      expect(packed.reserve(a.codes.size()));
      std::memcpy(packed.memory().data, a.codes.data(), a.codes.size());
      scales.resize(a.scale.size());
      for (int j = 0; j < cols; ++j)
        for (int g = 0; g < rows; ++g) scales[std::size_t(g) * std::size_t(cols) + std::size_t(j)] = a.scale[std::size_t(j) * std::size_t(rows) + std::size_t(g)];
      w.matrix = {reinterpret_cast<const typename Tokens::code*>(packed.memory().data), n, k, k};
      w.scales.scale.data = scales.data(), w.scales.scale.rows = rows, w.scales.scale.cols = w.scales.scale.stride = cols;
    }
  }
  void operator()(const std::vector<bf16>& x, int rows, std::vector<float>& y) {
    const int groups = rounding::groups(k);
    typename rounding::args r{.x = {x.data(), rows, k, k}, .codes = {}, .scales = {}};
    const auto lay_out = [&](std::byte* base) {
      carver c{base};
      r.codes = {c.take<typename Tokens::code>(std::size_t(rows) * std::size_t(k)), rows, k, k};
      r.scales = {c.take<float>(std::size_t(groups) * std::size_t(rows)), groups, rows, rows};
      return c.used;
    };
    expect(rounded.reserve(lay_out(nullptr)));
    lay_out(rounded.memory().data);
    expect(rounding::run(host_context{.threads = 1}, r));
    const typename op::args args{.x = {r.codes.data, rows, k, k}, .x_scales = {r.scales.data, groups, rows, rows}, .w = w, .y = {y.data(), rows, n, n}};
    expect(memory.reserve(op::workspace_bytes(on(), args)));
    expect(op::run(on(), args, memory.memory()));
  }
};

std::vector<bf16> activations(int rows, int k) {
  std::mt19937 generator(7);
  std::normal_distribution<float> d;
  std::vector<bf16> x(std::size_t(rows) * std::size_t(k));
  for (bf16& v : x) v = narrow<bf16>(d(generator));
  return x;
}
// Sums in double; one matrix's are the same for every format.
std::vector<double> exact(const matrix& m) {
  const auto x = activations(rows_of_x, m.k);
  std::vector<double> y(std::size_t(rows_of_x) * std::size_t(m.n)), wide(x.size());
  std::transform(x.begin(), x.end(), wide.begin(), [](bf16 v) { return double(to_float(v)); });
  for (int i = 0; i < rows_of_x; ++i)
    for (int j = 0; j < m.n; ++j) {
      double sum = 0;
      for (int p = 0; p < m.k; ++p) sum += wide[std::size_t(i) * std::size_t(m.k) + std::size_t(p)] * double(m.values[std::size_t(j) * std::size_t(m.k) + std::size_t(p)]);
      y[std::size_t(i) * std::size_t(m.n) + std::size_t(j)] = sum;
    }
  return y;
}
struct model {
  const char* key;
  std::vector<matrix> matrices;
  std::vector<std::vector<double>> products;
  model(const char* key, std::vector<matrix> all) : key(key), matrices(std::move(all)) {
    for (const matrix& m : matrices) products.push_back(exact(m));
  }
};
template <class Format, class Quantize, class Product> double error_on(const model& all) {
  double off = 0, size = 0;
  for (std::size_t i = 0; i < all.matrices.size(); ++i) {
    const matrix& m = all.matrices[i];
    if (gemm::scale_arrays<typename Format::scales>::has_super && m.k % 256 != 0) continue;      // rows hold whole super blocks, as in ggml
    std::vector<float> y(all.products[i].size());
    Product l(m, Quantize{}(m));
    l(activations(rows_of_x, m.k), rows_of_x, y);
    for (std::size_t j = 0; j < y.size(); ++j) off += (y[j] - all.products[i][j]) * (y[j] - all.products[i][j]), size += all.products[i][j] * all.products[i][j];
  }
  return std::sqrt(off / size);
}

template <class F> double nanoseconds_of(F run) {
  std::vector<double> times;
  for (int round = 0; round < 11; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 24; ++i) run();
    times.push_back(std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count() / 24);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

struct output {
  std::FILE* file;
  std::vector<model> models;
  model independent{"gaussian", {normal(768, 4096)}};
  matrix small = normal(512, 2048);
  bool times = true, first = true;

  void open(const char* name, const char* type) { std::fprintf(file, "%s\n  {\"name\": \"quality/%s\", \"type\": \"%s\"", first ? "" : ",", name, type), first = false; }
  template <class Format, class Quantize, class Product = layer<Format>> void enter(const char* name, const char* type, double specified) {
    open(name, type);
    std::fprintf(file, ", \"bytes\": %zu, \"bits\": %.4f", Product::bytes(4096, 4096), 8.0 * double(Product::bytes(4096, 4096)) / (4096.0 * 4096));
    const double here = error_on<Format, Quantize, Product>(independent), expected = specified > 0 ? specified : here;
    std::fprintf(file, ", \"specified\": %.4f, \"gaussian\": %.5f, \"expected\": %.5f, \"gaussian_over_expected\": %.4f", specified, here, expected, here / expected);
    double worst = 0;
    for (const model& m : models) {
      const double e = error_on<Format, Quantize, Product>(m);
      std::fprintf(file, ", \"%s\": %.5f", m.key, e);
      if (std::string_view(m.key) == "kjv_5m") worst = e / expected;
    }
    if (worst > 0) std::fprintf(file, ", \"over_expected\": %.4f", worst);
    if (times) {
      Product l(small, Quantize{}(small));
      std::vector<float> y(std::size_t(rows_of_x) * std::size_t(small.n));
      for (const int rows : {1, rows_of_x}) {
        const auto x = activations(rows, small.k);
        std::fprintf(file, ", \"ns_per_weight_%d\": %.5f", rows, nanoseconds_of([&] { l(x, rows, y); }) / (double(small.n) * small.k));
      }
    }
    std::fprintf(file, "}");
    std::fprintf(stderr, "%s\n", name);
  }
  // The undecoded product, for comparison.
  void enter_dense() {
    using op = gemm::dense<bf16, bf16, float>;
    open("bf16", "gemm::dense");
    if (times) {
      std::vector<bf16> w(small.values.size());
      std::transform(small.values.begin(), small.values.end(), w.begin(), [](float v) { return narrow<bf16>(v); });
      std::vector<float> y(std::size_t(rows_of_x) * std::size_t(small.n));
      const host_context context{.threads = 1};
      for (const int rows : {1, rows_of_x}) {
        const auto x = activations(rows, small.k);
        const op::args args{.a = {x.data(), rows, small.k, small.k}, .b = {w.data(), small.n, small.k, small.k}, .c = {y.data(), rows, small.n, small.n}};
        workspace_pool memory(context);
        expect(memory.reserve(op::workspace_bytes(context, args)));
        std::fprintf(file, ", \"ns_per_weight_%d\": %.5f", rows, nanoseconds_of([&] { expect(op::run(context, args, memory.memory())); }) / (double(small.n) * small.k));
      }
    }
    std::fprintf(file, "}");
  }
};

}  // namespace

int main(int argc, char** argv) {
  using namespace smalti::policy;
  const char *json = nullptr, *smollm_file = nullptr;
  std::string kjv_folder = SMALTI_KJV_FOLDER;
  bool times = true;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--no-times") times = false;
    else if (i + 1 < argc && word == "--json") json = argv[++i];
    else if (i + 1 < argc && word == "--kjv") kjv_folder = argv[++i];
    else if (i + 1 < argc && word == "--smollm") smollm_file = argv[++i];
    else stop(argv[i], "options are --json FILE, --kjv FOLDER, --smollm FILE, --no-times");
  }
  if (json == nullptr) stop("--json", "needs a file");
  output out{.file = std::fopen(json, "w"), .models = {}, .times = times};
  if (out.file == nullptr) stop("cannot write", json);
  out.models.emplace_back("kjv_5m", kjv(kjv_folder));
  if (smollm_file != nullptr) out.models.emplace_back("smollm2", smollm(smollm_file));
  std::fprintf(out.file, "{\"benchmarks\": [");
  out.enter<int_affine<8, 128>, symmetric<offset_int<8>, fp16, 128>>("int8_g128", "int_affine<8, 128>", 0);
  out.enter<q8_0, by<q8_0_quantizer<>, 32>>("q8_0", "q8_0", 0);
  out.enter<fp8_block, fp8_tiles<128, 128>>("fp8_block", "fp8_block", 0);
  out.enter<fp8_channel, fp8_tiles<1, 0>>("fp8_channel", "fp8_channel", 0);
  out.enter<mxfp8_e4m3, by<mx_quantizer<policy::e4m3>, 32>>("mxfp8", "mxfp8_e4m3", 0);
  out.enter<q6_k, by<q6_k_quantizer, 256>>("q6_k", "q6_k", 0);
  out.enter<int_affine<6, 128>, symmetric<offset_int<6>, fp16, 128>>("int6_g128", "int_affine<6, 128>", 0);
  out.enter<mxfp6_e2m3, by<mx_quantizer<policy::e2m3>, 32>>("mxfp6", "mxfp6_e2m3", 0);
  out.enter<q5_k, by<q5_k_quantizer, 256>>("q5_k", "q5_k", 0);
  out.enter<q5_0, by<q5_0_quantizer, 32>>("q5_0", "q5_0", 0);
  out.enter<q4_k, by<q4_k_quantizer, 256>>("q4_k", "q4_k", 0);
  out.enter<q4_1, by<q4_1_quantizer, 32>>("q4_1", "q4_1", 0);
  out.enter<q4_0, by<q4_0_quantizer, 32>>("q4_0", "q4_0", 0.086);
  out.enter<bnb_nf4<64>, by<bitsandbytes_quantizer<nf4>, 64>>("nf4_b64", "bnb_nf4<64>", 0.092);
  out.enter<bnb_nf4_double<64>, nf4_twice>("nf4_b64_double", "bnb_nf4_double<64>", 0.092);
  out.enter<nvfp4_multiplier, nvfp4>("nvfp4", "nvfp4_multiplier", 0.095);
  out.enter<policy::format<policy::e2m1, policy::scales<float, 64>>, symmetric<policy::e2m1, float, 64>>("e2m1_g64", "format<e2m1, scales<float, 64>>", 0.106);
  out.enter<int_affine<4, 64>, symmetric<offset_int<4>, fp16, 64>>("int4_g64", "int_affine<4, 64>", 0.107);
  out.enter<int_affine<4, 128>, symmetric<offset_int<4>, fp16, 128>>("int4_g128", "int_affine<4, 128>", 0);
  out.enter<int4_affine<128>, by<gptq_quantizer<4, false>, 128>>("int4_zero_g128", "int4_affine<128>", 0);
  out.enter<mxfp4, by<mxfp4_floor, 32>>("mxfp4", "mxfp4", 0.116);
  out.enter<bnb_fp4<64>, by<bitsandbytes_quantizer<fp4>, 64>>("fp4_b64", "bnb_fp4<64>", 0.122);
  out.enter<int_affine<3, 128>, symmetric<offset_int<3>, fp16, 128>>("int3_g128", "int_affine<3, 128>", 0);
  out.enter<q8_0, by<q8_0_quantizer<>, 32>, tokens_layer<int8_tokens<32>, q8_0>>("q8_0_a8", "quantized<int8_tokens<32>, q8_0>", 0);
  out.enter<q4_0, by<q4_0_quantizer, 32>, tokens_layer<int8_tokens<32>, q4_0>>("q4_0_a8", "quantized<int8_tokens<32>, q4_0>", 0);
  out.enter<int_affine<8, 0>, symmetric<offset_int<8>, fp16, 0>, tokens_layer<int8_tokens<0>, int_affine<8, 0>>>("int8_rows_a8", "quantized<int8_tokens<0>, int_affine<8, 0>>", 0);
  out.enter<fp8_block, fp8_tiles<128, 128>, tokens_layer<fp8_tokens<128>, fp8_block>>("fp8_block_a8", "quantized<fp8_tokens<128>, fp8_block>", 0);
  out.enter_dense();
  std::fprintf(out.file, "\n]}\n");
  return std::fclose(out.file) != 0;
}
