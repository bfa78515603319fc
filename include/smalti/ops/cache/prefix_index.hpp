// Which page holds the keys and values of which tokens: full pages found again by their content.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! 64 bits of a run of tokens and what went before it: multiply and shift, each token in turn.
struct content_hash {
  std::uint64_t operator()(std::uint64_t before, const std::int32_t* tokens, int count) const {
    std::uint64_t h = mixed(before ^ 0x9e3779b97f4a7c15u);
    for (int i = 0; i < count; ++i) h = mixed(h ^ std::uint32_t(tokens[i]));
    return h;
  }
  static constexpr std::uint64_t mixed(std::uint64_t x) {
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
  }
};

//! A hash table of published pages. A page's content is the token ids in it and the *prefix* they follow, a number that
//! stands for all tokens before it: equal numbers, equal prefixes. Publishing a page gives it a number of its own, which
//! is the prefix of the page after it. Numbers are never used twice, so a number whose page was overwritten finds nothing.
//! What the hash brings together is compared token by token: a collision costs time and never shares a page.
//!
//! @tparam Hash  std::uint64_t(prefix, tokens, count)
template <class Hash = content_hash>
class prefix_index {
public:
  static constexpr int none = -1;
  static std::size_t bytes(int pages, int page) {
    carver count;
    lay_out(count, pages, page);
    return count.used;
  }

  status attach(int pages, int page, workspace memory) {
    if (const status bad = check_workspace(memory, bytes(pages, page)); !bad) return bad;
    carver carve{memory.data};
    const parts p = lay_out(carve, pages, page);
    entries_ = p.entries, buckets_ = p.buckets, tokens_ = p.tokens;
    page_ = page, mask_ = bucket_count(pages) - 1, published_ = 0, numbers_ = 0;
    for (int i = 0; i < pages; ++i) entries_[i] = {};
    for (int i = 0; i <= mask_; ++i) buckets_[i] = none;
    return {};
  }

  //! The token ids of a page, in the order of its slots; written by whoever holds it alone.
  std::int32_t* tokens(int page) { return tokens_ + std::ptrdiff_t(page) * page_; }
  const std::int32_t* tokens(int page) const { return tokens_ + std::ptrdiff_t(page) * page_; }
  //! Whether find() can give this page.
  bool published(int page) const { return entries_[page].listed; }
  //! The number of the prefix that ends with this page; 0 before it is published.
  std::uint64_t prefix_of(int page) const { return entries_[page].number; }
  int published() const { return published_; }

  //! The page that holds these tokens behind this prefix; none.
  int find(std::uint64_t prefix, const std::int32_t* tokens) const {
    for (int p = buckets_[bucket(prefix, tokens)]; p != none; p = entries_[p].next) {
      bool same = entries_[p].prefix == prefix;
      for (int i = 0; same && i < page_; ++i) same = this->tokens(p)[i] == tokens[i];
      if (same) return p;
    }
    return none;
  }
  //! Lists a full page. Where another page has the same content, that one stays listed and this one only learns the number.
  void publish(std::uint64_t prefix, int page) {
    entry& e = entries_[page];
    if (const int twin = find(prefix, tokens(page)); twin != none) {
      e.number = entries_[twin].number;
      return;
    }
    int& first = buckets_[bucket(prefix, tokens(page))];
    e = {prefix, ++numbers_, first, true};
    first = page;
    ++published_;
  }
  //! The page is about to be overwritten: it is found no more.
  void withdraw(int page) {
    entry& e = entries_[page];
    if (e.listed) {
      int* at = &buckets_[bucket(e.prefix, tokens(page))];
      while (*at != page) at = &entries_[*at].next;
      *at = e.next;
      --published_;
    }
    e = {};
  }

  //! Walks the table: every listed page is found in its bucket once, and nothing else.
  status audit(int pages) const {
    int seen = 0, listed = 0;
    for (int b = 0; b <= mask_; ++b)
      for (int p = buckets_[b]; p != none; p = entries_[p].next, ++seen)
        if (p < 0 || p >= pages || seen >= pages || !entries_[p].listed || bucket(entries_[p].prefix, tokens(p)) != b)
          return {errc::bad_value, "prefix index: a bucket holds a page that does not belong there", p, b};
    for (int p = 0; p < pages; ++p) listed += entries_[p].listed;
    return seen == listed && seen == published_ ? status{} : status{errc::bad_value, "prefix index: other pages are listed than are counted", seen, published_};
  }

private:
  struct entry {
    std::uint64_t prefix = 0, number = 0;
    int next = none;
    bool listed = false;
  };
  struct parts { entry* entries; int* buckets; std::int32_t* tokens; };
  static constexpr int bucket_count(int pages) {
    int n = 1;
    while (n < pages && n < 1 << 30) n *= 2;
    return n;
  }
  static parts lay_out(carver& carve, int pages, int page) {
    parts p{};
    p.entries = carve.take<entry>(std::size_t(pages));
    p.buckets = carve.take<int>(std::size_t(bucket_count(pages)));
    p.tokens = carve.take<std::int32_t>(std::size_t(pages) * page);
    return p;
  }
  int bucket(std::uint64_t prefix, const std::int32_t* tokens) const { return int(Hash{}(prefix, tokens, page_) & std::uint64_t(mask_)); }

  entry* entries_ = nullptr;
  int* buckets_ = nullptr;
  std::int32_t* tokens_ = nullptr;
  int page_ = 0, mask_ = 0, published_ = 0;
  std::uint64_t numbers_ = 0;
};

}  // namespace smalti::inline SMALTI_CODE::cache
