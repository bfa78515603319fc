// Writes safetensors files: names, types and shapes are checked as the reader checks them, so that what is written can be read.
//
//     smalti::io::safetensors_writer file;
//     if (auto s = file.add("logits", smalti::io::dtype::f32, {tokens, vocabulary}, std::as_bytes(std::span(logits))); !s) ...
//     if (auto s = file.write("logits.safetensors"); !s) ...
//
// Source: the format's description, huggingface/safetensors README.
#pragma once
#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include <smalti/core/version.hpp>
#include <smalti/io/bytes.hpp>
#include <smalti/io/file_status.hpp>
#include <smalti/io/safetensors.hpp>
#include <smalti/io/tensor.hpp>

namespace smalti::inline SMALTI_DATA::io {

//! The tensors of a file to be. Keeps names and shapes; the data stays the caller's and must live until write().
//!
//! The data begins at a multiple of 8 bytes and lies in the order of falling element sizes, then of names, as the format's own
//! writer has it: each tensor is aligned for its elements. The same tensors give the same bytes, in whatever order they came.
//!
//! cost: memory for the header; one pass over the data, which is written from where it lies
class safetensors_writer {
 public:
  //! Takes up a tensor, or refuses it and stays as it was: a name that stands already, is `__metadata__` or not UTF-8; an extent
  //! below zero or a product past 64 bits; elements that do not fill whole bytes; data of another size than shape and type ask for.
  file_status add(std::string_view name, dtype type, std::span<const std::int64_t> shape, bytes data) {
    const auto no = [&](file_rule rule, const char* what, std::uint64_t got = 0, std::uint64_t need = 0) {
      return detail::refuse(rule, what, 0, name, got, need);
    };
    if (name == "__metadata__") return no(file_rule::bad_field, "__metadata__ is no name for a tensor: use add_metadata");
    if (detail::utf8_length(name) < name.size()) return no(file_rule::bad_utf8, "the name of a tensor must be UTF-8");
    if (std::size_t(type) >= std::size(dtypes))
      return no(file_rule::unknown_dtype, "the type is none of safetensors 0.8", std::uint64_t(type), std::size(dtypes));
    std::uint64_t count = 0;
    if (!detail::elements(shape, count) || !detail::multiply(count, std::uint64_t(facts(type).bits)))
      return no(file_rule::bad_shape, "an extent is below zero, or the product of the extents is past what 64 bits hold");
    if (count % 8 != 0) return no(file_rule::size_mismatch, "the elements of a tensor must fill whole bytes", count % 8, 0);
    if (count / 8 != data.size())
      return no(file_rule::size_mismatch, "shape and dtype ask for another number of bytes", data.size(), count / 8);
    if (!names_.emplace(name).second) return no(file_rule::duplicate_key, "two tensors have the same name");
    tensors_.push_back({std::string(name), type, {shape.begin(), shape.end()}, data});
    return {};
  }
  file_status add(std::string_view name, dtype type, std::initializer_list<std::int64_t> shape, bytes data) {
    return add(name, type, std::span<const std::int64_t>(shape.begin(), shape.size()), data);
  }

  //! A line of what the file says of itself. Keys stand once; both must be UTF-8.
  file_status add_metadata(std::string_view key, std::string_view value) {
    if (detail::utf8_length(key) < key.size() || detail::utf8_length(value) < value.size())
      return detail::refuse(file_rule::bad_utf8, "a key and a value of __metadata__ must be UTF-8", 0, key);
    for (const auto& [name, text] : metadata_)
      if (name == key) return detail::refuse(file_rule::duplicate_key, "a key of __metadata__ stands twice", 0, key);
    metadata_.emplace_back(key, value);
    return {};
  }

  //! Writes the file beside its place and then puts it there: whoever reads `path` sees the old file or the whole new one, and a
  //! mapping of the old one stays valid. After a refusal `path` is what it was; `got` is then errno where the system refused.
  file_status write(const char* path) const {
    if (path == nullptr) return detail::refuse(file_rule::cannot_write, "the path is null: pass the name of a file", 0);
    const std::vector<const tensor*> order = ordered();
    const std::string head = header(order);
    if (head.size() > safetensors::longest_header)
      return detail::refuse(file_rule::header_too_large, "the header must have at most 100,000,000 bytes: take several files", 0, path,
                            head.size(), safetensors::longest_header);
    const std::string beside = std::string(path) + ".partial";
    const int file = ::open(beside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0) return failed("the file cannot be made; got is errno", path);
    const std::uint64_t length = head.size();
    bool good = put(file, std::as_bytes(std::span(&length, 1))) && put(file, std::as_bytes(std::span(head)));
    for (std::size_t i = 0; good && i < order.size(); ++i) good = put(file, order[i]->data);
    const int number = errno;
    if (::close(file) == 0 && good && std::rename(beside.c_str(), path) == 0) return {};
    if (!good) errno = number;
    const file_status why = failed("the file cannot be written; got is errno", path);
    ::unlink(beside.c_str());
    return why;
  }

 private:
  static file_status failed(const char* what, const char* path) {
    return detail::refuse(file_rule::cannot_write, what, 0, path, std::uint64_t(errno));
  }
  static bool put(int file, bytes data) {
    while (!data.empty()) {
      const ssize_t n = ::write(file, data.data(), data.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return false;
      data = data.subspan(std::size_t(n));
    }
    return true;
  }

  std::vector<const tensor*> ordered() const {
    std::vector<const tensor*> order;
    for (const tensor& t : tensors_) order.push_back(&t);
    std::sort(order.begin(), order.end(), [](const tensor* a, const tensor* b) {
      return facts(a->type).bits != facts(b->type).bits ? facts(a->type).bits > facts(b->type).bits : a->name < b->name;
    });
    return order;
  }

  // With spaces behind it, so that the data begins at a multiple of 8.
  std::string header(const std::vector<const tensor*>& order) const {
    std::string text = "{";
    const auto put = [&](const auto&... parts) { (text.append(parts), ...); };      // no sums of strings: g++ 12 warns of its own ones
    const auto quoted = [](const std::string& s) { return nlohmann::json(s).dump(); };
    if (!metadata_.empty()) {
      put("\"__metadata__\":{");
      for (std::size_t i = 0; i < metadata_.size(); ++i) put(i > 0 ? "," : "", quoted(metadata_[i].first), ":", quoted(metadata_[i].second));
      put("}");
    }
    std::uint64_t at = 0;
    for (const tensor* t : order) {
      put(text.size() > 1 ? "," : "", quoted(t->name), ":{\"dtype\":\"", facts(t->type).name, "\",\"shape\":[");
      for (std::size_t i = 0; i < t->shape.size(); ++i) put(i > 0 ? "," : "", std::to_string(t->shape[i]));
      put("],\"data_offsets\":[", std::to_string(at), ",", std::to_string(at + t->data.size()), "]}");
      at += t->data.size();
    }
    put("}");
    text.resize((text.size() + 7) / 8 * 8, ' ');
    return text;
  }

  std::vector<tensor> tensors_;
  std::unordered_set<std::string> names_;
  std::vector<std::pair<std::string, std::string>> metadata_;
};

}  // namespace smalti::inline SMALTI_DATA::io
