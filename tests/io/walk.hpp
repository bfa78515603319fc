// Reads a file as every reader does and touches all that is promised: every byte of every tensor and value, every name. What
// a reader accepts must hold its promises; what it refuses must name a rule and leave nothing behind. Used on malformed files,
// on random mutations and by the fuzzer.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <smalti/io/gguf.hpp>
#include <smalti/io/safetensors.hpp>
#include <smalti/io/safetensors_index.hpp>

namespace test {

//! Ends the process: a fuzzer keeps the input, a test names the case.
inline void must(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

//! A number that depends on every byte, so that reading them is not optimised away.
inline std::uint64_t digest(smalti::io::bytes b) {
  std::uint64_t h = 1469598103934665603u;
  for (const std::byte x : b) h = (h ^ std::uint64_t(x)) * 1099511628211u;
  return h;
}
inline std::uint64_t digest(std::string_view s) {
  return digest(smalti::io::bytes(reinterpret_cast<const std::byte*>(s.data()), s.size()));
}

inline bool inside(smalti::io::bytes part, smalti::io::bytes whole) {
  if (part.empty()) return true;
  const auto begin = reinterpret_cast<std::uintptr_t>(part.data()), first = reinterpret_cast<std::uintptr_t>(whole.data());
  return begin >= first && begin - first <= whole.size() && part.size() <= whole.size() - (begin - first);
}

inline void check_refusal(const smalti::io::file_status& s, smalti::io::bytes file) {
  using smalti::io::describe;
  char text[smalti::description_size], small[17];
  describe(s, text);
  must(s.why.what[0] != '\0', "a refusal has a sentence");
  must(!s.why && s.rule != smalti::io::file_rule::none, "a refusal has a code and a rule");
  must(s.offset <= file.size(), "the offset of a refusal lies in the file");
  must(std::memchr(s.key, 0, sizeof s.key) != nullptr, "the key of a refusal is terminated");
  must(std::string_view(text).find(name(s.rule)) == 0, "describe begins with the rule");
  describe(s, small);
  must(std::strlen(small) < sizeof small, "describe keeps to its buffer");
}

inline smalti::io::file_status walk_safetensors(smalti::io::bytes file, std::uint64_t& sum) {
  smalti::io::safetensors f;
  const auto s = f.read(file);
  if (!s) {
    must(f.tensors().empty() && f.metadata().empty() && f.find("a") == nullptr, "a refused file has no tensors");
    check_refusal(s, file);
    return s;
  }
  std::uint64_t total = 0;
  for (const auto& t : f.tensors()) {
    must(inside(t.data, file), "a tensor lies in its file");
    std::uint64_t bits = std::uint64_t(facts(t.type).bits);
    for (const std::int64_t extent : t.shape) bits *= std::uint64_t(extent);
    must(bits == t.data.size() * 8, "a tensor's bytes are those of its shape");
    must(f.find(t.name) == &t, "a tensor is found by its name");
    sum += digest(t.data) + digest(t.name);
    total += t.data.size();
  }
  must(total <= file.size(), "tensors do not overlap");
  for (const auto& [key, value] : f.metadata()) sum += digest(key) + digest(value);
  return s;
}

inline smalti::io::file_status walk_index(smalti::io::bytes file, std::uint64_t& sum) {
  std::vector<std::pair<std::string, std::string>> map;
  const auto s = smalti::io::read_index(file, map);
  if (!s) {
    must(map.empty(), "a refused index lists nothing");
    check_refusal(s, file);
  }
  for (const auto& [key, value] : map) {
    must(!value.empty() && value.find('/') == std::string::npos && value != "..", "a shard is a plain name");
    sum += digest(key) + digest(value);
  }
  return s;
}

inline smalti::io::file_status walk_gguf(smalti::io::bytes file, std::uint64_t& sum) {
  using smalti::io::gguf_type;
  smalti::io::gguf f;
  const auto s = f.read(file);
  if (!s) {
    must(f.tensors().empty() && f.values().empty() && f.find("general.name") == nullptr, "a refused file has nothing");
    check_refusal(s, file);
    return s;
  }
  for (const auto& v : f.values()) {
    must(inside(v.data, file), "a value lies in its file");
    must(f.find(v.key) == &v, "a value is found by its key");
    sum += digest(v.key) + digest(v.data);
    std::uint64_t strings = 0;
    for (const std::string_view one : v.strings()) {
      sum += digest(one);
      ++strings;
    }
    must(strings == (v.is_strings() ? v.count : 0), "an array has as many strings as it says");
    for (const std::uint64_t i : {std::uint64_t{0}, v.count - 1, v.count}) {
      const auto whole = v.integer(i);
      const auto wide = v.number(i);
      sum += std::uint64_t(whole.value_or(0)) + (wide.has_value() ? 1u : 0u) + (v.boolean(i).value_or(false) ? 1u : 0u);
      must(i < v.count || (!whole && !wide && !v.boolean(i)), "there is no element past the last");
    }
    if (const auto text = v.string()) sum += digest(*text);
  }
  std::uint64_t total = 0;
  for (const auto& t : f.tensors()) {
    must(inside(t.data, file), "a tensor lies in its file");
    const auto type = facts(t.type);
    must(type.block > 0 && t.extent[0] % type.block == 0, "a tensor has whole blocks of a known type");
    std::uint64_t size = std::uint64_t(t.extent[0]) / std::uint64_t(type.block) * std::uint64_t(type.block_bytes);
    for (int i = 1; i < 4; ++i) size *= std::uint64_t(t.extent[i]);
    must(size == t.data.size(), "a tensor's bytes are those of its shape");
    must(f.find_tensor(t.name) == &t, "a tensor is found by its name");
    sum += digest(t.data);
    total += size;
  }
  must(total <= file.size(), "tensors do not overlap");
  return s;
}

}  // namespace test
