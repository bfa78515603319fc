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

#include "chat_template.hpp"
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

struct said {
  std::string text;
  std::vector<int> behind;      // what was said and is not yet in the cache: the last token, where --length ends the answer
};

// Writes the answer to `prompt` as it comes; it ends at a token that ends answers or after --length tokens.
said answer(engine& e, const tokenizer& t, const chat_template* form, const options& o, int sequence, const std::vector<int>& prompt, speed& took) {
  chooser choose(o);
  said out;
  std::vector<float> logits;
  const double start = now();
  e.feed(sequence, prompt, false, logits);
  e.settle(sequence);
  const double first = now();
  took.prefill += first - start, took.prefill_tokens += prompt.size();
  for (int i = 0; i < o.length; ++i) {
    const int token = choose(logits, std::uint32_t(e.length(sequence)));
    if (token == t.end() || (form != nullptr && form->ends(token))) break;
    const std::string text = t.decode(token);
    out.text += text;
    if (!o.json) std::cout << text << std::flush;
    if (i + 1 == o.length) {
      out.behind = {token};
      break;
    }
    e.feed(sequence, {token}, false, logits);
    ++took.decode_tokens;
  }
  took.decode += now() - first;
  if (!o.json) std::cout << std::endl;      // what is reported goes another way
  return out;
}

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

std::vector<message> opening(const options& o) { return o.system.empty() ? std::vector<message>{} : std::vector<message>{{"system", o.system}}; }

int chat(engine& e, const tokenizer& t, const chat_template& form, const options& o) {
  const int sequence = e.open();
  std::vector<int> behind;
  bool fresh = true;
  std::cerr << "An empty line ends the conversation.\n";
  for (std::string line; std::cerr << "> " << std::flush, std::getline(std::cin, line) && !line.empty(); fresh = false) {
    std::vector<message> messages = fresh ? opening(o) : std::vector<message>{};
    messages.push_back({"user", line});
    const std::vector<int> turn = t.encode(form.write(messages, fresh));
    behind.insert(behind.end(), turn.begin(), turn.end());
    speed took;
    const said answered = answer(e, t, &form, o, sequence, behind, took);
    behind = answered.behind;
    report(e, o, took, answered.text);
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
  if (!o.render.empty()) return run_render(model.vocabulary(), tokens, o);
  // Before weights are packed: whether a conversation can be written down. Without a template a prompt is a text to go on with.
  const bool written = !o.raw && (o.chat || (!o.prompt.empty() && (!o.chat_template.empty() || !model.vocabulary().chat_template.empty())));
  if (o.chat && o.raw) throw std::runtime_error("--raw and --chat: a conversation has a template");
  if (!o.system.empty() && !written) throw std::runtime_error("--system needs a chat template: the model's file has none, or --raw leaves it out");
  const std::unique_ptr<chat_template> form = written ? std::make_unique<chat_template>(o.chat_template, model.vocabulary(), tokens) : nullptr;

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
  if (o.chat) return chat(*e, tokens, *form, o);
  if (o.prompt.empty()) throw std::runtime_error("nothing to do: --prompt, --chat, --eval, --recall, --greedy, --tokens, --tokenize, --render or --matrix");

  std::vector<int> ids;
  if (form != nullptr) {
    std::vector<message> messages = opening(o);
    messages.push_back({"user", o.prompt});
    ids = tokens.encode(form->write(messages, true));
  } else {
    ids = tokens.encode(o.prompt, false);
    if (tokens.begin() >= 0) ids.insert(ids.begin(), tokens.begin());
    if (!o.json) std::cout << o.prompt << std::flush;
  }
  speed took;
  const int sequence = e->open();
  const said answered = answer(*e, tokens, form.get(), o, sequence, ids, took);
  if (!o.kept.empty()) write_kept(*e, o, took.prefill_tokens);
  report(*e, o, took, answered.text);
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
