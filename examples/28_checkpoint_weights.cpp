// Weights as people hold them: a GPTQ layer with act-order, an AWQ layer and a Q4_K tensor of a GGUF file are read, packed for this
// processor and multiplied with activations in bf16. Checks each product against the weights that the format's own package
// gives back for the same bytes, and shows what a format that does not fit is told.
//     28_checkpoint_weights [folder with gptq.safetensors, awq.safetensors, gguf.safetensors of tests/golden]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>
#include <smalti/core/workspace_pool.hpp>
#include <smalti/io/ggml_blocks.hpp>
#include <smalti/io/gptq.hpp>
#include <smalti/io/mapped_file.hpp>
#include <smalti/io/plain.hpp>
#include <smalti/io/safetensors.hpp>
#include <smalti/ops/gemm/import.hpp>
#include <smalti/ops/gemm/quantized.hpp>

using namespace smalti;

constexpr int tokens = 9;

// [multiply]
// y = x w', tokens x outputs: the weight keeps its file's bits, the activations are bf16.
template <class Format> status multiply(const io::quantized& q, const std::vector<bf16>& x, std::vector<float>& y) {
  using layer = gemm::weight_only<Format, policy::chain<>, bf16, float>;
  using weight = typename layer::weight_type;
  const host_context context{};
  const int n = int(q.n), k = int(q.k);
  const bool ordered = !q.column_group.empty();  // act-order: the activations' columns are gathered
  workspace_pool packed(context), memory(context);
  if (const status bad = packed.reserve(weight::bytes(n, k, 1, ordered)); !bad) return bad;
  const typename layer::args args{
      .x = {x.data(), tokens, k, k}, .w = weight::over(packed.memory().data, n, k, 1, ordered), .y = {y.data(), tokens, n, n}};
  if (const status bad = gemm::pack_imported(args.w, q); !bad) return bad;  // once, when the model is loaded
  if (const status bad = memory.reserve(layer::workspace_bytes(context, args)); !bad) return bad;
  return layer::run(context, args, memory.memory());
}
// [multiply]

// A GGUF file of one tensor, as converters write it: magic, version, counts, the tensor's entry, its blocks from byte 64 on.
std::vector<std::byte> gguf_image(io::ggml_type type, std::uint64_t k, std::uint64_t n, io::bytes blocks) {
  std::vector<std::byte> file;
  const auto put = [&](const auto& v) { file.insert(file.end(), reinterpret_cast<const std::byte*>(&v), reinterpret_cast<const std::byte*>(&v + 1)); };
  for (const std::uint32_t word : {0x46554747u, 3u, 1u, 0u, 0u, 0u, 1u, 0u}) put(word);  // "GGUF", 1 tensor, no pairs, a name of one byte
  file.push_back(std::byte('w'));
  put(std::uint32_t(2)), put(k), put(n), put(type), put(std::uint64_t(0));
  file.resize((file.size() + 31) / 32 * 32);
  file.insert(file.end(), blocks.begin(), blocks.end());
  return file;
}

template <class Format> bool check(const char* name, const io::file_status& loaded, const io::quantized& q, const io::tensor* dequantized) {
  char line[description_size];
  if (!loaded) return std::printf("%s: %s\n", name, describe(loaded, line)), false;
  io::plain rows;
  if (dequantized == nullptr || !import_plain(*dequantized, rows)) return std::printf("%s: no reference\n", name), false;
  std::vector<float> w(std::size_t(q.n * q.k)), y(std::size_t(tokens) * std::size_t(q.n), NAN);
  rows.values(0, q.n, w.data());
  std::minstd_rand random(1);
  std::vector<bf16> x(std::size_t(tokens) * std::size_t(q.k));
  for (bf16& v : x) v = narrow<bf16>(float(random() % 2001) * 1e-3f - 1);
  if (const status bad = multiply<Format>(q, x, y); !bad) return std::printf("%s is refused: %s (got %lld, need %lld)\n", name, bad.what, (long long)bad.got, (long long)bad.need), false;

  // Sums of k products that are exact in float; codes and zeros (minima) are summed apart, each at most 15 scales from the weight.
  double worst = 0;
  for (std::int64_t i = 0; i < tokens; ++i)
    for (std::int64_t j = 0; j < q.n; ++j) {
      double sum = 0, size = 0;
      for (std::int64_t p = 0; p < q.k; ++p) {
        const double v = to_float(x[std::size_t(i * q.k + p)]), weight = w[std::size_t(j * q.k + p)];
        sum += v * weight, size += std::abs(v) * (std::abs(weight) + 30 * std::abs(q.scale[std::size_t(q.group(j, p))]));
      }
      worst = std::max(worst, std::abs(y[std::size_t(i * q.n + j)] - sum) / (double(q.k + 12) * 0x1p-24 * size));
    }
  const double bits = 8.0 * double(gemm::packed_weight<Format>::bytes(int(q.n), int(q.k), 1, !q.column_group.empty())) / double(q.n * q.k);
  std::printf("%-17s %3d x %3d, packed in %4.2f bits a weight (with padding), error %.1g of its bound%s\n", name, int(q.n), int(q.k), bits, worst, worst <= 1 ? "" : "  WRONG");
  return worst <= 1;
}

int main(int argc, char** argv) {
  const std::string folder = argc > 1 ? argv[1] : SMALTI_GOLDEN_DIR;
  io::mapped_file mapped[3];
  io::safetensors files[3];
  for (int i = 0; i < 3; ++i) {
    char line[description_size];
    io::file_status read = mapped[i].open((folder + "/" + std::vector<std::string>{"gptq", "awq", "gguf"}[std::size_t(i)] + ".safetensors").c_str());
    if (read) read = files[i].read(mapped[i].data());
    if (!read) return std::printf("%s\n", describe(read, line)), 1;
  }
  // [load]
  io::quantized gptq, awq, q4_k;
  io::gptq_layer layer = find_gptq(files[0], "b4.asym.act");  // .qweight, .qzeros, .scales, .g_idx
  layer.qzeros = files[0].find("b4.asym.act.qzeros_v1");      // these files keep both versions of the zeros
  layer.bits = 4, layer.group = 64, layer.version = 1;        // config.json says so
  const io::file_status first = import_layer(layer, gptq);
  io::awq_layer other = find_awq(files[1], "plain.g128");
  other.group = 128;
  const io::file_status second = import_layer(other, awq);
  // [load]
  const auto image = gguf_image(io::ggml_type::q4_k, 256, 16, files[2].find("q4_k.hard.packed")->data);
  io::gguf model;
  const io::file_status opened = model.read(image), third = opened ? import_tensor(*model.find_tensor("w"), q4_k) : opened;

  bool ok = check<policy::int4_affine<64>>("GPTQ, act-order", first, gptq, files[0].find("b4.asym.act.dequant"));
  ok &= check<policy::int4_affine<128>>("AWQ", second, awq, files[1].find("plain.g128.dequant"));
  ok &= check<policy::q4_k>("GGUF, Q4_K", third, q4_k, files[2].find("q4_k.hard.dequant"));
  const status refused = gemm::check_import<policy::q4_0>(q4_k);
  std::printf("Q4_K as q4_0: \"%s\"\n", refused.what);
  return !(ok && refused.code == errc::bad_value);
}
