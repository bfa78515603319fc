// How a reader of files says no: which rule was broken, where in the file, in whose entry, and one sentence. No exception
// and no message on a stream; what a hostile file says is quoted with its control characters taken out.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string_view>
#include <smalti/core/describe.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::io {

//! The rule that a file breaks. One name for one class of faults, in every format.
enum class file_rule : std::uint8_t {
  none,
  cannot_open,     //!< no such file, no permission, not a regular file, no memory to map it
  cannot_write,    //!< no such folder, no permission, no room
  missing_tensor,  //!< an importer or an index names a tensor that is not there
  truncated,       //!< the file ends before what it announces
  trailing_bytes,  //!< bytes that belong to nothing
  header_too_large,
  bad_magic,
  bad_version,
  bad_json,
  too_deep,  //!< nested deeper than any sound file
  bad_utf8,
  bad_field,  //!< a member that is missing, of the wrong type, or of a value that is not allowed
  duplicate_key,
  count_too_large,  //!< more entries than the file has room for
  string_too_long,
  array_too_long,
  bad_value_type,
  unknown_dtype,  //!< safetensors
  unknown_type,   //!< ggml
  too_many_dims,
  bad_shape,
  size_mismatch,  //!< the bytes of a tensor are not what its shape and type ask for
  bad_offsets,
  bad_alignment,
  bad_code,    //!< a stored code, index or scale that has no meaning in its format
  unsupported  //!< sound, and not built: the sentence says what is
};

//! The rule's name, spelled as in the source.
constexpr const char* name(file_rule rule) noexcept {
  switch (rule) {
    case file_rule::none: return "none";
    case file_rule::cannot_open: return "cannot_open";
    case file_rule::cannot_write: return "cannot_write";
    case file_rule::missing_tensor: return "missing_tensor";
    case file_rule::truncated: return "truncated";
    case file_rule::trailing_bytes: return "trailing_bytes";
    case file_rule::header_too_large: return "header_too_large";
    case file_rule::bad_magic: return "bad_magic";
    case file_rule::bad_version: return "bad_version";
    case file_rule::bad_json: return "bad_json";
    case file_rule::too_deep: return "too_deep";
    case file_rule::bad_utf8: return "bad_utf8";
    case file_rule::bad_field: return "bad_field";
    case file_rule::duplicate_key: return "duplicate_key";
    case file_rule::count_too_large: return "count_too_large";
    case file_rule::string_too_long: return "string_too_long";
    case file_rule::array_too_long: return "array_too_long";
    case file_rule::bad_value_type: return "bad_value_type";
    case file_rule::unknown_dtype: return "unknown_dtype";
    case file_rule::unknown_type: return "unknown_type";
    case file_rule::too_many_dims: return "too_many_dims";
    case file_rule::bad_shape: return "bad_shape";
    case file_rule::size_mismatch: return "size_mismatch";
    case file_rule::bad_offsets: return "bad_offsets";
    case file_rule::bad_alignment: return "bad_alignment";
    case file_rule::bad_code: return "bad_code";
    case file_rule::unsupported: return "unsupported";
  }
  return "unknown";
}

//! What a reader or an importer answers. `why` is the status every op speaks: its code is bad_shape for the rules of shapes
//! and sizes, misaligned for bad_alignment, and bad_value for all others.
struct [[nodiscard]] file_status {
  status why;
  file_rule rule = file_rule::none;
  std::uint64_t offset = 0;  //!< byte of the file at or just before which the fault was seen; of an importer, byte of the tensor
  char key[64] = {};         //!< the entry that is at fault: a key, a tensor's name, a path; cut, always terminated
  constexpr explicit operator bool() const noexcept { return rule == file_rule::none; }
};

//! "bad_offsets at byte 96 in 'blk.0.attn_q.weight': a tensor must begin where ...: got 4096, need 0", or "ok", into `buffer`,
//! which is returned. As describe(status): cut where it does not fit, always terminated.
inline const char* describe(const file_status& s, char* buffer, std::size_t size) {
  if (buffer == nullptr || size == 0) return "";
  if (s) {
    std::snprintf(buffer, size, "ok");
    return buffer;
  }
  const char* quote = s.key[0] == '\0' ? "" : "'";
  int used = std::snprintf(buffer, size, "%s at byte %llu%s%s%s%s: %s", name(s.rule), static_cast<unsigned long long>(s.offset),
                           *quote ? " in " : "", quote, s.key, quote, s.why.what);
  if ((s.why.got != 0 || s.why.need != 0) && used > 0 && std::size_t(used) < size)
    used += std::snprintf(buffer + used, size - std::size_t(used), ": got %lld, need %lld", static_cast<long long>(s.why.got),
                          static_cast<long long>(s.why.need));
  static_cast<void>(used);
  return buffer;
}
template <std::size_t Size> const char* describe(const file_status& s, char (&buffer)[Size]) { return describe(s, buffer, Size); }

namespace detail {

// A count of a file as a number of a status, whose numbers are signed.
constexpr std::int64_t shown(std::uint64_t x) { return x > std::uint64_t(INT64_MAX) ? INT64_MAX : std::int64_t(x); }

constexpr errc code_of(file_rule rule) {
  switch (rule) {
    case file_rule::none: return errc::ok;
    case file_rule::bad_alignment: return errc::misaligned;
    case file_rule::bad_shape:
    case file_rule::too_many_dims:
    case file_rule::size_mismatch: return errc::bad_shape;
    default: return errc::bad_value;
  }
}

// The refusal itself. Bytes of `key` that would disturb a terminal or a log become '?', and a character that does not
// fit whole is left out.
inline file_status refuse(file_rule rule, const char* what, std::uint64_t offset, std::string_view key = {}, std::uint64_t got = 0,
                          std::uint64_t need = 0) {
  file_status s{{code_of(rule), what, shown(got), shown(need)}, rule, offset, {}};
  std::size_t length = key.size() < sizeof s.key - 1 ? key.size() : sizeof s.key - 1;
  while (length < key.size() && length > 0 && (static_cast<unsigned char>(key[length]) & 0xC0) == 0x80) --length;
  for (std::size_t i = 0; i < length; ++i) {
    const auto c = static_cast<unsigned char>(key[i]);
    s.key[i] = c < 0x20 || c == 0x7F ? '?' : key[i];
  }
  return s;
}

}  // namespace detail
}  // namespace smalti::inline SMALTI_DATA::io
