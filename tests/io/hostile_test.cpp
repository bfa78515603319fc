// Malformed and odd files: every file of tests/golden/hostile gets the verdict and the rule its manifest says, further ones are
// built here, and a hundred thousand random mutations of all of them are read up against an inaccessible page, so that a
// byte read past the end is a crash with or without a sanitizer.
#include <catch2/catch.hpp>

#include <cstring>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "../support/golden.hpp"
#include "build.hpp"
#include "walk.hpp"

using namespace smalti;
using namespace smalti::io;

namespace {

// Bytes that end at the end of a page, behind which nothing may be read.
class fenced {
 public:
  explicit fenced(std::size_t most) : page_(std::size_t(sysconf(_SC_PAGESIZE))), size_((most + page_ - 1) / page_ * page_) {
    void* p = mmap(nullptr, size_ + page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(p != MAP_FAILED);
    memory_ = static_cast<std::byte*>(p);
    REQUIRE(mprotect(memory_ + size_, page_, PROT_NONE) == 0);
  }
  fenced(const fenced&) = delete;
  ~fenced() { munmap(memory_, size_ + page_); }
  bytes put(const std::string& s) {
    test::must(s.size() <= size_, "the fence is long enough");
    std::memcpy(memory_ + size_ - s.size(), s.data(), s.size());
    return {memory_ + size_ - s.size(), s.size()};
  }

 private:
  std::size_t page_, size_;
  std::byte* memory_ = nullptr;
};

std::uint64_t sum = 0;  // of all that was read

file_status read_any(const std::string& name, bytes file) {
  if (name.ends_with(".gguf")) return test::walk_gguf(file, sum);
  if (name.ends_with(".json")) return test::walk_index(file, sum);
  return test::walk_safetensors(file, sum);
}

// Files of this test's own.
struct odd_file {
  const char* name;
  file_rule rule;  // none: accepted
  std::string content;
};

const std::string one = R"("dtype":"F32","shape":[2,2],"data_offsets":[0,16])", sixteen(16, 'x');
const std::string zero_block(32, '\0');

std::vector<odd_file> odd_files() {
  using test::safetensors_file, test::gguf_pieces, test::value, test::info, test::text, test::le;
  std::vector<odd_file> v;
  const auto st = [&](const char* name, file_rule rule, const std::string& header, const std::string& data = sixteen) {
    v.push_back({name, rule, safetensors_file(header, data)});
  };
  st("leading_space.safetensors", file_rule::bad_json, " {\"a\":{" + one + "}}");
  st("byte_order_mark.safetensors", file_rule::bad_json, "\xEF\xBB\xBF{\"a\":{" + one + "}}");
  st("nul_then_text.safetensors", file_rule::bad_json, "{\"a\":{" + one + "}}" + std::string(1, '\0') + "x");
  st("text_behind.safetensors", file_rule::bad_json, "{\"a\":{" + one + "}} x");
  st("two_objects.safetensors", file_rule::bad_json, "{\"a\":{" + one + "}}{}");
  st("comment.safetensors", file_rule::bad_json, "{/**/\"a\":{" + one + "}}");
  st("empty_header.safetensors", file_rule::bad_json, "", "");
  st("escaped_twin.safetensors", file_rule::duplicate_key,
     R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"\u0061":{"dtype":"F32","shape":[],"data_offsets":[4,8]}})", "12345678");
  st("dtype_twice.safetensors", file_rule::duplicate_key, "{\"a\":{\"dtype\":\"F16\"," + one + "}}");
  st("metadata_twice.safetensors", file_rule::duplicate_key, "{\"__metadata__\":{},\"a\":{" + one + "},\"__metadata__\":{}}");
  st("metadata_key_twice.safetensors", file_rule::duplicate_key, "{\"__metadata__\":{\"k\":\"v\",\"k\":\"v\"},\"a\":{" + one + "}}");
  st("metadata_null.safetensors", file_rule::bad_field, "{\"__metadata__\":null,\"a\":{" + one + "}}");
  st("metadata_nested.safetensors", file_rule::bad_field, "{\"__metadata__\":{\"k\":{}},\"a\":{" + one + "}}");
  st("entry_number.safetensors", file_rule::bad_field, "{\"a\":1}");
  st("entry_array.safetensors", file_rule::bad_field, "{\"a\":[]}");
  st("dtype_number.safetensors", file_rule::bad_field, R"({"a":{"dtype":4,"shape":[4],"data_offsets":[0,16]}})");
  st("dtype_array.safetensors", file_rule::bad_field, R"({"a":{"dtype":["F32"],"shape":[4],"data_offsets":[0,16]}})");
  st("dtype_lower_case.safetensors", file_rule::unknown_dtype, R"({"a":{"dtype":"f32","shape":[4],"data_offsets":[0,16]}})");
  st("shape_string.safetensors", file_rule::bad_field, R"({"a":{"dtype":"F32","shape":"4","data_offsets":[0,16]}})");
  st("shape_of_strings.safetensors", file_rule::bad_shape, R"({"a":{"dtype":"F32","shape":["4"],"data_offsets":[0,16]}})");
  st("shape_nested.safetensors", file_rule::bad_shape, R"({"a":{"dtype":"F32","shape":[[4]],"data_offsets":[0,16]}})");
  st("shape_exponent.safetensors", file_rule::bad_shape, R"({"a":{"dtype":"F32","shape":[4e0],"data_offsets":[0,16]}})");
  st("shape_minus_zero.safetensors", file_rule::bad_shape, R"({"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}})", "");
  st("shape_past_64_bits.safetensors", file_rule::bad_shape,
     R"({"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,16]}})");
  st("shape_past_63_bits.safetensors", file_rule::bad_shape,
     R"({"a":{"dtype":"F32","shape":[9223372036854775808,0],"data_offsets":[0,0]}})", "");
  st("shape_huge_beside_zero.safetensors", file_rule::bad_shape,
     R"({"a":{"dtype":"F32","shape":[0,4611686018427387904,4],"data_offsets":[0,0]}})", "");
  st("shape_bits_overflow.safetensors", file_rule::bad_shape, R"({"a":{"dtype":"F64","shape":[576460752303423488],"data_offsets":[0,0]}})",
     "");
  st("offsets_one.safetensors", file_rule::bad_offsets, R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[16]}})");
  st("offsets_three.safetensors", file_rule::bad_offsets, R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8,16]}})");
  st("offsets_negative.safetensors", file_rule::bad_offsets, R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[-16,0]}})");
  st("offsets_huge.safetensors", file_rule::bad_offsets,
     R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[18446744073709551600,18446744073709551615]}})");
  st("first_not_at_zero.safetensors", file_rule::bad_offsets, R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})");
  st("same_place.safetensors", file_rule::bad_offsets, "{\"a\":{" + one + "},\"b\":{" + one + "}}");
  st("zero_size_inside.safetensors", file_rule::bad_offsets,
     "{\"a\":{" + one + R"(},"z":{"dtype":"U8","shape":[0],"data_offsets":[8,8]}})");
  st("half_byte.safetensors", file_rule::size_mismatch, R"({"a":{"dtype":"F4","shape":[31],"data_offsets":[0,16]}})");
  st("deep_in_a_name.safetensors", file_rule::none, R"({"a\")" + std::string(200, '[') + "\":{" + one + "}}");
  st("deep_behind_a_name.safetensors", file_rule::too_deep,
     R"({"a\\":{"x":)" + std::string(200, '[') + std::string(200, ']') + "," + one + "}}");
  st("deep_unknown.safetensors", file_rule::too_deep, "{\"a\":{\"x\":" + std::string(200, '[') + std::string(200, ']') + "," + one + "}}");
  st("lone_surrogate_bytes.safetensors", file_rule::bad_utf8, "{\"\xED\xA0\x80\":{" + one + "}}");
  st("overlong.safetensors", file_rule::bad_utf8, "{\"\xC0\xAF\":{" + one + "}}");
  st("control_in_name.safetensors", file_rule::bad_json, "{\"a\nb\":{" + one + "}}");
  v.push_back({"only_length.safetensors", file_rule::truncated, le<std::uint64_t>(2)});
  st("f4_and_f6.safetensors", file_rule::none,
     R"({"a":{"dtype":"F4","shape":[8],"data_offsets":[0,4]},"b":{"dtype":"F6_E2M3","shape":[4,4],"data_offsets":[4,16]}})");
  st("order_of_names.safetensors", file_rule::none,
     R"({"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})");
  st("unknown_member.safetensors", file_rule::none, "{\"a\":{\"note\":{\"x\":[1,{\"y\":null}],\"dtype\":\"F37\"}," + one + "}}");
  st("spaces_everywhere.safetensors", file_rule::none, "{ \"a\" :\t{ " + one + " } }\n   ");
  st("empty_name.safetensors", file_rule::none, "{\"\":{" + one + "}}");
  st("zero_sizes_at_one_place.safetensors", file_rule::none,
     R"({"y":{"dtype":"U8","shape":[0],"data_offsets":[16,16]},"a":{)" + one +
         R"(},"z":{"dtype":"U8","shape":[3,0],"data_offsets":[0,0]}})");

  const auto index = [&](const char* name, file_rule rule, const std::string& text_of) { v.push_back({name, rule, text_of}); };
  index("sound.json", file_rule::none,
        R"({"metadata":{"total_size":1e3,"x":[[{}]]},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}})");
  index("no_map.json", file_rule::bad_field, R"({"metadata":{}})");
  index("array.json", file_rule::bad_json, "[]");
  index("empty.json", file_rule::truncated, "");
  index("map_array.json", file_rule::bad_field, R"({"weight_map":["a"]})");
  index("map_number.json", file_rule::bad_field, R"({"weight_map":{"a":1}})");
  index("map_object.json", file_rule::bad_field, R"({"weight_map":{"a":{"b":"c"}}})");
  index("map_twice.json", file_rule::duplicate_key, R"({"weight_map":{},"weight_map":{}})");
  index("tensor_twice.json", file_rule::duplicate_key, R"({"weight_map":{"a":"x","a":"y"}})");
  index("path_up.json", file_rule::bad_field, R"({"weight_map":{"a":"../x.safetensors"}})");
  index("path_root.json", file_rule::bad_field, R"({"weight_map":{"a":"\/etc\/passwd"}})");
  index("path_parent.json", file_rule::bad_field, R"({"weight_map":{"a":".."}})");
  index("path_nul.json", file_rule::bad_field, R"({"weight_map":{"a":"x\u0000y"}})");
  index("path_empty.json", file_rule::bad_field, R"({"weight_map":{"a":""}})");
  index("deep.json", file_rule::too_deep, std::string(1000, '[') + std::string(1000, ']'));

  const auto gg = [&](const char* name, file_rule rule, const gguf_pieces& p) { v.push_back({name, rule, p.bytes()}); };
  const std::string u32_array = le(std::uint32_t(gguf_type::u32));
  gg("version_2.gguf", file_rule::none, {{}, {info("w", {8}, ggml_type::f32, 0)}, zero_block, 2});
  gg("version_1.gguf", file_rule::bad_version, {{}, {}, {}, 1});
  gg("nested_array.gguf", file_rule::bad_value_type,
     {{value("a", gguf_type::array, le(std::uint32_t(gguf_type::array)) + le<std::uint64_t>(1) + u32_array + le<std::uint64_t>(0))},
      {},
      {}});
  gg("array_of_unknown.gguf", file_rule::bad_value_type,
     {{value("a", gguf_type::array, le(std::uint32_t(13)) + le<std::uint64_t>(0))}, {}, {}});
  gg("boolean_2.gguf", file_rule::bad_field, {{value("a", gguf_type::boolean, "\x02")}, {}, {}});
  gg("boolean_array.gguf", file_rule::bad_field,
     {{value("a", gguf_type::array, le(std::uint32_t(gguf_type::boolean)) + le<std::uint64_t>(3) + std::string("\x01\x00\xFF", 3))},
      {},
      {}});
  gg("strings_cut.gguf", file_rule::string_too_long,
     {{value("a", gguf_type::array,
             le(std::uint32_t(gguf_type::string)) + le<std::uint64_t>(2) + text("ab") + le<std::uint64_t>(5) + "abcd")},
      {},
      {}});
  gg("strings_many.gguf", file_rule::array_too_long,
     {{value("a", gguf_type::array, le(std::uint32_t(gguf_type::string)) + le<std::uint64_t>(3) + text("ab"))}, {}, {}});
  gg("array_wraps.gguf", file_rule::array_too_long,
     {{value("a", gguf_type::array, le(std::uint32_t(gguf_type::u64)) + le(std::uint64_t(1) << 61))}, {}, {}});
  gg("scalar_cut.gguf", file_rule::truncated, {{value("a", gguf_type::u64, "1234567")}, {}, {}});
  gg("key_long.gguf", file_rule::string_too_long, {{value(std::string(65536, 'k'), gguf_type::u8, "x")}, {}, {}});
  gg("key_longest.gguf", file_rule::none, {{value(std::string(65535, 'k'), gguf_type::u8, "x")}, {}, {}});
  gg("key_not_utf8.gguf", file_rule::bad_utf8, {{value("a\xFF", gguf_type::u8, "x")}, {}, {}});
  gg("name_not_utf8.gguf", file_rule::bad_utf8, {{}, {info("\x80", {8}, ggml_type::f32, 0)}, zero_block});
  gg("name_63.gguf", file_rule::none, {{}, {info(std::string(63, 'n'), {8}, ggml_type::f32, 0)}, zero_block});
  gg("string_not_utf8.gguf", file_rule::none, {{value("a", gguf_type::string, text("\xFF\xFE"))}, {}, {}});
  gg("alignment_u64.gguf", file_rule::bad_alignment, {{value("general.alignment", gguf_type::u64, le<std::uint64_t>(32))}, {}, {}});
  gg("alignment_64.gguf", file_rule::none,
     {{value("general.alignment", gguf_type::u32, le<std::uint32_t>(64))}, {info("w", {8}, ggml_type::f32, 0)}, zero_block, 3, 64});
  gg("alignment_1.gguf", file_rule::none,
     {{value("general.alignment", gguf_type::u32, le<std::uint32_t>(1))},
      {info("w", {1}, ggml_type::i8, 0), info("v", {2}, ggml_type::i8, 1)},
      "abc",
      3,
      1});
  gg("alignment_huge.gguf", file_rule::truncated,
     {{value("general.alignment", gguf_type::u32, le<std::uint32_t>(0x80000000u))}, {info("w", {8}, ggml_type::f32, 0)}, zero_block});
  gg("rank_0.gguf", file_rule::none, {{}, {info("w", {}, ggml_type::f32, 0)}, std::string(4, '\0')});
  const std::string few = gguf_pieces{{value("a", gguf_type::u8, "x")}, {info("w", {8}, ggml_type::f32, 0)}, zero_block}.bytes();
  for (const std::size_t count : {std::size_t(8), std::size_t(16)}) {  // where the counts of tensors and of values lie
    std::string many = few;
    many.replace(count, 8, le<std::uint64_t>(50));
    v.push_back({count == 8 ? "tensors_50.gguf" : "values_50.gguf", file_rule::count_too_large, many});
  }
  gg("gap.gguf", file_rule::bad_offsets, {{}, {info("w", {8}, ggml_type::f32, 32)}, zero_block + zero_block});
  gg("out_of_order.gguf", file_rule::bad_offsets,
     {{}, {info("w", {8}, ggml_type::f32, 32), info("v", {8}, ggml_type::f32, 0)}, zero_block + zero_block});
  gg("last_without_padding.gguf", file_rule::none,
     {{}, {info("w", {8}, ggml_type::f32, 0), info("v", {1}, ggml_type::f32, 32)}, zero_block + "abcd"});
  gg("size_overflow.gguf", file_rule::bad_shape, {{}, {info("w", {std::int64_t(1) << 61, 2}, ggml_type::f64, 0)}, zero_block});
  gg("zero_beside_huge.gguf", file_rule::bad_shape, {{}, {info("w", {0, std::int64_t(1) << 62, 4}, ggml_type::f32, 0)}, {}});
  gg("type_past_the_table.gguf", file_rule::unknown_type, {{}, {info("w", {32}, ggml_type(43), 0)}, zero_block});
  gg("type_max.gguf", file_rule::unknown_type, {{}, {info("w", {32}, ggml_type(0xFFFFFFFFu), 0)}, zero_block});
  gg("type_31.gguf", file_rule::unknown_type, {{}, {info("w", {32}, ggml_type(31), 0)}, zero_block});
  gg("rank_max.gguf", file_rule::too_many_dims, {{}, {text("w") + le(0xFFFFFFFFu) + std::string(64, '\0')}, {}});
  return v;
}

std::vector<std::pair<std::string, std::string>> all_files() {
  std::vector<std::pair<std::string, std::string>> v;
  const auto manifest = nlohmann::json::parse(golden::read_bytes("hostile/manifest.json"));
  for (const auto& file : manifest.at("files"))
    v.emplace_back(file.at("file"), golden::read_bytes("hostile/" + std::string(file.at("file"))));
  for (auto& file : odd_files()) v.emplace_back(file.name, std::move(file.content));
  return v;
}

}  // namespace

TEST_CASE("every malformed file gets its verdict", "[io]") {
  const auto manifest = nlohmann::json::parse(golden::read_bytes("hostile/manifest.json"));
  fenced memory(1 << 20);
  int accepted = 0, refused = 0;
  for (const auto& file : manifest.at("files")) {
    const std::string name = file.at("file"), content = golden::read_bytes("hostile/" + name);
    const file_status s = read_any(name, memory.put(content));
    char line[description_size];
    CAPTURE(name, describe(s, line));
    if (file.at("verdict") == "accept") {
      CHECK(s);
      ++accepted;
    } else {
      CHECK(io::name(s.rule) == std::string(file.at("reason")));
      ++refused;
    }
  }
  CHECK(accepted == 10);
  CHECK(refused == 50);
}

TEST_CASE("further malformed files, and odd ones that are sound", "[io]") {
  fenced memory(1 << 20);
  for (const auto& file : odd_files()) {
    const file_status s = read_any(file.name, memory.put(file.content));
    char line[description_size];
    CAPTURE(file.name, describe(s, line));
    CHECK(io::name(s.rule) == std::string(io::name(file.rule)));
  }
}

TEST_CASE("a refusal names the byte, the key, the rule and both numbers", "[io]") {
  safetensors f;
  const std::string header =
      R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]}})";
  const auto s = f.read(test::as_bytes(test::safetensors_file(header, std::string(20, 'x'))));
  CHECK(s.rule == file_rule::bad_offsets);
  CHECK(s.why.code == errc::bad_value);
  CHECK(std::string(s.key) == "b");
  CHECK(s.why.got == 12);
  CHECK(s.why.need == 16);
  CHECK(s.offset >= 8 + header.find("\"b\""));
  CHECK(s.offset <= 8 + header.find("\"b\"") + 4);
  char line[description_size];
  CHECK(std::string(describe(s, line)).find("in 'b': two tensors overlap: got 12, need 16") != std::string::npos);

  const std::string broken = "{\"a\":{" + one + ",}}";
  const auto j = f.read(test::as_bytes(test::safetensors_file(broken, sixteen)));
  CHECK(j.rule == file_rule::bad_json);
  CHECK(j.offset == 8 + broken.find(",}") + 1);

  gguf g;
  const std::string file = test::gguf_pieces{{test::value("x.y", gguf_type::boolean, "\x02")}, {}, {}}.bytes();
  const auto b = g.read(test::as_bytes(file));
  CHECK(std::string(b.key) == "x.y");
  CHECK(b.offset == file.size());
  CHECK(b.why.got == 2);
}

TEST_CASE("what a hostile file says is quoted without control characters, and cut between characters", "[io]") {
  const std::string key = "a\x1b[31m" + std::string(56, 'x') + "\xC3\xA9\xC3\xA9";
  const auto s = io::detail::refuse(file_rule::bad_field, "x", 0, key);
  CHECK(std::string(s.key) == "a?[31m" + std::string(56, 'x'));
  const auto l = io::detail::refuse(file_rule::bad_field, "x", 0, "y" + key.substr(6));
  CHECK(std::string(l.key) == "y" + key.substr(6));
}

TEST_CASE("random mutations are refused or keep every promise", "[io]") {
  // 10^5 files: some bytes changed, a field replaced by a number that overflows, a piece cut out, doubled or moved.
  const std::uint32_t seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random(seed);
  std::vector<std::pair<std::string, std::string>> files;
  for (auto& file : all_files())
    if (file.second.size() < 2000) files.push_back(std::move(file));
  std::vector<std::pair<std::string, std::string>> sound;
  for (const auto& file : files)
    if (read_any(file.first, test::as_bytes(file.second))) sound.push_back(file);
  const std::uint64_t numbers[] = {0,
                                   1,
                                   2,
                                   3,
                                   4,
                                   8,
                                   31,
                                   32,
                                   33,
                                   63,
                                   64,
                                   127,
                                   128,
                                   255,
                                   256,
                                   65535,
                                   65536,
                                   0x7FFFFFFF,
                                   0x80000000u,
                                   0xFFFFFFFFu,
                                   std::uint64_t(1) << 32,
                                   std::uint64_t(1) << 60,
                                   std::uint64_t(1) << 61,
                                   INT64_MAX,
                                   std::uint64_t(1) << 63,
                                   UINT64_MAX - 7,
                                   UINT64_MAX};
  const char* tokens[] = {"{",    "}",         "[",       "]",         ",",       ":",       "\"", "0", "-1", "1e3", "18446744073709551615",
                          "null", "\"dtype\"", "\"F32\"", "\"shape\"", "\\u0000", "\xF4\x90"};
  fenced memory(8192);
  int accepted[3] = {};  // GGUF, safetensors, indices
  std::set<file_rule> rules;
  for (int round = 0; round < 100000; ++round) {
    const auto& from = random() % 4 ? sound : files;
    const auto& file = from[random() % from.size()];
    std::string s = file.second;
    for (int changes = 1 + int(random() % 4); changes > 0; --changes) {
      const std::size_t at = s.empty() ? 0 : random() % s.size();
      switch (random() % 7) {
        case 0:
          if (!s.empty()) s[at] = char(random());
          break;
        case 1:
          if (!s.empty()) s[at] = char(s[at] ^ (1u << random() % 8));
          break;
        case 2: {
          const std::string field = test::le(numbers[random() % std::size(numbers)]);
          for (std::size_t i = 0; i < (random() % 2 ? 4u : 8u) && at + i < s.size(); ++i) s[at + i] = field[i];
          break;
        }
        case 3: s.resize(at); break;
        case 4: s.erase(at, random() % 16); break;
        case 5: s.insert(at, s.substr(random() % (s.size() + 1), random() % 32)); break;
        default: s.insert(at, tokens[random() % std::size(tokens)]); break;
      }
      // Keep most of the lengths of safetensors headers true, or nothing behind them is ever reached.
      if (file.first.ends_with(".safetensors") && s.size() >= 8 && random() % 4) {
        const std::size_t brace = s.rfind('}');
        if (brace != std::string::npos && brace >= 8) s.replace(0, 8, test::le<std::uint64_t>(brace + 1 - 8));
      }
    }
    const file_status answer = read_any(file.first, memory.put(s));
    rules.insert(answer.rule);
    accepted[file.first.ends_with(".gguf") ? 0 : file.first.ends_with(".json") ? 2 : 1] += bool(answer);
  }
  // The mutations reach every check and past all of them.
  CAPTURE(accepted[0], accepted[1], accepted[2]);
  for (const int count : accepted) CHECK(count > 200);
  for (int rule = int(file_rule::truncated); rule <= int(file_rule::bad_alignment); ++rule) {
    CAPTURE(io::name(file_rule(rule)));
    CHECK(rules.contains(file_rule(rule)));
  }
}
