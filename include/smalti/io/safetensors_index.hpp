// Models in several safetensors files: model.safetensors.index.json names the file of every tensor.
//
//     {"metadata": {"total_size": ...}, "weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors", ...}}
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <smalti/core/version.hpp>
#include <smalti/io/file_status.hpp>
#include <smalti/io/mapped_file.hpp>
#include <smalti/io/safetensors.hpp>

namespace smalti::inline SMALTI_DATA::io {

namespace detail {

class index_events : public json_events {
 public:
  index_events(const char* begin, const char* const* farthest, std::uint64_t origin, std::vector<std::pair<std::string, std::string>>* map)
      : json_events(begin, farthest, origin), map_(map) {}

  bool null() { return scalar(); }
  bool boolean(bool) { return scalar(); }
  bool number_float(double, const std::string&) { return scalar(); }
  bool number_integer(std::int64_t) { return scalar(); }
  bool number_unsigned(std::uint64_t) { return scalar(); }
  bool string(std::string& text) {
    if (skipping_ > 0 || where_ != place::map) return scalar();
    // A shard lies beside its index: a path that leads elsewhere is not followed.
    if (text.empty() || text == "." || text == ".." || text.find('/') != std::string::npos || text.find('\0') != std::string::npos)
      return no(file_rule::bad_field, "a shard must be the plain name of a file beside the index");
    map_->emplace_back(key_, text);
    return true;
  }
  bool start_object(std::size_t) {
    if (skipping_ > 0 || (where_ == place::root && !is_map_)) return ++skipping_, true;
    if (where_ == place::map) return scalar();
    where_ = where_ == place::outside ? place::root : place::map;
    return true;
  }
  bool start_array(std::size_t) {
    if (skipping_ > 0 || (where_ == place::root && !is_map_)) return ++skipping_, true;
    return scalar();
  }
  bool end_array() { return --skipping_, true; }
  bool end_object() {
    if (skipping_ > 0) return --skipping_, true;
    if (where_ == place::root && !seen_.contains("weight_map")) return no(file_rule::bad_field, "an index needs a weight_map");
    where_ = where_ == place::map ? place::root : place::outside;
    return true;
  }
  bool key(std::string& text) {
    if (skipping_ > 0) return true;
    key_ = text;
    is_map_ = where_ == place::root ? text == "weight_map" : is_map_;
    return (where_ == place::root ? seen_ : names_).insert(text).second || no(file_rule::duplicate_key, "a key stands twice");
  }

 private:
  enum class place { outside, root, map };
  bool scalar() {
    if (skipping_ > 0 || (where_ == place::root && !is_map_)) return true;
    return where_ == place::outside ? no(file_rule::bad_json, "an index must be a JSON object")
           : where_ == place::root  ? no(file_rule::bad_field, "weight_map must be an object")
                                    : no(file_rule::bad_field, "weight_map must hold names of files");
  }
  std::vector<std::pair<std::string, std::string>>* map_;
  std::unordered_set<std::string> names_, seen_;
  place where_ = place::outside;
  bool is_map_ = false;
};

}  // namespace detail

//! The tensors that an index lists: (tensor's name, file's name), in the index's order. Everything else in it is stepped over.
inline file_status read_index(bytes file, std::vector<std::pair<std::string, std::string>>& map) {
  map.clear();
  const std::string_view text = detail::text(file);
  if (text.size() > safetensors::longest_header)
    return detail::refuse(file_rule::header_too_large, "an index must have at most 100,000,000 bytes", 0, {}, text.size(),
                          safetensors::longest_header);
  if (text.empty()) return detail::refuse(file_rule::truncated, "the index is empty", 0);
  if (auto s = detail::check_json_text(text, 0, safetensors::deepest); !s) return s;
  file_status s = detail::parse_json<detail::index_events>(text, 0, &map);
  if (!s) map.clear();
  return s;
}

//! One model in one or several files, mapped as long as this lives. Moving it leaves every tensor where it is.
class safetensors_model {
 public:
  //! Opens a file *.safetensors, or an index *.json and the shards it names, beside it. Every tensor of the index must be in
  //! its shard; tensors that no index lists are not found here. After a refusal there are no tensors; a refusal's key is the
  //! name of the shard where opening it or reading its header failed.
  file_status open(const char* path) {
    *this = {};
    file_status s = open_all(path);
    if (!s) *this = {};
    return s;
  }

  //! The tensor of this name, or null.
  const tensor* find(std::string_view name) const {
    const auto at = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                     [](const tensor* t, std::string_view n) { return std::string_view(t->name) < n; });
    return at != tensors_.end() && (*at)->name == name ? *at : nullptr;
  }
  const std::vector<const tensor*>& tensors() const { return tensors_; }  //!< by name
  std::size_t files() const { return shards_.size(); }

 private:
  struct shard {
    std::string name;
    mapped_file file;
    safetensors header;
  };

  file_status add(const std::string& name, const std::string& path) {
    shard& s = shards_.emplace_back();
    s.name = name;
    if (auto why = s.file.open(path.c_str()); !why) return why;
    auto why = s.header.read(s.file.data());
    return why ? why : named(why, name);
  }
  static file_status named(const file_status& why, const std::string& shard_name) {
    if (why.key[0] != '\0') return why;
    return detail::refuse(why.rule, why.why.what, why.offset, shard_name, std::uint64_t(why.why.got), std::uint64_t(why.why.need));
  }

  file_status open_all(const char* path) {
    const std::string_view name = path == nullptr ? std::string_view{} : std::string_view(path);
    if (!name.ends_with(".json")) {
      mapped_file probe;  // the sentence about a null path is mapped_file's
      if (path == nullptr) return probe.open(path);
      if (auto s = add(std::string(name), std::string(name)); !s) return s;
      for (const tensor& t : shards_.back().header.tensors()) tensors_.push_back(&t);
      std::sort(tensors_.begin(), tensors_.end(), [](const tensor* a, const tensor* b) { return a->name < b->name; });
      return {};
    }
    mapped_file index;
    std::vector<std::pair<std::string, std::string>> map;
    if (auto s = index.open(path); !s) return s;
    if (auto s = read_index(index.data(), map); !s) return s;
    const std::size_t slash = name.rfind('/');
    const std::string folder(slash == std::string_view::npos ? std::string_view{} : name.substr(0, slash + 1));

    std::vector<std::string> files;
    for (const auto& [tensor_name, file] : map) files.push_back(file);
    std::sort(files.begin(), files.end());
    files.erase(std::unique(files.begin(), files.end()), files.end());
    shards_.reserve(files.size());
    for (const std::string& file : files)
      if (auto s = add(file, folder + file); !s) return s;
    for (const auto& [tensor_name, file] : map) {
      const auto at =
          std::lower_bound(shards_.begin(), shards_.end(), file, [](const shard& s, const std::string& n) { return s.name < n; });
      const tensor* t = at->header.find(tensor_name);
      if (t == nullptr)
        return detail::refuse(file_rule::missing_tensor, "the index names a tensor that its shard does not hold", 0, tensor_name);
      tensors_.push_back(t);
    }
    std::sort(tensors_.begin(), tensors_.end(), [](const tensor* a, const tensor* b) { return a->name < b->name; });
    return {};
  }

  std::vector<shard> shards_;
  std::vector<const tensor*> tensors_;
};

}  // namespace smalti::inline SMALTI_DATA::io
