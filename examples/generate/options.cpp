#include "options.hpp"

#include <cstdlib>
#include <functional>
#include <map>
#include <stdexcept>

namespace generate {

const char* usage() {
  return R"(generate --prompt "..." | --chat | --eval FILE | --recall FILE | --greedy FILE | --tokens FILE | --tokenize FILE | --matrix FILE

  --model PATH        a GGUF file, or a folder with config.json and model.safetensors
  --weights FORMAT    how weights are held: native (as the file has them), bf16, int8, int4:g128, nf4, mxfp4, q4_0, q4_1, q8_0, fp8, int6, int3
  --activations TYPE  what they are multiplied with: bf16, int8; f32: every step in float, to hold the others against
  --attention WAY     flash, hip:K, quest:K (K keys are looked at), window:W (the last W and the first 4)
  --kv FORMAT         how keys and values are stored: bf16, fp8, int8, int4
  --cache SYSTEM      dense; what is kept of a prompt: snapkv:F, pyramid:F, ada:F, h2o:F, scissorhands:F, d2o:F, d2o_keep:F, tova:F,
                      streaming:F, hired:F, F the share of its tokens; mikv:F, the others in 2 bits; kivi:F, F of 16 bits; or what is read
                      of it for each token: quest:F, sparf:F, actqkv:F
  --kept FILE         with --prompt: places that each layer and head has kept of it, or has read for the last token
  --machine M         where it runs: host, cuda
  --ranks N           prefill in N shares whose keys go round a ring: threads here, or processes under mpirun
  --threads N         0 takes all
  --length N          tokens to write at most (128)
  --context N         tokens that the cache holds (2048)
  --page N            tokens of a cache page (16)
  --temperature T     0 takes the most likely token; --top-k K, --top-p P, --min-p P, --seed S
  --raw               no chat template around the prompt
  --chat-template F   the form of conversations, in place of what the model's file says: chatml, llama3, gemma, mistral, mistral-tekken, plain
  --system TEXT       what stands before a conversation, in place of what the file's template says
  --eval FILE         bits per byte of a text, in windows of --window tokens (512); --windows N: the first N; --skip N: of each, N tokens are not scored (1)
  --recall FILE       facts found again in contexts of at most --context tokens; --ask-first: the question is the prompt's end
  --matrix FILE       --eval (and --recall) for each of --weights, --kv and --attention, which are then lists A,B,... or all: a table, and a plot beside it; a table of the same text is carried on
  --greedy FILE       checks forced continuations
  --tokens FILE       logits of tokens.0, tokens.1, ...: their distance from the file's own; --logits FILE writes them
  --speed P,G,D       tokens a second: prefill of P tokens, then decode of G, each behind D others
  --tokenize FILE     ids of each line {"text": ...}
  --render FILE       text and ids of each line {"messages": [{"role": ..., "content": ...}, ...]} by the chat template, or by the line's own "template"
  --json              results for machines
)";
}

options parse(int argc, char** argv) {
  options o;
  const auto text = [](std::string& to) { return [&to](const char* v) { to = v; }; };
  const auto whole = [](int& to, int least) {
    return [&to, least](const char* v) {
      char* end = nullptr;
      const long x = std::strtol(v, &end, 10);
      if (*v == 0 || *end != 0 || x < least || x > 1 << 28) throw std::runtime_error(std::string("a whole number of at least ") + std::to_string(least) + " is needed, not '" + v + "'");
      to = int(x);
    };
  };
  const auto number = [](float& to, float least, float most) {
    return [&to, least, most](const char* v) {
      char* end = nullptr;
      const float x = std::strtof(v, &end);
      if (*v == 0 || *end != 0 || !(x >= least && x <= most)) throw std::runtime_error("a number from " + std::to_string(least) + " to " + std::to_string(most) + " is needed, not '" + v + "'");
      to = x;
    };
  };
  const std::map<std::string, std::function<void(const char*)>> with_value = {
      {"--model", text(o.model)},     {"--prompt", text(o.prompt)}, {"--weights", text(o.weights)}, {"--machine", text(o.machine)},
      {"--activations", text(o.activations)}, {"--attention", text(o.attention)}, {"--kv", text(o.kv)}, {"--cache", text(o.cache)}, {"--matrix", text(o.matrix)}, {"--speed", text(o.speed)},
      {"--tokens", text(o.tokens)},   {"--logits", text(o.logits)}, {"--greedy", text(o.greedy)},   {"--eval", text(o.eval)},
      {"--recall", text(o.recall)},   {"--tokenize", text(o.tokenize)}, {"--kept", text(o.kept)},
      {"--chat-template", text(o.chat_template)}, {"--system", text(o.system)}, {"--render", text(o.render)},
      {"--threads", whole(o.threads, 0)}, {"--ranks", whole(o.ranks, 1)}, {"--windows", whole(o.windows, 0)}, {"--skip", whole(o.skip, 1)}, {"--page", whole(o.page, 1)}, {"--length", whole(o.length, 1)}, {"--window", whole(o.window, 2)},
      {"--context", whole(o.context, 16)}, {"--top-k", whole(o.top_k, 0)},
      {"--temperature", number(o.temperature, 0, 100)}, {"--top-p", number(o.top_p, 0, 1)}, {"--min-p", number(o.min_p, 0, 1)},
      {"--seed", [&o](const char* v) { o.seed = std::strtoull(v, nullptr, 10); }}};
  const std::map<std::string, bool*> alone = {{"--ask-first", &o.ask_first}, {"--chat", &o.chat}, {"--json", &o.json}, {"--raw", &o.raw}, {"--help", &o.help}};
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (const auto flag = alone.find(name); flag != alone.end()) {
      *flag->second = true;
    } else if (const auto value = with_value.find(name); value != with_value.end()) {
      if (i + 1 == argc) throw std::runtime_error(name + " needs a value");
      try {
        value->second(argv[++i]);
      } catch (const std::runtime_error& e) {
        throw std::runtime_error(name + ": " + e.what());
      }
    } else {
      throw std::runtime_error("unknown option " + name + ": see --help");
    }
  }
  if (o.machine != "host" && o.machine != "cuda") throw std::runtime_error("--machine " + o.machine + " is not built: host and cuda are");
  if (o.activations != "bf16" && o.activations != "int8" && o.activations != "f32") throw std::runtime_error("--activations " + o.activations + " is not built: bf16, int8 and f32 are");
  if (o.ranks > 256) throw std::runtime_error("--ranks " + std::to_string(o.ranks) + " is not built: at most 256 are");
  if (o.skip >= o.window) throw std::runtime_error("--skip must be less than --window: nothing would be scored");
  return o;
}

}  // namespace generate
