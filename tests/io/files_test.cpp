// Sound files: mappings, the golden safetensors files read whole, models in several files, every kind of value of GGUF.
#include <catch2/catch.hpp>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <smalti/io/ggml_blocks.hpp>
#include <smalti/io/gguf.hpp>
#include <smalti/io/gptq.hpp>
#include <smalti/io/mapped_file.hpp>
#include <smalti/io/safetensors.hpp>
#include <smalti/io/safetensors_index.hpp>
#include <smalti/io/safetensors_writer.hpp>

#include "../support/golden.hpp"
#include "../support/paths.hpp"
#include "build.hpp"

using namespace smalti;
using namespace smalti::io;

namespace {

std::string path_of(const std::string& name) { return test::data_dir() + "/" + name; }

std::string write(const std::string& name, const std::string& content) {
  std::ofstream(path_of(name), std::ios::binary) << content;
  return path_of(name);
}

std::string entry(const std::string& name, int begin, int end) {
  return "\"" + name + "\":{\"dtype\":\"U8\",\"shape\":[" + std::to_string(end - begin) + "],\"data_offsets\":[" + std::to_string(begin) +
         "," + std::to_string(end) + "]}";
}

std::string content(const tensor* t) {
  REQUIRE(t != nullptr);
  return std::string(io::detail::text(t->data));
}

// [gptq]
// One layer of a GPTQ checkpoint. The codes stay in the mapped files: the model must outlive the layer.
file_status take_layer(const safetensors_model& model, const std::string& name, quantized& to) {
  gptq_layer layer = find_gptq(model, name);  // name.qweight, name.qzeros, name.scales, name.g_idx
  layer.bits = 4;                             // config.json: quantization_config.bits
  layer.group = 128;                          // group_size
  layer.version = 1;                          // checkpoint_format "gptq"
  return import_layer(layer, to);
}
// [gptq]

// [gguf]
struct gguf_model {
  mapped_file file;
  gguf contents;

  file_status open(const char* path) {
    if (const file_status bad = file.open(path); !bad) return bad;
    return contents.read(file.data());
  }
  file_status take(std::string_view name, quantized& to) const {
    const gguf_tensor* t = contents.find_tensor(name);
    return t != nullptr ? import_tensor(*t, to) : file_status{{errc::bad_value, "the model has no such tensor"}, file_rule::missing_tensor};
  }
};
// [gguf]

// [rows]
// Calls f(row, codes, scale of each group) for every row: what a packer does.
template <class F> void each_row(const quantized& w, F f) {
  std::vector<std::uint8_t> codes(std::size_t(w.k));
  for (std::int64_t i = 0; i < w.n; ++i) {
    w.codes(i, 1, codes.data());
    f(i, codes.data(), w.scale.data() + w.group(i, 0));
  }
}
// [rows]

// [writer]
// Logits of each token, beside the tokens. Data stays where it is until write().
file_status write_logits(const char* path, const std::vector<std::int32_t>& tokens, const std::vector<float>& logits) {
  const std::int64_t rows = std::int64_t(tokens.size()), all = rows > 0 ? std::int64_t(logits.size()) / rows : 0;
  safetensors_writer file;
  if (const file_status bad = file.add("tokens", dtype::i32, {rows}, std::as_bytes(std::span(tokens))); !bad) return bad;
  if (const file_status bad = file.add("logits", dtype::f32, {rows, all}, std::as_bytes(std::span(logits))); !bad) return bad;
  return file.write(path);
}
// [writer]

}  // namespace

TEST_CASE("the programs of docs/io.md work", "[io]") {
  const auto tensor_of = [](const std::string& name, const std::string& type, const std::string& shape, int begin, int end) {
    return "\"" + name + "\":{\"dtype\":\"" + type + "\",\"shape\":" + shape + ",\"data_offsets\":[" + std::to_string(begin) + "," +
           std::to_string(end) + "]}";
  };
  // K = 8, N = 8: codes 3, zeros 7 stored as 6, scales 0.5
  const std::string header = "{" + tensor_of("l.qweight", "I32", "[1,8]", 0, 32) + "," + tensor_of("l.qzeros", "I32", "[1,1]", 32, 36) +
                             "," + tensor_of("l.scales", "F16", "[1,8]", 36, 52) + "}";
  std::string data = std::string(32, '\x33') + std::string(4, '\x66');
  for (int i = 0; i < 8; ++i) data += test::le<std::uint16_t>(0x3800);
  safetensors_model model;
  REQUIRE(model.open(write("io_page.safetensors", test::safetensors_file(header, data)).c_str()));
  quantized q;
  REQUIRE(take_layer(model, "l", q));
  CHECK(take_layer(model, "m", q).rule == file_rule::missing_tensor);
  REQUIRE(take_layer(model, "l", q));
  int rows = 0;
  each_row(q, [&](std::int64_t i, const std::uint8_t* codes, const float* scale) {
    CHECK(codes[7] == 3);
    CHECK(scale[0] == 0.5f);
    CHECK(q.zero_points[std::size_t(i)] == 7);
    ++rows;
  });
  CHECK(rows == 8);

  gguf_model g;
  const std::string block = test::le<std::uint16_t>(0x3800) + std::string(16, '\x9C');
  REQUIRE(g.open(write("io_page.gguf", test::gguf_pieces{{}, {test::info("w", {32}, ggml_type::q4_0, 0)}, block}.bytes()).c_str()));
  REQUIRE(g.take("w", q));
  CHECK(q.scale[0] == 0.5f);
  CHECK(g.take("x", q).rule == file_rule::missing_tensor);
}

TEST_CASE("a mapping holds the file's bytes, moves, and refuses what cannot be mapped", "[io]") {
  static_assert(!std::is_copy_constructible_v<mapped_file> && !std::is_copy_assignable_v<mapped_file>);
  static_assert(std::is_nothrow_move_constructible_v<mapped_file> && std::is_nothrow_move_assignable_v<mapped_file>);
  const std::string path = write("io_mapped.bin", "abc");
  mapped_file a;
  CHECK(a.data().empty());
  REQUIRE(a.open(path.c_str()));
  CHECK(io::detail::text(a.data()) == "abc");
  const auto* where = a.data().data();
  mapped_file b(std::move(a));
  CHECK(b.data().data() == where);
  CHECK(a.data().empty());
  a = std::move(b);
  CHECK(a.data().data() == where);
  mapped_file& itself = a;
  a = std::move(itself);
  CHECK(io::detail::text(a.data()) == "abc");
  REQUIRE(a.open(write("io_mapped_2.bin", "defg").c_str()));
  CHECK(io::detail::text(a.data()) == "defg");
  REQUIRE(a.open(write("io_empty.bin", "").c_str()));
  CHECK(a.data().empty());

  REQUIRE(a.open(path.c_str()));
  const auto missing = a.open(path_of("io_no_such_file").c_str());
  CHECK(missing.rule == file_rule::cannot_open);
  CHECK(missing.why.got == ENOENT);
  CHECK(std::string(missing.key) == path_of("io_no_such_file").substr(0, 63));
  CHECK(a.data().empty());  // what was mapped is gone
  CHECK(a.open(test::data_dir().c_str()).rule == file_rule::cannot_open);
  CHECK(a.open("/dev/zero").rule == file_rule::cannot_open);
  CHECK(a.open(nullptr).rule == file_rule::cannot_open);
}

TEST_CASE("the golden safetensors files are read as another reader reads them", "[io]") {
  int count = 0;
  for (const char* name :
       {"awq", "bitsandbytes", "compressed_tensors", "deepgemm", "floats", "gguf", "gptq", "marlin", "modelopt", "torchao"}) {
    const std::string file_name = std::string(name) + ".safetensors";
    mapped_file file;
    safetensors f;
    REQUIRE(file.open((test::golden_dir() + "/" + file_name).c_str()));
    REQUIRE(f.read(file.data()));
    const golden::tensors other(file_name);
    REQUIRE(!f.metadata().empty());
    CHECK(f.metadata()[0] == std::pair<std::string, std::string>{"family", name});
    for (const tensor& t : f.tensors()) {
      const auto theirs = other[t.name];
      CHECK(facts(t.type).name == theirs.dtype);
      CHECK(t.shape == theirs.shape);
      CHECK(io::detail::text(t.data) == theirs.bytes);
      ++count;
    }
  }
  CHECK(count > 900);
}

TEST_CASE("what is written is read back, aligned, and the same in any order", "[io]") {
  const std::string path = path_of("io_written.safetensors");
  REQUIRE(write_logits(path.c_str(), {3, 4}, {1, 2, 3, 4, 5, 6}));
  mapped_file file;
  safetensors f;
  REQUIRE(file.open(path.c_str()));
  REQUIRE(f.read(file.data()));
  CHECK(f.find("logits")->shape == std::vector<std::int64_t>{2, 3});
  CHECK(io::detail::load<float>(f.find("logits")->data, 20) == 6);
  CHECK(io::detail::load<std::int32_t>(f.find("tokens")->data, 4) == 4);

  // Every type, with a shape of none, of zero, of several extents; names that JSON has to escape; in both orders.
  const std::string data(96, '\x5A');
  const auto build = [&](bool backwards, std::size_t name_length) {
    safetensors_writer w;
    const int all = int(std::size(dtypes));
    REQUIRE(w.add_metadata("made \"by\"\n", "a test \xC3\xA9"));
    for (int i = 0; i < all; ++i) {
      const int which = backwards ? all - 1 - i : i;
      const std::string name = "t\t\"\\" + std::string(name_length, 'n') + std::to_string(which);
      const std::uint64_t size = 4 * std::uint64_t(dtypes[which].bits) / 8;
      REQUIRE(w.add(name, dtype(which), {2, 1, 2}, test::as_bytes(data).first(size)));
    }
    REQUIRE(w.add("scalar", dtype::u8, {}, test::as_bytes(data).first(1)));
    REQUIRE(w.add("nothing", dtype::f32, {7, 0}, {}));
    REQUIRE(w.write(path.c_str()));
  };
  for (std::size_t name_length = 0; name_length < 8; ++name_length) {
    CAPTURE(name_length);
    const mapped_file before = std::move(file);  // of the file that is replaced: what is mapped stays
    const std::string old(io::detail::text(before.data()));
    build(true, name_length);
    CHECK(io::detail::text(before.data()) == old);
    REQUIRE(file.open(path.c_str()));
    const std::string backwards(io::detail::text(file.data()));
    build(false, name_length);
    REQUIRE(file.open(path.c_str()));
    CHECK(io::detail::text(file.data()) == backwards);
    CHECK(io::detail::load<std::uint64_t>(file.data(), 0) % 8 == 0);
    REQUIRE(f.read(file.data()));
    CHECK(f.metadata() == std::vector<std::pair<std::string, std::string>>{{"made \"by\"\n", "a test \xC3\xA9"}});
    REQUIRE(f.tensors().size() == std::size(dtypes) + 2);
    for (const tensor& t : f.tensors()) {
      CAPTURE(t.name);
      if (facts(t.type).bits % 8 == 0) CHECK((t.data.data() - file.data().data()) % (facts(t.type).bits / 8) == 0);
      CHECK(io::detail::text(t.data) == data.substr(0, t.data.size()));
      if (t.name[0] == 't') CHECK(t.name.substr(4 + name_length) == std::to_string(int(t.type)));
    }
    CHECK(f.find("scalar")->shape.empty());
    CHECK(f.find("nothing")->shape == std::vector<std::int64_t>{7, 0});
  }
  CHECK(!std::filesystem::exists(path + ".partial"));
}

TEST_CASE("a writer refuses what no reader would take", "[io]") {
  safetensors_writer w;
  const std::string data(16, 'x');
  const auto four = test::as_bytes(data).first(4);
  REQUIRE(w.add("a", dtype::u8, {4}, four));
  CHECK(w.add("a", dtype::i8, {4}, four).rule == file_rule::duplicate_key);
  CHECK(w.add("__metadata__", dtype::u8, {4}, four).rule == file_rule::bad_field);
  CHECK(w.add("\xC0", dtype::u8, {4}, four).rule == file_rule::bad_utf8);
  CHECK(w.add("b", dtype(std::size(dtypes)), {4}, four).rule == file_rule::unknown_dtype);
  CHECK(w.add("b", dtype::u8, {-4}, four).rule == file_rule::bad_shape);
  CHECK(w.add("b", dtype::f64, {INT64_MAX, 1}, four).rule == file_rule::bad_shape);
  CHECK(w.add("b", dtype::f4, {3}, four).rule == file_rule::size_mismatch);
  const file_status size = w.add("b", dtype::f32, {2, 2}, four);
  CHECK(size.rule == file_rule::size_mismatch);
  CHECK(size.why.got == 4);
  CHECK(size.why.need == 16);
  CHECK(std::string(size.key) == "b");
  REQUIRE(w.add("b", dtype::f32, {1}, four));  // nothing of what was refused is left
  REQUIRE(w.add_metadata("k", "v"));
  CHECK(w.add_metadata("k", "w").rule == file_rule::duplicate_key);
  CHECK(w.add_metadata("l", "\xFF").rule == file_rule::bad_utf8);
  CHECK(w.write(nullptr).rule == file_rule::cannot_write);
  const file_status where = w.write(path_of("io_no_such_folder/x").c_str());
  CHECK(where.rule == file_rule::cannot_write);
  CHECK(where.why.got == ENOENT);
  CHECK(w.write(test::data_dir().c_str()).rule == file_rule::cannot_write);  // a folder stands there
  CHECK(!std::filesystem::exists(test::data_dir() + ".partial"));
  mapped_file file;
  safetensors f;
  REQUIRE(safetensors_writer().write(path_of("io_none.safetensors").c_str()));
  REQUIRE(file.open(path_of("io_none.safetensors").c_str()));
  REQUIRE(f.read(file.data()));
  CHECK(f.tensors().empty());
}

TEST_CASE("a model in several files is one model", "[io]") {
  std::filesystem::create_directories(path_of("io_model"));
  write("io_model/m-1.safetensors", test::safetensors_file("{" + entry("a", 0, 3) + "," + entry("unlisted", 3, 4) + "}", "AAAx"));
  write("io_model/m-2.safetensors", test::safetensors_file("{" + entry("b", 0, 2) + "," + entry("a", 2, 4) + "}", "BBaa"));
  const auto index = [](const std::string& map) {
    return write("io_model/model.safetensors.index.json", "{\"weight_map\":{" + map + "},\"metadata\":{\"total_size\":5}}");
  };

  safetensors_model m;
  REQUIRE(m.open(index(R"("b":"m-2.safetensors","a":"m-1.safetensors")").c_str()));
  CHECK(m.files() == 2);
  CHECK(content(m.find("a")) == "AAA");
  CHECK(content(m.find("b")) == "BB");
  CHECK(m.find("unlisted") == nullptr);
  REQUIRE(m.tensors().size() == 2);
  CHECK(m.tensors()[0]->name == "a");
  const tensor* before = m.find("b");
  safetensors_model moved = std::move(m);
  CHECK(moved.find("b") == before);
  CHECK(content(before) == "BB");

  const auto missing = m.open(index(R"("c":"m-1.safetensors")").c_str());
  CHECK(missing.rule == file_rule::missing_tensor);
  CHECK(std::string(missing.key) == "c");
  CHECK(m.tensors().empty());
  CHECK(m.files() == 0);
  CHECK(m.open(index(R"("a":"m-3.safetensors")").c_str()).rule == file_rule::cannot_open);
  write("io_model/m-4.safetensors", "1234567");
  const auto shard = m.open(index(R"("a":"m-4.safetensors")").c_str());
  CHECK(shard.rule == file_rule::truncated);
  CHECK(std::string(shard.key) == "m-4.safetensors");
  CHECK(shard.why.got == 7);
  CHECK(m.open(nullptr).rule == file_rule::cannot_open);

  REQUIRE(m.open(path_of("io_model/m-2.safetensors").c_str()));
  CHECK(content(m.find("a")) == "aa");
  CHECK(m.files() == 1);
}

TEST_CASE("every kind of GGUF value is read", "[io]") {
  const std::string bytes_of = golden::read_bytes("hostile/gg_valid_kinds.gguf");
  gguf f;
  REQUIRE(f.read(test::as_bytes(bytes_of)));
  CHECK(f.version() == 3);
  CHECK(f.alignment() == 32);
  const auto integer = [&](const char* key) { return f.find(key)->integer(); };
  CHECK(integer("a.u8") == 255);
  CHECK(integer("a.i8") == -128);
  CHECK(integer("a.u16") == 65535);
  CHECK(integer("a.i16") == -32768);
  CHECK(integer("a.u32") == 4294967295);
  CHECK(integer("a.i32") == -2147483648ll);
  CHECK(integer("a.i64") == INT64_MIN);
  CHECK(!integer("a.u64"));  // does not fit; number() says it
  CHECK(f.find("a.u64")->number() == 18446744073709551616.0);
  CHECK(!integer("a.f32"));
  CHECK(f.find("a.f32")->number() == 1.5);
  CHECK(f.find("a.f64")->number() == 0.0);
  CHECK(f.find("a.i8")->number() == -128.0);
  CHECK(f.find("a.bool")->boolean() == true);
  CHECK(!f.find("a.u8")->boolean());
  CHECK(!f.find("a.bool")->integer());
  CHECK(f.find("a.str")->string() == "h\xC3\xA9");
  CHECK(!f.find("a.u8")->string());
  CHECK(!f.find("a.str")->is_strings());
  CHECK(f.find("a.str")->strings().begin() == f.find("a.str")->strings().end());
  REQUIRE(f.find("a.arr")->is_strings());
  std::vector<std::string> strings;
  for (const auto s : f.find("a.arr")->strings()) strings.emplace_back(s);
  CHECK(strings == std::vector<std::string>{"p", ""});
  CHECK(f.find("a.empty")->count == 0);
  CHECK(!f.find("a.empty")->integer());
  CHECK(f.find("a.none") == nullptr);
  CHECK(f.integer("a.i8") == -128);
  CHECK(f.number("a.f32") == 1.5);
  CHECK(f.boolean("a.bool") == true);
  CHECK(f.string("a.str") == "h\xC3\xA9");
  for (const char* other : {"a.none", "a.arr", "a.str"}) {
    CHECK((!f.integer(other) && !f.number(other) && !f.boolean(other)));
    CHECK(f.string(other).has_value() == (std::string(other) == "a.str"));
  }

  REQUIRE(f.tensors().size() == 2);
  const gguf_tensor* q = f.find_tensor("q");
  REQUIRE(q != nullptr);
  CHECK(q->type == ggml_type::q4_0);
  CHECK(q->rank == 1);
  CHECK(q->extent[0] == 32);
  CHECK(q->extent[1] == 1);
  CHECK(io::detail::text(q->data) == std::string(18, '\x77'));
  float last = 0;
  std::memcpy(&last, f.find_tensor("f")->data.data() + 28, 4);
  CHECK(last == 7);
  CHECK(f.find_tensor("x") == nullptr);

  const std::string integers =
      test::value("a", gguf_type::array,
                  test::le(std::uint32_t(gguf_type::i16)) + test::le<std::uint64_t>(3) + std::string("\x01\x00\xFF\xFF\x00\x80", 6));
  const std::string small = test::gguf_pieces{{integers}, {}, {}}.bytes();
  REQUIRE(f.read(test::as_bytes(small)));
  const gguf_value& v = *f.find("a");
  CHECK(v.integer(0) == 1);
  CHECK(v.integer(1) == -1);
  CHECK(v.number(2) == -32768.0);
  CHECK(!v.integer(3));
  CHECK(!f.integer("a"));  // an array is no single value
}

TEST_CASE("tensors begin where the alignment puts them", "[io]") {
  for (const std::uint32_t alignment : {1u, 8u, 32u, 64u, 256u})
    for (std::size_t length = 0; length < 260; length += 7) {  // of a string that moves everything behind it
      const std::uint64_t second = (3 + alignment - 1) / alignment * alignment;
      std::string data = "abc";
      data.resize(second);
      const std::string content = test::gguf_pieces{{test::value("general.alignment", gguf_type::u32, test::le(alignment)),
                                                     test::value("s", gguf_type::string, test::text(std::string(length, 's')))},
                                                    {test::info("w", {3}, ggml_type::i8, 0), test::info("v", {5}, ggml_type::i8, second)},
                                                    data + "defgh",
                                                    3,
                                                    alignment}
                                      .bytes();
      gguf f;
      CAPTURE(alignment, length);
      REQUIRE(f.read(test::as_bytes(content)));
      CHECK(f.alignment() == alignment);
      CHECK(io::detail::text(f.find_tensor("w")->data) == "abc");
      CHECK(io::detail::text(f.find_tensor("v")->data) == "defgh");
    }
}

TEST_CASE("the table of ggml types agrees with the files its own library made", "[io]") {
  int types = 0;
  for (const auto& c : golden::cases("gguf.safetensors")) {
    if (!c.params.contains("type") || !c.params.contains("block")) continue;
    const auto f = facts(ggml_type(std::uint32_t(c.params.at("type"))));
    CAPTURE(c.id);
    CHECK(f.block == c.params.at("block"));
    CHECK(f.block_bytes == c.params.at("block_bytes"));
    std::string name = c.format.substr(5);
    for (char& ch : name) ch = char(std::toupper(ch));
    CHECK(f.name == name);
    ++types;
  }
  CHECK(types > 80);
  for (const std::uint32_t removed : {4u, 5u, 31u, 32u, 33u, 36u, 37u, 38u, 43u, 1000u, 0xFFFFFFFFu})
    CHECK(facts(ggml_type(removed)).block == 0);
}
