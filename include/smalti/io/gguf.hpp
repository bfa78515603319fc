// GGUF files, versions 2 and 3, little-endian: key-value pairs, tensor infos, aligned data.
//
// Every file is taken for hostile: counts and lengths are compared with the bytes that are left before anything is allocated,
// and every product is checked in 64 bits. Values and names stay in the file; only the two tables are memory of ours.
//
// What is accepted is what ggml itself loads: keys and tensors have one name each, at most four dimensions, whole blocks in
// a row, and offsets that follow each other in order, each padded to the alignment. Narrower than ggml: keys and names are
// UTF-8, and a boolean is 0 or 1. Wider: the padding behind the last tensor may be missing. Refused by name: version 1, big
// endian, arrays of arrays (which no reader of the format takes).
// Source: ggml docs/gguf.md; tests/golden/hostile for the verdicts.
#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include <smalti/core/version.hpp>
#include <smalti/io/bytes.hpp>
#include <smalti/io/file_status.hpp>
#include <smalti/io/ggml_type.hpp>

namespace smalti::inline SMALTI_DATA::io {

enum class gguf_type : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

namespace detail {
// Bytes of one value; of a string, of its length.
constexpr std::uint64_t gguf_least_bytes(gguf_type type) {
  switch (type) {
    case gguf_type::u8:
    case gguf_type::i8:
    case gguf_type::boolean: return 1;
    case gguf_type::u16:
    case gguf_type::i16: return 2;
    case gguf_type::u32:
    case gguf_type::i32:
    case gguf_type::f32: return 4;
    default: return 8;
  }
}
}  // namespace detail

//! The strings of an array, in order: for (std::string_view s : value.strings()) ...
class gguf_strings {
 public:
  class iterator {
   public:
    using value_type = std::string_view;
    using difference_type = std::ptrdiff_t;
    iterator() = default;
    explicit iterator(bytes rest) : rest_(rest) {}
    std::string_view operator*() const { return detail::text(rest_.subspan(8, length())); }
    iterator& operator++() {
      rest_ = rest_.subspan(8 + length());
      return *this;
    }
    iterator operator++(int) {
      iterator before = *this;
      ++*this;
      return before;
    }
    friend bool operator==(const iterator& a, const iterator& b) { return a.rest_.size() == b.rest_.size(); }

   private:
    std::size_t length() const { return std::size_t(detail::load<std::uint64_t>(rest_, 0)); }  // checked by gguf::read
    bytes rest_;
  };
  gguf_strings() = default;
  explicit gguf_strings(bytes all) : all_(all) {}
  iterator begin() const { return iterator(all_); }
  iterator end() const { return iterator(all_.subspan(all_.size())); }

 private:
  bytes all_;
};

//! A key and its value. Accessors answer nothing where the value is of another kind, or does not fit.
struct gguf_value {
  std::string_view key;
  gguf_type type = gguf_type::u8;     //!< gguf_type::array for an array
  gguf_type element = gguf_type::u8;  //!< of an array; else the type itself
  std::uint64_t count = 1;            //!< elements of an array; else 1
  bytes data;                         //!< the values as they lie; of one string its text, of an array of strings length and text in turn

  bool is_array() const { return type == gguf_type::array; }
  bool is_strings() const { return is_array() && element == gguf_type::string; }

  //! Element i of an array, or with i = 0 the value itself, as an integer; none for floats, booleans and strings.
  std::optional<std::int64_t> integer(std::uint64_t i = 0) const {
    if (i >= count) return std::nullopt;
    switch (element) {
      case gguf_type::u8: return at<std::uint8_t>(i);
      case gguf_type::i8: return at<std::int8_t>(i);
      case gguf_type::u16: return at<std::uint16_t>(i);
      case gguf_type::i16: return at<std::int16_t>(i);
      case gguf_type::u32: return at<std::uint32_t>(i);
      case gguf_type::i32: return at<std::int32_t>(i);
      case gguf_type::i64: return at<std::int64_t>(i);
      case gguf_type::u64: {
        const auto x = at<std::uint64_t>(i);
        return x > std::uint64_t(INT64_MAX) ? std::nullopt : std::optional<std::int64_t>(std::int64_t(x));
      }
      default: return std::nullopt;
    }
  }
  //! A float, or an integer as the nearest double.
  std::optional<double> number(std::uint64_t i = 0) const {
    if (i >= count) return std::nullopt;
    if (element == gguf_type::f32) return double(at<float>(i));
    if (element == gguf_type::f64) return at<double>(i);
    if (element == gguf_type::u64) return double(at<std::uint64_t>(i));
    const auto whole = integer(i);
    return whole ? std::optional<double>(double(*whole)) : std::nullopt;
  }
  std::optional<bool> boolean(std::uint64_t i = 0) const {
    if (i >= count || element != gguf_type::boolean) return std::nullopt;
    return at<std::uint8_t>(i) != 0;
  }
  //! The bytes of a string: nobody checked that they are UTF-8, vocabularies hold what is not.
  std::optional<std::string_view> string() const {
    if (type != gguf_type::string) return std::nullopt;
    return detail::text(data);
  }
  //! The strings of an array; empty where it is not an array of strings (`is_strings`).
  gguf_strings strings() const { return is_strings() ? gguf_strings(data) : gguf_strings(); }

 private:
  template <class T> T at(std::uint64_t i) const { return detail::load<T>(data, i * sizeof(T)); }
};

//! A tensor. Extents as the file has them: extent[0] is the fastest, and those past `rank` are 1. Blocks lie along extent[0],
//! so a weight of N rows and K columns has extent {K, N}.
struct gguf_tensor {
  std::string_view name;
  ggml_type type = ggml_type::f32;
  int rank = 0;
  std::int64_t extent[4] = {1, 1, 1, 1};
  bytes data;
};

//! The contents of one file, which must live as long.
class gguf {
 public:
  static constexpr std::uint64_t longest_key = 65535, longest_name = 63;
  static constexpr std::uint32_t most_dims = 4, usual_alignment = 32;

  //! Reads everything but the tensors' data. After a refusal there is nothing.
  file_status read(bytes file) {
    *this = {};
    file_status s = read_all(file);
    if (!s) *this = {};
    return s;
  }

  std::uint32_t version() const { return version_; }
  std::uint32_t alignment() const { return alignment_; }
  const std::vector<gguf_value>& values() const { return values_; }     //!< in the file's order
  const std::vector<gguf_tensor>& tensors() const { return tensors_; }  //!< in the file's order

  //! The value under this key, or null; find_tensor likewise by name.
  const gguf_value* find(std::string_view key) const { return search(values_, keys_, key, &gguf_value::key); }
  const gguf_tensor* find_tensor(std::string_view name) const { return search(tensors_, names_, name, &gguf_tensor::name); }

  //! find(key) and an accessor in one: nothing where no such key stands, or its value is an array, of another kind, or does not fit.
  std::optional<std::int64_t> integer(std::string_view key) const {
    const gguf_value* v = single(key);
    return v != nullptr ? v->integer() : std::nullopt;
  }
  std::optional<double> number(std::string_view key) const {
    const gguf_value* v = single(key);
    return v != nullptr ? v->number() : std::nullopt;
  }
  std::optional<bool> boolean(std::string_view key) const {
    const gguf_value* v = single(key);
    return v != nullptr ? v->boolean() : std::nullopt;
  }
  std::optional<std::string_view> string(std::string_view key) const {
    const gguf_value* v = single(key);
    return v != nullptr ? v->string() : std::nullopt;
  }

 private:
  using order = std::vector<std::uint32_t>;

  const gguf_value* single(std::string_view key) const {
    const gguf_value* v = find(key);
    return v != nullptr && !v->is_array() ? v : nullptr;
  }
  template <class T>
  static const T* search(const std::vector<T>& all, const order& sorted, std::string_view name, std::string_view T::*member) {
    const auto at =
        std::lower_bound(sorted.begin(), sorted.end(), name, [&](std::uint32_t i, std::string_view n) { return all[i].*member < n; });
    return at != sorted.end() && all[*at].*member == name ? &all[*at] : nullptr;
  }
  // Sorts by name; the index of an entry whose name an earlier one has, or all.size().
  template <class T> static std::size_t sort_names(const std::vector<T>& all, order& sorted, std::string_view T::*member) {
    sorted.resize(all.size());
    for (std::size_t i = 0; i < all.size(); ++i) sorted[i] = std::uint32_t(i);
    std::sort(sorted.begin(), sorted.end(),
              [&](std::uint32_t a, std::uint32_t b) { return all[a].*member != all[b].*member ? all[a].*member < all[b].*member : a < b; });
    for (std::size_t i = 1; i < all.size(); ++i)
      if (all[sorted[i - 1]].*member == all[sorted[i]].*member) return sorted[i];
    return all.size();
  }

  file_status no(file_rule rule, const char* what, std::string_view key = {}, std::uint64_t got = 0, std::uint64_t need = 0) const {
    return detail::refuse(rule, what, at_, key, got, need);
  }
  std::uint64_t left() const { return file_.size() - at_; }
  template <class T> bool take(T& x) {
    if (left() < sizeof(T)) return false;
    x = detail::load<T>(file_, at_);
    at_ += sizeof(T);
    return true;
  }
  file_status cut(std::string_view key = {}) const { return no(file_rule::truncated, "the file ends inside its header", key); }

  // A length and that many bytes; what is longer than `most` or than what is left is refused before it is touched.
  file_status take_text(std::string_view& out, std::uint64_t most, const char* too_long, std::string_view key = {}) {
    std::uint64_t length = 0;
    if (!take(length)) return cut(key);
    if (length > most) return no(file_rule::string_too_long, too_long, key, length, most);
    if (length > left()) return no(file_rule::string_too_long, "a string is longer than the file", key, length, left());
    out = detail::text(file_.subspan(at_, length));
    at_ += length;
    return {};
  }
  file_status take_name(std::string_view& out, std::uint64_t most, const char* too_long) {
    if (auto s = take_text(out, most, too_long); !s) return s;
    if (const std::size_t good = detail::utf8_length(out); good < out.size())
      return detail::refuse(file_rule::bad_utf8, "keys and names must be UTF-8", at_ - out.size() + good, out.substr(0, good));
    return {};
  }

  file_status read_value(gguf_value& v) {
    if (auto s = take_name(v.key, longest_key, "a key must have at most 65535 bytes"); !s) return s;
    std::uint32_t type = 0;
    if (!take(type)) return cut(v.key);
    v.type = v.element = gguf_type(type);
    const char* const unknown = "the type of a value must be one of the 13 of GGUF 3";
    if (type > std::uint32_t(gguf_type::f64)) return no(file_rule::bad_value_type, unknown, v.key, type, std::uint32_t(gguf_type::f64));
    if (v.type == gguf_type::string) {
      std::string_view s;
      if (auto why = take_text(s, UINT64_MAX, "", v.key); !why) return why;
      v.data = file_.subspan(at_ - s.size(), s.size());
      return {};
    }
    if (v.type == gguf_type::array) {
      if (!take(type) || !take(v.count)) return cut(v.key);
      v.element = gguf_type(type);
      if (type > std::uint32_t(gguf_type::f64)) return no(file_rule::bad_value_type, unknown, v.key, type, std::uint32_t(gguf_type::f64));
      if (v.element == gguf_type::array)
        return no(file_rule::bad_value_type, "an array of arrays is not read: no program writes one", v.key);
    }
    const std::uint64_t least = detail::gguf_least_bytes(v.element);
    if (v.count > left() / least)
      return v.is_array() ? no(file_rule::array_too_long, "an array is longer than the file", v.key, v.count, left() / least) : cut(v.key);
    const std::uint64_t begin = at_;
    if (v.element == gguf_type::string) {
      for (std::uint64_t i = 0; i < v.count; ++i) {
        std::string_view s;
        if (auto why = take_text(s, UINT64_MAX, "", v.key); !why) return why;
      }
    } else {
      at_ += v.count * least;
    }
    v.data = file_.subspan(begin, at_ - begin);
    if (v.element == gguf_type::boolean)
      for (const std::byte b : v.data)
        if (b > std::byte{1}) return no(file_rule::bad_field, "a boolean must be 0 or 1", v.key, std::uint64_t(b), 1);
    return {};
  }

  // The size in bytes of a tensor whose type and extents are known.
  file_status size_of(const gguf_tensor& t, std::uint64_t& size) const {
    const ggml_facts f = facts(t.type);
    if (f.block == 0) return no(file_rule::unknown_type, "a tensor's type must be one that ggml has", t.name, std::uint32_t(t.type));
    std::uint64_t count = 0;
    if (!detail::elements(t.extent, count)) return no(file_rule::bad_shape, "extents and their product must be from 0 to 2^63 - 1", t.name);
    if (t.extent[0] % f.block != 0)
      return no(file_rule::bad_shape, "a row must be whole blocks of the tensor's type", t.name, std::uint64_t(t.extent[0]),
                std::uint64_t(f.block));
    size = count / std::uint64_t(f.block);
    if (!detail::multiply(size, std::uint64_t(f.block_bytes)))
      return no(file_rule::bad_shape, "a tensor's size is past what 64 bits hold", t.name);
    return {};
  }

  file_status read_tensor(gguf_tensor& t, std::uint64_t& offset) {
    if (auto s = take_name(t.name, longest_name, "a tensor's name must have at most 63 bytes"); !s) return s;
    std::uint32_t rank = 0, type = 0;
    if (!take(rank)) return cut(t.name);
    if (rank > most_dims) return no(file_rule::too_many_dims, "a tensor must have at most 4 dimensions", t.name, rank, most_dims);
    t.rank = int(rank);
    for (std::uint32_t i = 0; i < rank; ++i)
      if (!take(t.extent[i])) return cut(t.name);
    if (!take(type) || !take(offset)) return cut(t.name);
    t.type = ggml_type(type);
    return {};
  }

  file_status read_all(bytes file) {
    file_ = file;
    std::uint32_t magic = 0;
    if (!take(magic)) return no(file_rule::truncated, "a file begins with 'GGUF'", {}, file.size(), 4);
    if (magic != 0x46554747u) return at_ = 0, no(file_rule::bad_magic, "a file must begin with 'GGUF'");
    if (!take(version_)) return cut();
    if (version_ != 2 && version_ != 3) {
      at_ = 4;
      if ((version_ & 0xFFFFu) == 0 && version_ != 0)
        return no(file_rule::bad_version, "the file is big-endian: convert it with gguf's gguf_convert_endian.py", {}, version_, 3);
      return no(file_rule::bad_version, "the version must be 2 or 3: convert the model again", {}, version_, 3);
    }
    std::uint64_t tensor_count = 0, value_count = 0;
    if (!take(tensor_count) || !take(value_count)) return cut();
    // The least an entry takes: a key's length, a type and one byte; a name's length, the rank, a type and an offset.
    constexpr std::uint64_t least_value = 8 + 4 + 1, least_tensor = 8 + 4 + 4 + 8;
    if (value_count > left() / least_value || value_count > UINT32_MAX)
      return at_ = 16, no(file_rule::count_too_large, "there are more key-value pairs than the file has room for", {}, value_count,
                          left() / least_value);
    if (tensor_count > left() / least_tensor || tensor_count > UINT32_MAX)
      return at_ = 8,
             no(file_rule::count_too_large, "there are more tensors than the file has room for", {}, tensor_count, left() / least_tensor);

    for (std::uint64_t i = 0; i < value_count; ++i)
      if (auto s = read_value(values_.emplace_back()); !s) return s;
    if (const std::size_t twice = sort_names(values_, keys_, &gguf_value::key); twice < values_.size())
      return detail::refuse(file_rule::duplicate_key, "two values have the same key", place(values_[twice].key), values_[twice].key);
    if (const gguf_value* v = find("general.alignment")) {
      const std::uint64_t got = v->type == gguf_type::u32 ? std::uint64_t(*v->integer()) : 0;
      if (got == 0 || (got & (got - 1)) != 0)
        return detail::refuse(file_rule::bad_alignment, "general.alignment must be a power of two, as a u32", place(v->key), v->key, got,
                              usual_alignment);
      alignment_ = std::uint32_t(got);
    }

    std::vector<std::uint64_t> offsets;
    for (std::uint64_t i = 0; i < tensor_count; ++i)
      if (auto s = read_tensor(tensors_.emplace_back(), offsets.emplace_back()); !s) return s;
    if (const std::size_t twice = sort_names(tensors_, names_, &gguf_tensor::name); twice < tensors_.size())
      return detail::refuse(file_rule::duplicate_key, "two tensors have the same name", place(tensors_[twice].name), tensors_[twice].name);
    return place_tensors(offsets);
  }

  std::uint64_t place(std::string_view inside) const {
    return std::uint64_t(reinterpret_cast<const std::byte*>(inside.data()) - file_.data());
  }

  // Offsets count from the end of the header, padded. Each tensor begins where the one before it ends, padded.
  file_status place_tensors(const std::vector<std::uint64_t>& offsets) {
    const std::uint64_t mask = alignment_ - 1;
    const std::uint64_t data = (at_ + mask) & ~mask;  // at_ is the size of a file in memory: no overflow
    const std::uint64_t room = file_.size() > data ? file_.size() - data : 0;
    std::uint64_t expected = 0;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      gguf_tensor& t = tensors_[i];
      at_ = place(t.name);
      std::uint64_t size = 0;
      if (auto s = size_of(t, size); !s) return s;
      if ((offsets[i] & mask) != 0)
        return no(file_rule::bad_offsets, "a tensor's offset must be a multiple of the alignment", t.name, offsets[i], alignment_);
      if (offsets[i] != expected)
        return no(file_rule::bad_offsets, "a tensor must begin where the one before it ends, padded to the alignment", t.name, offsets[i],
                  expected);
      if (size > 0 && (expected > room || size > room - expected))
        return no(file_rule::truncated, "the file ends inside a tensor", t.name, room > expected ? room - expected : 0, size);
      if (size > 0) t.data = file_.subspan(data + expected, size);
      expected += (size + mask) & ~mask;  // at most the size of the file and one alignment
    }
    return {};
  }

  bytes file_;
  std::uint64_t at_ = 0;
  std::uint32_t version_ = 0, alignment_ = usual_alignment;
  std::vector<gguf_value> values_;
  std::vector<gguf_tensor> tensors_;
  order keys_, names_;
};

}  // namespace smalti::inline SMALTI_DATA::io
