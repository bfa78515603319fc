// The linear layers of models people run: y[m x n] = x[m x k] w[n x k]^T. Projections that a program may fuse
// (q, k and v; gate and up) are listed fused. From the models' public configuration files.
#pragma once

namespace bench {

struct linear_shape {
  const char* model;
  const char* layer;
  int n, k;
};

// hidden 4096, 32 heads and 8 KV heads of 128, feed-forward 14336, vocabulary 128256
inline constexpr linear_shape llama3_8b[] = {
    {"llama3_8b", "qkv", 6144, 4096},   {"llama3_8b", "out", 4096, 4096},    {"llama3_8b", "gate_up", 28672, 4096},
    {"llama3_8b", "down", 4096, 14336}, {"llama3_8b", "head", 128256, 4096},
};
// hidden 8192, 64 heads and 8 KV heads of 128, feed-forward 28672, vocabulary 128256
inline constexpr linear_shape llama3_70b[] = {
    {"llama3_70b", "qkv", 10240, 8192},  {"llama3_70b", "out", 8192, 8192},    {"llama3_70b", "gate_up", 57344, 8192},
    {"llama3_70b", "down", 8192, 28672}, {"llama3_70b", "head", 128256, 8192},
};
// hidden 4096, 32 heads and 8 KV heads of 128, 8 experts of 14336, vocabulary 32000
inline constexpr linear_shape mixtral_8x7b[] = {
    {"mixtral_8x7b", "qkv", 6144, 4096},          {"mixtral_8x7b", "out", 4096, 4096},
    {"mixtral_8x7b", "router", 8, 4096},          {"mixtral_8x7b", "expert_gate_up", 28672, 4096},
    {"mixtral_8x7b", "expert_down", 4096, 14336}, {"mixtral_8x7b", "head", 32000, 4096},
};
// hidden 7168, 128 heads of 128 + 64 (values 128), query rank 1536, KV rank 512 + 64, feed-forward 18432 in
// three layers, else 256 experts of 2048, vocabulary 129280
inline constexpr linear_shape deepseek_v3[] = {
    {"deepseek_v3", "q_down", 1536, 7168},      {"deepseek_v3", "q_up", 24576, 1536},  {"deepseek_v3", "kv_down", 576, 7168},
    {"deepseek_v3", "kv_up", 32768, 512},       {"deepseek_v3", "out", 7168, 16384},   {"deepseek_v3", "dense_gate_up", 36864, 7168},
    {"deepseek_v3", "dense_down", 7168, 18432}, {"deepseek_v3", "router", 256, 7168},  {"deepseek_v3", "expert_gate_up", 4096, 7168},
    {"deepseek_v3", "expert_down", 7168, 2048}, {"deepseek_v3", "head", 129280, 7168},
};
// hidden 576, 9 heads and 3 KV heads of 64, feed-forward 1536, vocabulary 49152
inline constexpr linear_shape smollm2_135m[] = {
    {"smollm2_135m", "qkv", 960, 576},   {"smollm2_135m", "out", 576, 576},    {"smollm2_135m", "gate_up", 3072, 576},
    {"smollm2_135m", "down", 576, 1536}, {"smollm2_135m", "head", 49152, 576},
};

//! Calls visit(shape) for every layer above.
template <class Visit> void for_each_shape(Visit visit) {
  for (const auto& s : llama3_8b) visit(s);
  for (const auto& s : llama3_70b) visit(s);
  for (const auto& s : mixtral_8x7b) visit(s);
  for (const auto& s : deepseek_v3) visit(s);
  for (const auto& s : smollm2_135m) visit(s);
}

}  // namespace bench
