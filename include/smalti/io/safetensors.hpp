// safetensors files: 8 bytes with the length of a JSON header, the header, the data.
//
//     smalti::io::mapped_file file;
//     smalti::io::safetensors weights;
//     if (auto s = file.open("model.safetensors"); !s) ...
//     if (auto s = weights.read(file.data()); !s) ...
//     const smalti::io::tensor* q = weights.find("model.layers.0.self_attn.q_proj.weight");
//
// Every file is taken for hostile. What is accepted has tensors that lie inside the data, one after another with neither
// hole nor overlap, each with exactly the bytes its shape and type ask for. Refused beside what the reference reader refuses:
// duplicate keys, and a header that does not begin with '{'.
// Source: the format's description, huggingface/safetensors README; tests/golden/hostile for the verdicts.
#pragma once
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <smalti/core/version.hpp>
#include <smalti/io/bytes.hpp>
#include <smalti/io/file_status.hpp>
#include <smalti/io/tensor.hpp>

namespace smalti::inline SMALTI_DATA::io {

namespace detail {

// Text for the JSON parser that remembers how far it was read, so that a refusal can name a byte.
struct counted_text {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;
  const char* at = nullptr;
  const char** farthest = nullptr;
  reference operator*() const { return *at; }
  counted_text& operator++() {
    *farthest = ++at;
    return *this;
  }
  counted_text operator++(int) {
    counted_text before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(const counted_text& a, const counted_text& b) { return a.at == b.at; }
  friend bool operator!=(const counted_text& a, const counted_text& b) { return a.at != b.at; }
};

// What must hold before a parser sees the text: UTF-8 without control characters (the parser takes NUL for the end of its
// input), and not nested deeper than `most` levels.
inline file_status check_json_text(std::string_view text, std::uint64_t offset, int most) {
  if (const std::size_t good = utf8_length(text); good < text.size())
    return refuse(file_rule::bad_utf8, "JSON must be UTF-8", offset + good);
  int depth = 0;
  bool quoted = false, escaped = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\0') return refuse(file_rule::bad_json, "JSON must not hold a NUL byte", offset + i);
    if (quoted) {
      quoted = escaped || c != '"';
      escaped = !escaped && c == '\\';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      if (++depth > most)
        return refuse(file_rule::too_deep, "JSON is nested too deeply", offset + i, {}, std::uint64_t(depth), std::uint64_t(most));
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return {};
}

// What the two JSON formats share: the first refusal is kept with its place, values under unknown members are stepped over.
class json_events {
 public:
  using json = nlohmann::json;
  file_status result;

  bool binary(json::binary_t&) { return false; }  // JSON has none
  bool parse_error(std::size_t position, const std::string&, const json::exception&) {
    if (result) result = refuse(file_rule::bad_json, "the text is not JSON", origin_ + (position > 0 ? position - 1 : 0), key_);
    return false;
  }

 protected:
  json_events(const char* begin, const char* const* farthest, std::uint64_t origin) : begin_(begin), farthest_(farthest), origin_(origin) {}
  bool no(file_rule rule, const char* what, std::uint64_t got = 0, std::uint64_t need = 0) {
    if (result) result = refuse(rule, what, here(), key_, got, need);
    return false;
  }
  std::uint64_t here() const { return origin_ + std::uint64_t(*farthest_ - begin_); }
  std::string key_;   // the entry that is being read
  int skipping_ = 0;  // open brackets of a value that is stepped over

 private:
  const char* begin_;
  const char* const* farthest_;
  std::uint64_t origin_;
};

// Runs a handler over checked text.
template <class Events> file_status parse_json(std::string_view text, std::uint64_t origin, const auto&... more) {
  const char* farthest = text.data();
  Events events(text.data(), &farthest, origin, more...);
  const counted_text first{text.data(), &farthest}, last{text.data() + text.size(), &farthest};
  const bool whole = nlohmann::json::sax_parse(first, last, &events);
  if (!whole && events.result) return refuse(file_rule::bad_json, "the text is not JSON", origin);
  return events.result;
}

// A header: {"__metadata__": {string: string}, name: {"dtype": string, "shape": [count...], "data_offsets": [begin, end]}}.
struct safetensors_entry {
  std::string name;
  dtype type = dtype::u8;
  std::vector<std::uint64_t> shape;
  std::uint64_t begin = 0, end = 0, place = 0;
};

class safetensors_events : public json_events {
 public:
  safetensors_events(const char* begin, const char* const* farthest, std::uint64_t origin, std::vector<safetensors_entry>* entries,
                     std::vector<std::pair<std::string, std::string>>* metadata)
      : json_events(begin, farthest, origin), entries_(entries), metadata_(metadata) {}

  bool null() { return scalar(); }
  bool boolean(bool) { return scalar(); }
  bool number_float(double, const std::string&) { return number_of_wrong_kind(); }
  bool number_integer(std::int64_t) { return number_of_wrong_kind(); }
  bool number_unsigned(std::uint64_t x) {
    if (skipping_ > 0 || (where_ == place::entry && field_ == field::other)) return true;
    if (where_ == place::shape) return entry_.shape.push_back(x), true;
    if (where_ == place::offsets) return (offsets_++ == 0 ? entry_.begin : entry_.end) = x, true;  // end_array counts them
    return scalar();
  }
  bool string(std::string& text) {
    if (skipping_ > 0) return true;
    if (where_ == place::metadata) return metadata_->emplace_back(metadata_key_, text), true;
    if (where_ != place::entry) return scalar();
    if (field_ == field::other) return true;
    if (field_ != field::type) return scalar();
    if (!find_dtype(text, entry_.type)) return no(file_rule::unknown_dtype, "dtype must be a type of safetensors 0.8, such as F32 or BF16");
    return true;
  }
  bool start_object(std::size_t) {
    if (skipping_ > 0) return ++skipping_, true;
    switch (where_) {
      case place::outside: where_ = place::root; return true;
      case place::root: where_ = is_metadata_ ? place::metadata : place::entry; return true;
      case place::entry:
        if (field_ == field::other) return ++skipping_, true;
        [[fallthrough]];
      default: return scalar();
    }
  }
  bool start_array(std::size_t) {
    if (skipping_ > 0) return ++skipping_, true;
    if (where_ == place::outside) return no(file_rule::bad_json, "the header must be a JSON object");
    if (where_ != place::entry) return scalar();
    if (field_ == field::other) return ++skipping_, true;
    if (field_ == field::type) return scalar();
    where_ = field_ == field::shape ? place::shape : place::offsets;
    return true;
  }
  bool end_array() {
    if (skipping_ > 0) return --skipping_, true;
    if (where_ == place::offsets && offsets_ != 2) return no(file_rule::bad_offsets, "data_offsets must be two numbers, [begin, end]");
    where_ = place::entry;
    return true;
  }
  bool key(std::string& text) {
    if (skipping_ > 0) return true;
    if (where_ == place::metadata) {
      metadata_key_ = text;
      return metadata_names_.insert(text).second || no(file_rule::duplicate_key, "a key of __metadata__ stands twice");
    }
    if (where_ == place::root) {
      key_ = text;
      is_metadata_ = text == "__metadata__";
      entry_ = {text, dtype::u8, {}, 0, 0, here()};
      seen_ = 0;
      offsets_ = 0;
      return names_.insert(text).second || no(file_rule::duplicate_key, "two entries have the same name");
    }
    field_ = text == "dtype" ? field::type : text == "shape" ? field::shape : text == "data_offsets" ? field::offsets : field::other;
    if (field_ == field::other) return true;  // as the reference reader: a member it does not know
    const unsigned bit = 1u << unsigned(field_);
    if (seen_ & bit) return no(file_rule::duplicate_key, "dtype, shape or data_offsets stands twice");
    seen_ |= bit;
    return true;
  }
  bool end_object() {
    if (skipping_ > 0) return --skipping_, true;
    if (where_ == place::entry) {
      if (seen_ != 7) return no(file_rule::bad_field, "an entry needs dtype, shape and data_offsets");
      entries_->push_back(std::move(entry_));
    }
    where_ = where_ == place::root ? place::outside : place::root;
    return true;
  }

 private:
  enum class place { outside, root, entry, metadata, shape, offsets };
  enum class field : unsigned { type, shape, offsets, other };

  bool scalar() {  // a value that stands where another kind is needed
    if (skipping_ > 0 || (where_ == place::entry && field_ == field::other)) return true;
    switch (where_) {
      case place::outside: return no(file_rule::bad_json, "the header must be a JSON object");
      case place::root: return no(file_rule::bad_field, is_metadata_ ? "__metadata__ must be an object" : "an entry must be an object");
      case place::metadata: return no(file_rule::bad_field, "the values of __metadata__ must be strings");
      case place::shape: return no(file_rule::bad_shape, "shape must hold counts: whole numbers from 0 to 2^63 - 1");
      case place::offsets: return no(file_rule::bad_offsets, "data_offsets must hold byte counts");
      default: break;
    }
    return no(file_rule::bad_field, "dtype must be a string, shape and data_offsets arrays");
  }
  bool number_of_wrong_kind() { return scalar(); }

  std::vector<safetensors_entry>* entries_;
  std::vector<std::pair<std::string, std::string>>* metadata_;
  std::unordered_set<std::string> names_, metadata_names_;
  std::string metadata_key_;
  safetensors_entry entry_;
  place where_ = place::outside;
  field field_ = field::other;
  bool is_metadata_ = false;
  unsigned seen_ = 0;
  int offsets_ = 0;
};

// The tensor of an entry, or why it is none.
inline file_status place_tensor(const safetensors_entry& e, bytes data, std::uint64_t expected, tensor& out) {
  const auto no = [&](file_rule rule, const char* what, std::uint64_t got = 0, std::uint64_t need = 0) {
    return refuse(rule, what, e.place, e.name, got, need);
  };
  std::uint64_t count = 0;
  for (const std::uint64_t extent : e.shape) {
    if (extent > std::uint64_t(INT64_MAX)) return no(file_rule::bad_shape, "an extent is past 2^63 - 1", extent, INT64_MAX);
    out.shape.push_back(std::int64_t(extent));
  }
  std::uint64_t bits = 0;
  if (!elements(out.shape, count) || (bits = count, !multiply(bits, std::uint64_t(facts(e.type).bits))))
    return no(file_rule::bad_shape, "the product of the extents is past what 64 bits hold");
  if (e.begin > e.end) return no(file_rule::bad_offsets, "data_offsets must not run backwards", e.end, e.begin);
  if (e.end > data.size()) return no(file_rule::bad_offsets, "data_offsets must not lie past the end of the file", e.end, data.size());
  if (bits % 8 != 0) return no(file_rule::size_mismatch, "the elements of a tensor must fill whole bytes", bits % 8, 0);
  if (bits / 8 != e.end - e.begin)
    return no(file_rule::size_mismatch, "shape and dtype ask for another number of bytes", e.end - e.begin, bits / 8);
  if (e.begin != expected)
    return no(file_rule::bad_offsets, e.begin > expected ? "bytes before this tensor belong to none" : "two tensors overlap", e.begin,
              expected);
  out.name = e.name;
  out.type = e.type;
  out.data = data.subspan(e.begin, e.end - e.begin);
  return {};
}

}  // namespace detail

//! The tensors of one file. Holds names and shapes; the data stays in the file, which must live as long.
//!
//! cost: time and memory proportional to the header, of which at most 100 MB are accepted; no byte of the data is read
class safetensors {
 public:
  static constexpr std::uint64_t longest_header = 100'000'000;  //!< as the reference reader
  static constexpr int deepest = 128;                           //!< nesting of the JSON header

  //! Reads the header of `file`. After a refusal there are no tensors.
  file_status read(bytes file) {
    *this = {};
    file_status s = read_header(file);
    if (!s) *this = {};
    return s;
  }

  const std::vector<tensor>& tensors() const { return tensors_; }                                 //!< in the order of their data
  const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }  //!< in the file's order

  //! The tensor of this name, or null.
  const tensor* find(std::string_view name) const {
    const auto at = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                     [this](std::uint32_t i, std::string_view n) { return std::string_view(tensors_[i].name) < n; });
    return at != by_name_.end() && tensors_[*at].name == name ? &tensors_[*at] : nullptr;
  }

 private:
  file_status read_header(bytes file) {
    if (file.size() < 8)
      return detail::refuse(file_rule::truncated, "a file begins with 8 bytes that hold the header's length", 0, {}, file.size(), 8);
    const auto length = detail::load<std::uint64_t>(file, 0);
    if (length > longest_header)
      return detail::refuse(file_rule::header_too_large, "the header must have at most 100,000,000 bytes", 0, {}, length, longest_header);
    if (length > file.size() - 8)
      return detail::refuse(file_rule::truncated, "the header is longer than the file", 0, {}, length, file.size() - 8);
    const std::string_view text = detail::text(file.subspan(8, length));
    if (text.empty() || text[0] != '{') return detail::refuse(file_rule::bad_json, "the header must begin with '{'", 8);
    if (auto s = detail::check_json_text(text, 8, deepest); !s) return s;
    std::vector<detail::safetensors_entry> entries;
    if (auto s = detail::parse_json<detail::safetensors_events>(text, 8, &entries, &metadata_); !s) return s;

    const bytes data = file.subspan(8 + length);
    std::stable_sort(entries.begin(), entries.end(),
                     [](const auto& a, const auto& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
    std::uint64_t used = 0;
    tensors_.resize(entries.size());
    by_name_.resize(entries.size());
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (auto s = detail::place_tensor(entries[i], data, used, tensors_[i]); !s) return s;
      used = entries[i].end;
      by_name_[i] = std::uint32_t(i);
    }
    if (used != data.size())
      return detail::refuse(file_rule::trailing_bytes, "bytes after the last tensor belong to none", 8 + length + used, {}, data.size(),
                            used);
    std::sort(by_name_.begin(), by_name_.end(), [this](std::uint32_t a, std::uint32_t b) { return tensors_[a].name < tensors_[b].name; });
    return {};
  }

  std::vector<tensor> tensors_;
  std::vector<std::uint32_t> by_name_;
  std::vector<std::pair<std::string, std::string>> metadata_;
};

}  // namespace smalti::inline SMALTI_DATA::io
