// Tokens a second of llama.cpp, as `generate --speed P,G,D` counts its own; and its tool's way to other formats. It is built outside this
// tree, against an llama.cpp built from source: bench/README.md.
//   llama_bench MODEL THREADS FLASH PREFILL DECODE DEPTH
//   llama_bench --quantize MODEL OUT        Q4_0, the embedding in Q8_0 as the file on which it is compared has it
#include <llama.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {
double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
}  // namespace

int main(int argc, char** argv) {
  llama_backend_init();
  llama_log_set([](ggml_log_level level, const char* text, void*) { if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr); }, nullptr);
  if (argc == 4 && std::strcmp(argv[1], "--quantize") == 0) {
    llama_model_quantize_params p = llama_model_quantize_default_params();
    p.ftype = LLAMA_FTYPE_MOSTLY_Q4_0;
    p.allow_requantize = true;
    p.output_tensor_type = p.token_embedding_type = GGML_TYPE_Q8_0;
    return int(llama_model_quantize(argv[2], argv[3], &p));
  }
  if (argc != 7) return std::fputs("llama_bench MODEL THREADS FLASH PREFILL DECODE DEPTH\n", stderr), 2;
  const int threads = std::atoi(argv[2]), prefill = std::atoi(argv[4]), decode = std::atoi(argv[5]), depth = std::atoi(argv[6]);
  llama_model_params m = llama_model_default_params();
  m.use_extra_bufts = std::getenv("SMALTI_LLAMA_PLAIN") == nullptr;      // its repacked weights and AMX kernels: build 0c1e570 stops with a fault in the latter
  llama_model* const model = llama_model_load_from_file(argv[1], m);
  if (model == nullptr) return 2;
  llama_context_params p = llama_context_default_params();
  p.n_ctx = unsigned(depth + (prefill > decode ? prefill : decode) + 64), p.n_batch = 2048, p.n_ubatch = 512, p.n_threads = p.n_threads_batch = threads;
  p.flash_attn_type = std::atoi(argv[3]) != 0 ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  llama_context* const context = llama_init_from_model(model, p);
  if (context == nullptr) return 2;
  std::vector<llama_token> tokens(16384);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = llama_token((100 + i * 7919) % 40000);
  bool failed = false;
  const auto feed = [&](int first, int count) {
    failed |= llama_decode(context, llama_batch_get_one(tokens.data() + first, count)) != 0;
    llama_synchronize(context);
  };
  feed(0, 32);
  llama_memory_clear(llama_get_memory(context), true);
  for (int i = 0; i < depth; i += 512) feed(i, depth - i < 512 ? depth - i : 512);
  const double start = now();
  feed(depth, prefill);
  const double middle = now();
  failed |= !llama_memory_seq_rm(llama_get_memory(context), 0, depth, -1);
  feed(depth, 1);
  const double again = now();
  for (int i = 1; i <= decode; ++i) feed(depth + i, 1);
  const double end = now();
  if (failed) return std::fputs("llama_decode failed\n", stderr), 2;
  std::printf("{\"prefill\": %.3f, \"decode\": %.3f}\n", prefill / (middle - start), decode / (end - again));
}
