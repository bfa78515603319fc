#include "model_file.hpp"

#include <climits>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <unordered_set>
#include <utility>

#include <nlohmann/json.hpp>

#include <smalti/io/ggml_blocks.hpp>
#include <smalti/io/gguf.hpp>
#include <smalti/io/mapped_file.hpp>
#include <smalti/io/plain.hpp>
#include <smalti/io/safetensors.hpp>
#include <smalti/ops/gemm/import.hpp>

namespace generate {

namespace io = smalti::io;

namespace {

void expect(const io::file_status& s, const std::string& what) {
  if (s) return;
  char text[512];
  throw std::runtime_error(what + ": " + io::describe(s, text));
}
[[noreturn]] void refuse(const std::string& what) { throw std::runtime_error(what); }

matrix plain_matrix(const io::plain& t) {
  return {t.n, t.k, [t](std::int64_t first, std::int64_t count, float* out) { t.values(first, count, out); }, {}};
}
std::vector<float> vector_of(const matrix& m) {
  std::vector<float> v(std::size_t(m.n * m.k));
  m.rows(0, m.n, v.data());
  return v;
}
void check(const matrix& m, std::int64_t n, std::int64_t k, const std::string& name) {
  if (m.n != n || m.k != k)
    refuse(name + " is " + std::to_string(m.n) + " x " + std::to_string(m.k) + "; the model's description asks for " + std::to_string(n) + " x " + std::to_string(k));
}

// What the file says of its shape, before anything is computed with it.
void check(const config& c, const std::string& where) {
  const auto within = [&](const char* what, int x, int least, int most) {
    if (x < least || x > most) refuse(where + ": " + what + " is " + std::to_string(x) + ", and must lie between " + std::to_string(least) + " and " + std::to_string(most));
  };
  constexpr int most = 1 << 20;
  within("the number of layers", c.layers, 1, most), within("the width", c.width, 1, most), within("the feed-forward width", c.hidden, 1, most);
  within("the number of heads", c.heads, 1, most), within("the number of heads of keys", c.kv_heads, 1, c.heads), within("the width of a head", c.head_dim, 1, most);
  within("the vocabulary", c.vocabulary, 1, 1 << 28), within("the context", c.context, 1, INT_MAX);
  if (c.heads % c.kv_heads != 0) refuse(where + ": " + std::to_string(c.heads) + " heads do not share " + std::to_string(c.kv_heads) + " heads of keys evenly");
  if (!(c.rotary_base > 1 && c.rotary_base < 1e15f)) refuse(where + ": the base of the rotary frequencies must lie between 1 and 1e15");
  if (!(c.epsilon > 0 && c.epsilon < 1)) refuse(where + ": the epsilon of the norms must lie between 0 and 1");
}

// `get(name of the part, layer)` gives a matrix of the file.
template <class Get> void gather(weights& w, Get get) {
  const config& c = w.shape;
  const std::int64_t q = std::int64_t(c.heads) * c.head_dim, kv = std::int64_t(c.kv_heads) * c.head_dim;
  const auto part = [&](const char* name, int layer, std::int64_t n, std::int64_t k) {
    matrix m = get(name, layer);
    check(m, n, k, name);
    return m;
  };
  w.embedding = part("embedding", -1, c.vocabulary, c.width);
  w.head = part("head", -1, c.vocabulary, c.width);
  w.final_norm = vector_of(part("final_norm", -1, 1, c.width));
  for (int l = 0; l < c.layers; ++l)
    w.layers.push_back({.qkv = stacked({part("q", l, q, c.width), part("k", l, kv, c.width), part("v", l, kv, c.width)}),
                        .out = part("out", l, c.width, q),
                        .gate_up = stacked({part("gate", l, c.hidden, c.width), part("up", l, c.hidden, c.width)}),
                        .down = part("down", l, c.width, c.hidden),
                        .attention_norm = vector_of(part("attention_norm", l, 1, c.width)),
                        .feed_forward_norm = vector_of(part("feed_forward_norm", l, 1, c.width))});
}

}  // namespace

matrix stacked(const std::vector<matrix>& parts) {
  matrix all{0, parts.front().k, {}, {}};
  bool coded = true;
  for (const matrix& p : parts) {
    all.n += p.n;
    coded = coded && !p.coded.empty();
    all.coded.insert(all.coded.end(), p.coded.begin(), p.coded.end());
  }
  if (!coded) all.coded.clear();
  all.rows = [parts](std::int64_t first, std::int64_t count, float* out) {
    for (const matrix& p : parts) {
      if (first < p.n && count > 0) {
        const std::int64_t here = count < p.n - first ? count : p.n - first;
        p.rows(first, here, out);
        out += here * p.k, first += here, count -= here;
      }
      first -= p.n;
    }
  };
  return all;
}

struct model_file::contents {
  io::mapped_file file;
  io::safetensors safetensors;
  io::gguf gguf;
  generate::weights weights;
  generate::vocabulary vocabulary;
  std::string name;

  std::unordered_set<std::string> used;      // tensors that were asked for

  // What a file has beside the tensors of its model belongs to a step that this program does not take.
  [[noreturn]] static void ignored(const std::string& path, const std::string& tensor) {
    refuse(path + ": tensor " + tensor + " is of no step that is built (scaled frequencies, biases and experts are not): results without it would be wrong");
  }

  void read_folder(const std::filesystem::path& folder) {
    std::ifstream text(folder / "config.json");
    const auto json = nlohmann::json::parse(text, nullptr, false);
    if (!json.is_object()) refuse((folder / "config.json").string() + " is missing or not JSON");
    const auto present = [&](const char* key) { return json.contains(key) && !json[key].is_null(); };
    const auto integer = [&](const char* key, int otherwise) {
      if (!present(key)) return otherwise;
      if (!json[key].is_number_integer() || json[key] < 0 || json[key] > INT_MAX) refuse(std::string("config.json: ") + key + " must be a whole number below 2^31");
      return json[key].get<int>();
    };
    const auto number = [&](const char* key, float otherwise) {
      if (!present(key)) return otherwise;
      if (!json[key].is_number() || !(json[key].get<double>() >= -1e30 && json[key].get<double>() <= 1e30)) refuse(std::string("config.json: ") + key + " must be a number between -1e30 and 1e30");
      return json[key].get<float>();
    };
    config& c = weights.shape;
    c.layers = integer("num_hidden_layers", 0), c.width = integer("hidden_size", 0), c.hidden = integer("intermediate_size", 0);
    c.heads = integer("num_attention_heads", 0), c.kv_heads = integer("num_key_value_heads", c.heads), c.vocabulary = integer("vocab_size", 0);
    c.head_dim = integer("head_dim", c.heads > 0 ? c.width / c.heads : 0), c.context = integer("max_position_embeddings", 2048);
    c.rotary_base = number("rope_theta", 10000), c.epsilon = number("rms_norm_eps", 1e-5f);
    const auto is = [&](const char* key, auto expected) { return !present(key) || json[key] == expected; };
    if (!is("rope_scaling", nullptr)) refuse("config.json: rope_scaling is not built");
    if (!is("attention_bias", false) || !is("mlp_bias", false)) refuse("config.json: biases are not built");
    if (!is("hidden_act", "silu")) refuse("config.json: only hidden_act silu is built");
    if (!present("model_type") || !is("model_type", "llama")) refuse("config.json: only model_type llama is built");
    if (!present("tokenizer") || !is("tokenizer", "bytes")) refuse("config.json: a safetensors model needs \"tokenizer\": \"bytes\"; use a GGUF file for others");
    if (c.vocabulary != 256) refuse("config.json: \"tokenizer\": \"bytes\" goes with a vocab_size of 256");
    check(c, "config.json");

    const std::filesystem::path path = folder / "model.safetensors";
    expect(file.open(path.c_str()), path.string());
    expect(safetensors.read(file.data()), path.string());
    const bool tied = present("tie_word_embeddings") && json["tie_word_embeddings"] == true;
    gather(weights, [&](const std::string& part, int layer) {
      const std::string l = "model.layers." + std::to_string(layer) + ".";
      const std::string tensor = part == "embedding" || (part == "head" && tied) ? "model.embed_tokens.weight"
                                 : part == "head"              ? "lm_head.weight"
                                 : part == "final_norm"        ? "model.norm.weight"
                                 : part == "attention_norm"    ? l + "input_layernorm.weight"
                                 : part == "feed_forward_norm" ? l + "post_attention_layernorm.weight"
                                 : part == "q" || part == "k" || part == "v" ? l + "self_attn." + part + "_proj.weight"
                                 : part == "out" ? l + "self_attn.o_proj.weight"
                                                 : l + "mlp." + part + "_proj.weight";
      const io::tensor* t = safetensors.find(tensor);
      if (t == nullptr) refuse(path.string() + ": " + tensor + " is missing");
      used.insert(tensor);
      io::plain rows;
      expect(io::import_plain(*t, rows), tensor);
      return plain_matrix(rows);
    });
    for (const io::tensor& t : safetensors.tensors())      // a tied head that is stored all the same, and frequencies that the base gives, are not read
      if (!used.count(t.name) && !(tied && t.name == "lm_head.weight") && t.name.find("rotary_emb.inv_freq") == std::string::npos) ignored(path.string(), t.name);
    read_folder_template(folder);
    name = folder.filename().string();
  }

  // tokenizer_config.json: "chat_template" is a text, or a list of {"name", "template"} of which "default" is meant; or a file of its own.
  void read_folder_template(const std::filesystem::path& folder) {
    if (std::ifstream own(folder / "chat_template.jinja", std::ios::binary); own) {
      vocabulary.chat_template.assign(std::istreambuf_iterator<char>(own), {});
      return;
    }
    std::ifstream text(folder / "tokenizer_config.json");
    if (!text) return;
    const auto json = nlohmann::json::parse(text, nullptr, false);
    if (!json.is_object()) refuse((folder / "tokenizer_config.json").string() + " is not JSON");
    if (!json.contains("chat_template")) return;
    const auto& given = json["chat_template"];
    if (given.is_string()) vocabulary.chat_template = given.get<std::string>();
    for (std::size_t i = 0; given.is_array() && i < given.size(); ++i)
      if (given[i].is_object() && given[i].contains("template") && given[i]["template"].is_string() && given[i].contains("name") && given[i]["name"] == "default")
        vocabulary.chat_template = given[i]["template"].get<std::string>();
  }

  void read_gguf(const std::string& path) {
    expect(file.open(path.c_str()), path);
    expect(gguf.read(file.data()), path);
    const auto integer = [&](const char* key, int otherwise) {
      const auto i = gguf.integer(key);
      if (i ? *i < 0 || *i > INT_MAX : gguf.find(key) != nullptr) refuse(path + ": " + key + " must be a whole number below 2^31");
      return i ? int(*i) : otherwise;
    };
    const auto number = [&](const char* key, float otherwise) {
      const auto x = gguf.number(key);
      if (x ? !(*x >= -1e30 && *x <= 1e30) : gguf.find(key) != nullptr) refuse(path + ": " + key + " must be a number between -1e30 and 1e30");
      return x ? float(*x) : otherwise;
    };
    const auto text = [&](const char* key) { return std::string(gguf.string(key).value_or("")); };
    if (text("general.architecture") != "llama") refuse(path + ": only the llama architecture is built, this is '" + text("general.architecture") + "'");
    config& c = weights.shape;
    c.layers = integer("llama.block_count", 0), c.width = integer("llama.embedding_length", 0), c.hidden = integer("llama.feed_forward_length", 0);
    c.heads = integer("llama.attention.head_count", 0), c.kv_heads = integer("llama.attention.head_count_kv", c.heads);
    c.context = integer("llama.context_length", 2048);
    c.head_dim = integer("llama.attention.key_length", c.heads > 0 ? c.width / c.heads : 0);
    c.rotary_base = number("llama.rope.freq_base", 10000), c.epsilon = number("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    c.rotary_pairs = pairs::interleaved;            // how llama files have q and k
    if (integer("llama.rope.dimension_count", c.head_dim) != c.head_dim) refuse(path + ": llama.rope.dimension_count: only whole heads are turned");
    if (gguf.find("llama.rope.scaling.type") != nullptr && text("llama.rope.scaling.type") != "none") refuse(path + ": llama.rope.scaling.type: scaled positions are not built");
    const io::gguf_tensor* embedding = gguf.find_tensor("token_embd.weight");
    if (embedding == nullptr) refuse(path + ": token_embd.weight is missing");
    if (embedding->extent[1] > 1 << 28) refuse(path + ": token_embd.weight has more than 2^28 rows");
    c.vocabulary = int(embedding->extent[1]);
    check(c, path);

    gather(weights, [&](const std::string& part, int layer) {
      const std::string l = "blk." + std::to_string(layer) + ".";
      const bool own_head = gguf.find_tensor("output.weight") != nullptr;
      const std::string tensor = part == "embedding" || (part == "head" && !own_head) ? "token_embd.weight"
                                 : part == "head"              ? "output.weight"
                                 : part == "final_norm"        ? "output_norm.weight"
                                 : part == "attention_norm"    ? l + "attn_norm.weight"
                                 : part == "feed_forward_norm" ? l + "ffn_norm.weight"
                                 : part == "q" || part == "k" || part == "v" ? l + "attn_" + part + ".weight"
                                 : part == "out" ? l + "attn_output.weight"
                                                 : l + "ffn_" + part + ".weight";
      const io::gguf_tensor* t = gguf.find_tensor(tensor);
      if (t == nullptr) refuse(path + ": " + tensor + " is missing");
      used.insert(tensor);
      return gguf_matrix(*t);
    });
    for (const io::gguf_tensor& t : gguf.tensors())
      if (!used.count(std::string(t.name))) ignored(path, std::string(t.name));
    read_vocabulary();
    name = text("general.name").empty() ? std::filesystem::path(path).stem().string() : text("general.name");
  }

  static matrix gguf_matrix(const io::gguf_tensor& t) {
    io::plain rows;
    if (io::import_plain(t, rows)) return plain_matrix(rows);
    auto q = std::make_shared<io::quantized>();
    expect(io::import_tensor(t, *q), std::string(t.name));
    return {q->n, q->k, [q](std::int64_t first, std::int64_t count, float* out) { smalti::gemm::imported_values(*q, first, count, out); }, {q}};
  }

  void read_vocabulary() {
    vocabulary.bytes = false;
    const auto strings = [&](const char* key, std::vector<std::string>& out) {
      const io::gguf_value* v = gguf.find(key);
      if (v == nullptr || !v->is_strings()) refuse(std::string(key) + " is missing: the file has no tokenizer of the gpt2 kind");
      for (std::string_view s : v->strings()) out.emplace_back(s);
    };
    if (gguf.string("tokenizer.ggml.model") != std::string_view("gpt2")) refuse("tokenizer.ggml.model: only gpt2 (byte-level BPE) is built");
    strings("tokenizer.ggml.tokens", vocabulary.tokens);
    strings("tokenizer.ggml.merges", vocabulary.merges);
    if (const io::gguf_value* v = gguf.find("tokenizer.ggml.token_type"))
      for (std::uint64_t i = 0; i < v->count; ++i) vocabulary.kinds.push_back(int(v->integer(i).value_or(1)));
    vocabulary.pre = gguf.string("tokenizer.ggml.pre").value_or(""), vocabulary.chat_template = gguf.string("tokenizer.chat_template").value_or("");
    vocabulary.begin = int(gguf.integer("tokenizer.ggml.bos_token_id").value_or(-1)), vocabulary.end = int(gguf.integer("tokenizer.ggml.eos_token_id").value_or(-1));
    vocabulary.adds_begin = gguf.boolean("tokenizer.ggml.add_bos_token").value_or(false);
    if (int(vocabulary.tokens.size()) != weights.shape.vocabulary) refuse("the tokenizer and the embedding count different tokens");
  }
};

model_file::model_file(const std::string& path) : contents_(std::make_unique<contents>()) {
  if (std::filesystem::is_directory(path)) contents_->read_folder(path);
  else contents_->read_gguf(path);
}
model_file::~model_file() = default;
const weights& model_file::weights() const { return contents_->weights; }
const vocabulary& model_file::vocabulary() const { return contents_->vocabulary; }
const std::string& model_file::name() const { return contents_->name; }

}  // namespace generate
