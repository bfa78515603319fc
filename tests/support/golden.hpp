// Golden vectors for tests: safetensors files with a manifest that names their cases, under SMALTI_GOLDEN_DIR.
// tests/golden/README.md says who made them and how to compare. A file or name that is missing throws, so that a
// test cannot pass by comparing nothing.
#pragma once
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include <nlohmann/json.hpp>

namespace golden {

inline std::string read_bytes(const std::string& name) {
  const std::string path = std::string(SMALTI_GOLDEN_DIR) + "/" + name;
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("golden vectors: cannot open " + path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// One array as stored: little-endian, rows contiguous.
struct tensor {
  std::string dtype;  // safetensors' name: F32, U8, BF16, ...
  std::vector<std::int64_t> shape;
  std::string bytes;

  std::int64_t size() const {
    std::int64_t n = 1;
    for (const std::int64_t extent : shape) n *= extent;
    return n;
  }
  // The elements as any trivially copyable T of the stored size.
  template <class T> std::vector<T> as() const {
    static_assert(std::is_trivially_copyable_v<T>);
    if (static_cast<std::size_t>(size()) * sizeof(T) != bytes.size())
      throw std::runtime_error("golden vectors: elements of " + dtype + " are not " + std::to_string(sizeof(T)) + " bytes");
    std::vector<T> out(static_cast<std::size_t>(size()));
    if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }
};

// A safetensors file, read whole.
class tensors {
 public:
  explicit tensors(const std::string& name) : name_(name), bytes_(read_bytes(name)) {
    std::uint64_t length = 0;
    if (bytes_.size() < sizeof length) throw std::runtime_error("golden vectors: " + name + " is too short");
    std::memcpy(&length, bytes_.data(), sizeof length);
    if (length > bytes_.size() - sizeof length) throw std::runtime_error("golden vectors: " + name + " is cut off");
    data_ = sizeof length + length;
    header_ = nlohmann::json::parse(bytes_.begin() + sizeof length, bytes_.begin() + static_cast<std::ptrdiff_t>(data_));
  }
  bool has(const std::string& tensor_name) const { return header_.contains(tensor_name); }
  tensor operator[](const std::string& tensor_name) const {
    if (!has(tensor_name)) throw std::runtime_error("golden vectors: no tensor " + tensor_name + " in " + name_);
    const auto& entry = header_.at(tensor_name);
    const std::uint64_t first = entry.at("data_offsets").at(0), last = entry.at("data_offsets").at(1);
    if (first > last || last > bytes_.size() - data_) throw std::runtime_error("golden vectors: " + tensor_name + " lies outside " + name_);
    return {entry.at("dtype"), entry.at("shape"), bytes_.substr(data_ + first, last - first)};
  }

 private:
  std::string name_, bytes_;
  std::size_t data_ = 0;
  nlohmann::json header_;
};

// One line of the manifest. Files are read once and shared.
struct test_case {
  std::string id, file, format, producer;
  nlohmann::json params;                     // what the producer was told, e.g. params.at("group")
  std::map<std::string, std::string> names;  // role to tensor name
  std::shared_ptr<const tensors> data;

  bool has(const std::string& role) const { return names.count(role) != 0; }
  tensor operator[](const std::string& role) const {
    const auto found = names.find(role);
    if (found == names.end()) throw std::runtime_error("golden vectors: case " + id + " has no " + role);
    return (*data)[found->second];
  }
};

// The cases of one file, e.g. cases("floats.safetensors"), in the manifest's order.
inline std::vector<test_case> cases(const std::string& file) {
  static const nlohmann::json manifest = nlohmann::json::parse(read_bytes("manifest.json"));
  static std::map<std::string, std::shared_ptr<const tensors>> open;
  std::vector<test_case> out;
  for (const auto& entry : manifest.at("cases")) {
    if (entry.at("file") != file) continue;
    auto& data = open[file];
    if (!data) data = std::make_shared<const tensors>(file);
    test_case c{entry.at("id"), file, entry.at("format"), entry.at("producer").at("name"), entry.at("params"), {}, data};
    for (const auto& [role, name] : entry.at("tensors").items())
      if (name.is_string()) c.names[role] = name;
    out.push_back(std::move(c));
  }
  if (out.empty()) throw std::runtime_error("golden vectors: no case in " + file);
  return out;
}

// The case with this id, e.g. find("floats/e4m3fn.round").
inline test_case find(const std::string& id) {
  for (const auto& c : cases(id.substr(0, id.find('/')) + ".safetensors"))
    if (c.id == id) return c;
  throw std::runtime_error("golden vectors: no case " + id);
}

}  // namespace golden
