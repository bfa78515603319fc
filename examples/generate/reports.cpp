#include "reports.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <iostream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <thread>
#include <utility>

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "chat_template.hpp"

#include <smalti/io/mapped_file.hpp>
#include <smalti/io/safetensors.hpp>
#include <smalti/io/safetensors_writer.hpp>

namespace generate {

namespace {

std::string whole_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error(path + " cannot be opened");
  return {std::istreambuf_iterator<char>(in), {}};
}

void expect(const smalti::io::file_status& s) {
  char text[512];
  if (!s) throw std::runtime_error(smalti::io::describe(s, text));
}

// Natural logarithm of the sum of the exponentials of a row.
double log_sum(const float* row, int n) {
  const float most = *std::max_element(row, row + n);
  double sum = 0;
  for (int j = 0; j < n; ++j) sum += std::exp(double(row[j]) - most);
  return most + std::log(sum);
}

// How far logits are from a reference's.
struct distance {
  double most = 0, squares = 0, divergence = 0, margin = 0;
  std::size_t count = 0, positions = 0, agree = 0;
};

// A file of tokens.i, and logits.i (all of them) or top_ids.i, top_logits.i, logsumexp.i (the greatest of each place).
struct reference {
  smalti::io::mapped_file file;
  smalti::io::safetensors tensors;
  explicit reference(const std::string& path) {
    expect(file.open(path.c_str()));
    expect(tensors.read(file.data()));
  }
  template <class T> std::vector<T> values(const std::string& name, smalti::io::dtype type) const {
    const smalti::io::tensor* t = tensors.find(name);
    if (t == nullptr || t->type != type) throw std::runtime_error(name + " is missing, or of another type");
    std::vector<T> v(t->data.size() / sizeof(T));
    std::memcpy(v.data(), t->data.data(), v.size() * sizeof(T));
    return v;
  }
  std::vector<int> integers(const std::string& name) const { return values<int>(name, smalti::io::dtype::i32); }
  std::vector<float> floats(const std::string& name) const { return values<float>(name, smalti::io::dtype::f32); }

  void compare(int i, const std::vector<float>& got, int vocabulary, distance& far) const {
    const std::string n = "." + std::to_string(i);
    const bool whole = tensors.find("logits" + n) != nullptr;
    if (!whole && tensors.find("top_logits" + n) == nullptr) return;
    const std::vector<float> want = floats((whole ? "logits" : "top_logits") + n);
    const std::vector<int> ids = whole ? std::vector<int>() : integers("top_ids" + n);
    const std::size_t places = got.size() / std::size_t(vocabulary), each = want.size() / places;
    const std::vector<float> sums = whole ? std::vector<float>() : floats("logsumexp" + n);
    for (std::size_t p = 0; p < places; ++p) {
      const float* row = got.data() + p * std::size_t(vocabulary);
      const float* right = want.data() + p * each;
      const auto id = [&](std::size_t j) { return whole ? j : std::size_t(ids[p * each + j]); };
      const double mine = log_sum(row, vocabulary), theirs = whole ? log_sum(right, vocabulary) : double(sums[p]);
      std::size_t best = 0;
      for (std::size_t j = 0; j < each; ++j) {
        const double d = double(row[id(j)]) - right[j];
        far.most = std::max(far.most, std::abs(d)), far.squares += d * d, ++far.count;
        far.divergence += std::exp(right[j] - theirs) * ((right[j] - theirs) - (row[id(j)] - mine));
        if (right[j] > right[best]) best = j;
      }
      const std::size_t chosen = std::size_t(std::max_element(row, row + vocabulary) - row);
      ++far.positions, far.agree += chosen == id(best);
      if (chosen != id(best))
        for (std::size_t j = 0; j < each; ++j)
          if (id(j) == chosen) far.margin = std::max(far.margin, double(right[best]) - right[j]);
    }
  }
};

int best_of(const float* row, int n) { return int(std::max_element(row, row + n) - row); }

}  // namespace

void progress(const char* what, std::size_t done, std::size_t all) {
  if (!isatty(STDERR_FILENO) || all == 0) return;
  const int width = 30, full = int(done * width / all);
  std::fprintf(stderr, "\r%s [%.*s%*s] %zu of %zu%s", what, full, "##############################", width - full, "", done, all, done == all ? "\r\033[K" : "");
  std::fflush(stderr);
}

int run_tokenize(const tokenizer& t, const options& o) {
  std::ifstream in(o.tokenize);
  if (!in) throw std::runtime_error(o.tokenize + " cannot be opened");
  std::size_t lines = 0, wrong = 0;
  for (std::string line; std::getline(in, line); ++lines) {
    const auto entry = nlohmann::json::parse(line);
    const auto text = entry.at("text").get<std::string>();
    const std::vector<int> plain = t.encode(text, false), special = t.encode(text, true);
    if (!entry.contains("ids")) {
      std::cout << nlohmann::json(plain).dump() << '\n';
      continue;
    }
    const bool right = plain == entry["ids"].get<std::vector<int>>() && (!entry.contains("ids_special") || special == entry["ids_special"].get<std::vector<int>>());
    if (!right && ++wrong <= 3) std::cerr << "line " << lines + 1 << ": " << nlohmann::json(plain).dump() << " is not what was expected\n";
  }
  std::cout << lines << " lines, " << wrong << " differ from what they say\n";
  return wrong == 0 ? 0 : 1;
}

// Each line may say what is right: "text", "ids" (of the pieces, control tokens of messages as plain text), or "refused", a part of the sentence.
int run_render(const vocabulary& v, const tokenizer& t, const options& o) {
  std::ifstream in(o.render);
  if (!in) throw std::runtime_error(o.render + " cannot be opened");
  std::size_t lines = 0, checked = 0, wrong = 0;
  for (std::string line; std::getline(in, line); ++lines) {
    const auto entry = nlohmann::json::parse(line);
    std::vector<message> messages;
    for (const auto& m : entry.at("messages")) messages.push_back({m.at("role").get<std::string>(), m.at("content").get<std::string>()});
    std::string text, refused;
    std::vector<int> ids;
    try {
      vocabulary own = v;
      if (entry.contains("template")) own.chat_template = entry["template"].get<std::string>();
      const chat_template form(entry.value("form", o.chat_template), own, t);
      const std::vector<piece> pieces = form.write(messages, true);
      for (const piece& p : pieces) text += p.text;
      ids = t.encode(pieces);
    } catch (const std::runtime_error& e) {
      refused = e.what();
    }
    if (!entry.contains("text") && !entry.contains("ids") && !entry.contains("refused")) {
      if (!refused.empty()) throw std::runtime_error(refused);
      std::cout << nlohmann::json{{"text", text}, {"ids", ids}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
      continue;
    }
    ++checked;
    const bool right = (entry.contains("refused") ? !refused.empty() && refused.find(entry["refused"].get<std::string>()) != std::string::npos : refused.empty()) &&
                       (!entry.contains("text") || text == entry["text"].get<std::string>()) && (!entry.contains("ids") || ids == entry["ids"].get<std::vector<int>>());
    if (!right && ++wrong <= 8) std::cerr << "line " << lines + 1 << ": " << (refused.empty() ? nlohmann::json{text, ids}.dump() : refused) << " is not what was expected\n";
  }
  if (checked > 0) std::cout << checked << " lines, " << wrong << " differ from what they say\n";
  return wrong == 0 ? 0 : 1;
}

int run_logits(engine& e, const options& o) {
  reference r(o.tokens);
  smalti::io::safetensors_writer file;
  std::deque<std::vector<float>> written;      // what the file takes from where it lies
  distance far;
  const int vocabulary = e.shape().vocabulary;
  for (int i = 0; r.tensors.find("tokens." + std::to_string(i)) != nullptr; ++i) {
    const std::vector<int> ids = r.integers("tokens." + std::to_string(i));
    const int s = e.open();
    std::vector<float> logits;
    e.feed(s, ids, true, logits);
    e.close(s);
    r.compare(i, logits, vocabulary, far);
    if (o.logits.empty()) continue;
    const std::vector<float>& kept = written.emplace_back(std::move(logits));
    expect(file.add("logits." + std::to_string(i), smalti::io::dtype::f32, {std::int64_t(ids.size()), vocabulary}, std::as_bytes(std::span(kept))));
  }
  if (!o.logits.empty()) expect(file.write(o.logits.c_str()));
  if (far.positions == 0) return 0;
  const double rms = std::sqrt(far.squares / double(far.count)), divergence = far.divergence / double(far.positions);
  if (o.json)
    std::cout << nlohmann::json{{"max", far.most}, {"rms", rms}, {"arg_max_agrees", far.agree}, {"positions", far.positions}, {"margin_lost", far.margin}, {"mean_kl", divergence}}.dump() << '\n';
  else
    std::printf("distance from the reference's logits: max %.3g, rms %.3g; the most likely token agrees at %zu of %zu (margin lost %.3f); mean KL %.2e\n", far.most, rms, far.agree,
                far.positions, far.margin, divergence);
  // bf16 inputs of every product move logits by up to about 1 (the models' READMEs), float ones by up to 1e-3: more is a fault, not rounding
  const bool exact = o.activations == "f32";
  return far.most <= (exact ? 1e-3 : 1.5) && rms <= (exact ? 1e-4 : 0.15) ? 0 : 1;
}

int run_greedy(engine& e, const options& o) {
  const auto prompts = nlohmann::json::parse(whole_file(o.greedy));
  int checked = 0, right = 0, near = 0;
  const int vocabulary = e.shape().vocabulary;
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    const auto& prompt = prompts[p];
    std::vector<int> ids = prompt.at("prompt_ids").get<std::vector<int>>();
    const std::vector<int> want = prompt.at("ids").get<std::vector<int>>();
    const std::size_t before = ids.size();
    std::vector<bool> excused(want.size());
    for (const auto& tie : prompt.value("near_ties", nlohmann::json::array())) excused[tie.at("at").get<std::size_t>()] = true;
    ids.insert(ids.end(), want.begin(), want.end() - 1);
    const int s = e.open();
    std::vector<float> logits;
    e.feed(s, ids, true, logits);
    e.close(s);
    for (std::size_t i = 0; i < want.size(); ++i) {
      const int got = best_of(logits.data() + (before - 1 + i) * std::size_t(vocabulary), vocabulary);
      if (excused[i]) {
        ++near;
        continue;
      }
      ++checked, right += got == want[i];
      if (got != want[i] && !o.json) std::printf("prompt %zu, token %zu: %d, not %d\n", p, i, got, want[i]);
    }
    progress("greedy", p + 1, prompts.size());
  }
  if (o.json) std::cout << nlohmann::json{{"checked", checked}, {"right", right}, {"near_ties", near}}.dump() << '\n';
  else std::printf("%d of %d forced tokens are the most likely ones; %d near-ties are not asked\n", right, checked, near);
  return right == checked ? 0 : 1;
}

namespace {

// Lets a prompt's tokens go, and adds up what the cache held before and after.
void settle(engine& e, int sequence, cache_held& held) {
  held.prompt += e.bytes().cache_used;
  e.settle(sequence);
  held.settled += e.bytes().cache_used;
}

}  // namespace

text_score score_text(engine& e, const tokenizer& t, const options& o) {
  const std::vector<int> ids = t.encode(whole_file(o.eval), false);
  const std::size_t window = std::size_t(o.window), skip = std::size_t(o.skip), whole = ids.size() / window + (ids.size() % window > skip ? 1 : 0);
  const std::size_t windows = o.windows > 0 ? std::min(std::size_t(o.windows), whole) : whole;
  const int vocabulary = e.shape().vocabulary;
  double bits = 0;
  text_score score;
  for (std::size_t w = 0; w < windows; ++w) {
    const std::size_t first = w * window;
    const std::vector<int> part(ids.begin() + std::ptrdiff_t(first), ids.begin() + std::ptrdiff_t(std::min(first + window, ids.size())));
    const int s = e.open();
    std::vector<float> logits;
    if (o.cache == "dense") {
      e.feed(s, part, true, logits);
    } else {      // what is not scored is the prompt of which the cache keeps a share
      const std::size_t all = std::size_t(vocabulary), prompt = std::min(skip, part.size());
      e.feed(s, {part.begin(), part.begin() + std::ptrdiff_t(prompt)}, true, logits);
      settle(e, s, score.held);
      std::vector<float> more;
      const std::size_t step = e.sparse_by_token() ? 1 : part.size();
      for (std::size_t i = prompt; i < part.size(); i += step) {
        e.feed(s, {part.begin() + std::ptrdiff_t(i), part.begin() + std::ptrdiff_t(std::min(i + step, part.size()))}, true, more);
        logits.insert(logits.end(), more.begin(), more.end());
      }
      logits.resize(part.size() * all);
    }
    e.close(s);
    for (std::size_t i = skip; i < part.size(); ++i) {
      const float* row = logits.data() + (i - 1) * std::size_t(vocabulary);
      bits += (log_sum(row, vocabulary) - row[part[i]]) / std::log(2.0);
      ++score.tokens, score.bytes += t.decode(part[i]).size();
    }
    progress("eval", w + 1, windows);
  }
  score.bits_per_byte = bits / double(score.bytes), score.perplexity = std::exp2(bits / double(score.tokens));
  return score;
}

int run_eval(engine& e, const tokenizer& t, const options& o) {
  const text_score s = score_text(e, t, o);
  if (o.json) std::cout << nlohmann::json{{"bits_per_byte", s.bits_per_byte}, {"perplexity", s.perplexity}, {"tokens", s.tokens}, {"bytes", s.bytes}, {"window", o.window}, {"prompt_cache_bytes", s.held.prompt}, {"settled_cache_bytes", s.held.settled}}.dump() << '\n';
  else std::printf("%.5f bits per byte, perplexity %.4f, over %zu tokens in windows of %d\n", s.bits_per_byte, s.perplexity, s.tokens, o.window);
  return 0;
}

namespace {

// The tokens that follow `ids`, each the most likely one.
std::vector<int> greedy(engine& e, int sequence, const std::vector<int>& ids, std::size_t count) {
  std::vector<float> logits;
  if (e.sparse_by_token())
    for (const int id : ids) e.feed(sequence, {id}, false, logits);
  else e.feed(sequence, ids, false, logits);
  std::vector<int> out;
  while (true) {
    out.push_back(best_of(logits.data(), int(logits.size())));
    if (out.size() == count) return out;
    e.feed(sequence, {out.back()}, false, logits);
  }
}

}  // namespace

recall_score score_recall(engine& e, const options& o) {
  std::ifstream in(o.recall);
  if (!in) throw std::runtime_error(o.recall + " cannot be opened");
  std::vector<nlohmann::json> contexts;
  recall_score score;
  for (std::string line; std::getline(in, line);) {
    auto context = nlohmann::json::parse(line);
    // a question and its answer are short beside a context
    if (int(context.at("context_ids").size()) + 64 <= o.context) contexts.push_back(std::move(context));
    else ++score.skipped;
  }
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    const auto& context = contexts[i];
    std::vector<float> logits;
    const auto read = [&] {
      const int s = e.open();
      e.feed(s, context["context_ids"].get<std::vector<int>>(), false, logits);
      if (!o.ask_first) settle(e, s, score.held);
      return s;
    };
    const int prefilled = e.forks() ? read() : -1;
    for (const auto& question : context.at("questions")) {
      const auto answer = question.at("answer_ids").get<std::vector<int>>();
      auto asked = question.at("ids").get<std::vector<int>>();
      const int s = e.forks() ? e.fork(prefilled) : read();
      if (o.ask_first) {        // the question is the prompt's end: but for its last token, which begins the answer
        e.feed(s, {asked.begin(), asked.end() - 1}, false, logits);
        settle(e, s, score.held);
        asked = {asked.back()};
      }
      const bool right = greedy(e, s, asked, answer.size()) == answer, dense = question.value("right", false);
      e.close(s);
      int near = 64;
      while (near < question.at("distance").get<int>()) near *= 2;
      for (recall_score::part* p : {&score.all, &score.by_length[context.at("length").get<int>()], &score.by_distance[near]})
        ++p->asked, p->right += right, p->dense += dense, p->kept += right && dense;
    }
    if (prefilled >= 0) e.close(prefilled);
    progress("recall", i + 1, contexts.size());
  }
  return score;
}

std::string describe(const recall_score& r) {
  std::string text;
  for (const auto& [length, p] : r.by_length)
    text += (text.empty() ? "" : ", ") + std::to_string(p.right) + " of " + std::to_string(p.asked) + " at " + std::to_string(length) + " (reference " + std::to_string(p.dense) + ")";
  return text;
}

int run_recall(engine& e, const options& o) {
  const recall_score r = score_recall(e, o);
  if (o.json) {
    const auto parts = [](const std::map<int, recall_score::part>& from) {
      auto out = nlohmann::json::array();
      for (const auto& [key, p] : from) out.push_back({{"up_to", key}, {"asked", p.asked}, {"right", p.right}, {"reference_right", p.dense}, {"kept", p.kept}});
      return out;
    };
    std::cout << nlohmann::json{{"by_length", parts(r.by_length)}, {"by_distance", parts(r.by_distance)}, {"asked", r.all.asked}, {"right", r.all.right},
                                {"reference_right", r.all.dense}, {"kept", r.all.kept}, {"contexts_skipped", r.skipped}, {"prompt_cache_bytes", r.held.prompt}, {"settled_cache_bytes", r.held.settled}}.dump() << '\n';
    return 0;
  }
  std::printf("%s\n", describe(r).c_str());
  for (const auto& [near, p] : r.by_distance) std::printf("  fact at most %5d tokens back: %d of %d (reference %d, of which kept %d)\n", near, p.right, p.asked, p.dense, p.kept);
  if (r.skipped > 0) std::printf("%d contexts are longer than --context %d and were left out\n", r.skipped, o.context);
  return 0;
}

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Bytes a second at which a buffer is read again and again, by as many threads: what the weights could be read at, at most.
double read_rate(std::size_t bytes, int threads) {
  const long long words = static_cast<long long>(bytes / sizeof(std::uint64_t));
  const std::vector<std::uint64_t> buffer(std::size_t(words), 1);
  const std::uint64_t* const data = buffer.data();
  double best = 0;
  for (int round = 0; round < 7; ++round) {
    std::uint64_t all = 0;
    const double start = now();
#pragma omp parallel for simd num_threads(threads) reduction(+ : all) schedule(static)
    for (long long i = 0; i < words; ++i) all += data[i];
    const double took = now() - start;
    if (all != std::uint64_t(words)) throw std::runtime_error("the buffer was not read");
    best = std::max(best, double(bytes) / took);
  }
  return best;
}

}  // namespace

int run_speed(engine& e, const options& o) {
  int prefill = 0, decode = 0, depth = 0;
  if (std::sscanf(o.speed.c_str(), "%d,%d,%d", &prefill, &decode, &depth) != 3 || prefill < 1 || decode < 1 || depth < 0) throw std::runtime_error("--speed takes three numbers: 512,64,0");
  if (prefill + decode + depth > o.context) throw std::runtime_error("--speed needs --context for all its tokens");
  const auto tokens = [&](int first, int count) {
    std::vector<int> ids(std::size_t(count), 0);
    for (int i = 0; i < count; ++i) ids[std::size_t(i)] = int((100 + (first + i) * 7919ll) % e.shape().vocabulary);
    return ids;
  };
  std::vector<float> logits;
  const int s = e.open();
  e.feed(s, tokens(0, 32), false, logits);
  e.truncate(s, 0);
  if (depth > 0) e.feed(s, tokens(0, depth), false, logits);
  const double start = now();
  e.feed(s, tokens(depth, prefill), false, logits);
  const double middle = now();
  e.truncate(s, depth);
  e.feed(s, tokens(depth, 1), false, logits);
  const double again = now();
  for (int i = 1; i <= decode; ++i) e.feed(s, tokens(depth + i, 1), false, logits);
  const double end = now(), in = prefill / (middle - start), out = decode / (end - again), bytes = double(e.bytes().read) * out;
  const double limit = read_rate(e.bytes().read, o.threads > 0 ? o.threads : int(std::thread::hardware_concurrency()));
  if (o.json) std::cout << nlohmann::json{{"prefill", in}, {"decode", out}, {"weight_bytes_per_second", bytes}, {"read_bytes_per_second", limit}}.dump() << '\n';
  else
    std::printf("prefill of %d: %.1f tokens/s, decode of %d: %.1f tokens/s, behind %d tokens; weights are read at %.2f GB/s, a buffer of their size at %.2f\n", prefill, in, decode, out, depth,
                bytes * 1e-9, limit * 1e-9);
  return 0;
}

}  // namespace generate
