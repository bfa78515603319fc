// generate: a language model, end to end, on nothing but smalti. README: examples/generate/README.md.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <sys/resource.h>

#include <nlohmann/json.hpp>

#include <smalti/prim/sample.hpp>

#include "engine.hpp"
#include "machine.hpp"
#include "matrix.hpp"
#include "model_file.hpp"
#include "options.hpp"
#include "ranks.hpp"
#include "reports.hpp"
#include "tokenizer.hpp"

namespace {

using namespace generate;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct speed {
  std::size_t prefill_tokens = 0, decode_tokens = 0;
  double prefill = 0, decode = 0;
};

// The next token from a row of logits.
class chooser {
public:
  explicit chooser(const options& o) : o_(o) {}
  int operator()(const std::vector<float>& logits, std::uint32_t position) {
    const smalti::prim::sampling how{.temperature = o_.temperature, .top_k = o_.top_k, .top_p = o_.top_p, .min_p = o_.min_p, .position = position};
    std::int32_t token = -1;
    const int n = int(logits.size());
    run<smalti::prim::sample<float>>(smalti::host_context{1}, {.logits = {logits.data(), 1, n, n}, .rows = &how, .seed = o_.seed, .tokens = &token}, memory_);
    if (token < 0) throw std::runtime_error("the model's logits are not numbers");
    return token;
  }

private:
  const options& o_;
  scratch memory_;
};

// Writes the answer to `prompt` as it comes; it ends at the model's end token or after --length tokens.
std::string answer(engine& e, const tokenizer& t, const options& o, int sequence, const std::vector<int>& prompt, speed& took) {
  chooser choose(o);
  std::string text;
  std::vector<float> logits;
  const double start = now();
  e.feed(sequence, prompt, false, logits);
  e.settle(sequence);
  const double first = now();
  took.prefill += first - start, took.prefill_tokens += prompt.size();
  for (int i = 0; i < o.length; ++i) {
    const int token = choose(logits, std::uint32_t(e.length(sequence)));
    if (token == t.end()) break;
    const std::string piece = t.decode(token);
    text += piece;
    if (!o.json) std::cout << piece << std::flush;
    if (i + 1 == o.length) break;
    e.feed(sequence, {token}, false, logits);
    ++took.decode_tokens;
  }
  took.decode += now() - first;
  if (!o.json) std::cout << std::endl;      // what is reported goes another way
  return text;
}

std::string templated(const std::string& role, const std::string& text) { return "<|im_start|>" + role + "\n" + text + "<|im_end|>\n"; }
const char* const system_text = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

void report(const engine& e, const options& o, const speed& took, const std::string& text) {
  const engine_bytes b = e.bytes();
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const double mib = 1024.0 * 1024.0, prefill = double(took.prefill_tokens) / took.prefill, decode = took.decode_tokens > 0 ? double(took.decode_tokens) / took.decode : 0;
  if (o.json) {
    std::cout << nlohmann::json{{"text", text}, {"prefill_tokens", took.prefill_tokens}, {"prefill_tokens_per_second", prefill}, {"decode_tokens", took.decode_tokens},
                                {"decode_tokens_per_second", decode}, {"weight_bytes", b.weights}, {"cache_bytes", b.cache}, {"cache_bytes_used", b.cache_used},
                                {"peak_memory_bytes", used.ru_maxrss * 1024L}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
    return;
  }
  std::fprintf(stderr, "prefill %.1f tokens/s (%zu), decode %.1f tokens/s (%zu); weights %.1f MiB, cache %.2f of %.1f MiB, peak %.0f MiB\n", prefill, took.prefill_tokens, decode,
               took.decode_tokens, double(b.weights) / mib, double(b.cache_used) / mib, double(b.cache) / mib, double(used.ru_maxrss) / 1024);
}

void write_kept(const engine& e, const options& o, std::size_t tokens) {
  std::ofstream out(o.kept);
  out << nlohmann::json{{"cache", o.cache}, {"layers", e.shape().layers}, {"heads", e.shape().kv_heads}, {"tokens", tokens}, {"kept", e.kept()}}.dump() << '\n';
  if (!out.flush()) throw std::runtime_error(o.kept + " cannot be written");
}

int chat(engine& e, const tokenizer& t, const options& o, bool has_template) {
  if (!has_template) throw std::runtime_error("--chat needs a model with a chat template: this one has bytes for tokens");
  const int sequence = e.open();
  bool fresh = true;
  std::cerr << "An empty line ends the conversation.\n";
  for (std::string line; std::cerr << "> " << std::flush, std::getline(std::cin, line) && !line.empty(); fresh = false) {
    const std::string text = (fresh ? templated("system", system_text) : std::string("<|im_end|>\n")) + templated("user", line) + "<|im_start|>assistant\n";
    speed took;
    answer(e, t, o, sequence, t.encode(text, true), took);
    report(e, o, took, {});
  }
  return 0;
}

int main_of(int argc, char** argv, int processes) {
  options o = parse(argc, argv);
  if (processes > 1) o.ranks = processes;
  if (o.help || argc == 1) return std::fputs(usage(), stdout), 0;
  if (o.model.empty()) throw std::runtime_error("--model is missing: a GGUF file or a folder with config.json and model.safetensors");
  const double start = now();
  model_file model(o.model);
  const tokenizer tokens(model.vocabulary());
  if (!o.tokenize.empty()) return run_tokenize(tokens, o);

  if (!o.matrix.empty()) return run_matrix(model, tokens, o);
  const std::unique_ptr<engine> e = make_machine_engine(model.weights(), o);
  if (e->follow()) return 0;
  if (!o.json) std::fprintf(stderr, "%s: %d layers of %d, loaded in %.1f s\n", model.name().c_str(), e->shape().layers, e->shape().width, now() - start);

  if (!o.logits.empty() && o.tokens.empty()) throw std::runtime_error("--logits needs --tokens: the file with tokens.0, tokens.1, ...");
  if (!o.tokens.empty()) return run_logits(*e, o);
  if (!o.greedy.empty()) return run_greedy(*e, o);
  if (!o.eval.empty()) return run_eval(*e, tokens, o);
  if (!o.recall.empty()) return run_recall(*e, o);
  if (!o.speed.empty()) return run_speed(*e, o);
  if (o.chat) return chat(*e, tokens, o, !model.vocabulary().bytes);
  if (o.prompt.empty()) throw std::runtime_error("nothing to do: --prompt, --chat, --eval, --recall, --greedy, --tokens, --tokenize or --matrix");

  const bool plain = o.raw || model.vocabulary().bytes;
  const std::string text = plain ? o.prompt : templated("system", system_text) + templated("user", o.prompt) + "<|im_start|>assistant\n";
  speed took;
  const int sequence = e->open();
  if (!o.json && plain) std::cout << o.prompt << std::flush;
  const std::string said = answer(*e, tokens, o, sequence, tokens.encode(text, !plain), took);
  if (!o.kept.empty()) write_kept(*e, o, took.prefill_tokens);
  report(*e, o, took, said);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const int processes = start_processes(argc, argv);
  try {
    const int result = main_of(argc, argv, processes);
    end_processes(false);
    return result;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "generate: %s\n", e.what());
    end_processes(true);
    return 2;
  }
}
