// Small model files, byte by byte, for tests: what a writer would not let one write.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <smalti/io/gguf.hpp>

namespace test {

template <class T> std::string le(T x) {
  std::string s(sizeof x, '\0');
  std::memcpy(s.data(), &x, sizeof x);
  return s;
}

inline smalti::io::bytes as_bytes(const std::string& s) { return {reinterpret_cast<const std::byte*>(s.data()), s.size()}; }

//! A safetensors file of a header's text and its data.
inline std::string safetensors_file(const std::string& header, const std::string& data = {}) {
  return le<std::uint64_t>(header.size()) + header + data;
}

//! A GGUF file of ready-made pieces.
struct gguf_pieces {
  std::vector<std::string> values, infos;
  std::string data;
  std::uint32_t version = 3, alignment = 32;
  std::string bytes() const {
    std::string s = "GGUF" + le(version) + le<std::uint64_t>(infos.size()) + le<std::uint64_t>(values.size());
    for (const auto& v : values) s += v;
    for (const auto& t : infos) s += t;
    if (!data.empty()) s.resize((s.size() + alignment - 1) / alignment * alignment, '\0');
    return s + data;
  }
};
inline std::string text(const std::string& s) { return le<std::uint64_t>(s.size()) + s; }
inline std::string value(const std::string& key, smalti::io::gguf_type type, const std::string& payload) {
  return text(key) + le(std::uint32_t(type)) + payload;
}
inline std::string info(const std::string& name, const std::vector<std::int64_t>& extents, smalti::io::ggml_type type,
                        std::uint64_t offset) {
  std::string s = text(name) + le(std::uint32_t(extents.size()));
  for (const std::int64_t e : extents) s += le(e);
  return s + le(std::uint32_t(type)) + le(offset);
}

}  // namespace test
