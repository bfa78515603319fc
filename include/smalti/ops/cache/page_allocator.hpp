// Which pages of a pool are whose. Each page is free, or held by one or more holders: never both, never neither.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! Reference counts and a queue of free pages, in memory of the caller's. Every call is O(1) save attach and audit.
//! Host only, one thread at a time.
//!
//! Free pages leave at the front of the queue. Those whose content nobody can find again enter at the front, those that
//! may be revived at the back, so that the pages freed longest ago are overwritten first.
class page_allocator {
public:
  static constexpr int none = -1;

  //! Bytes of metadata: 12 a page.
  static std::size_t bytes(int pages) {
    carver count;
    count.take<links>(pages > 0 ? std::size_t(pages) + 1 : 1);
    return count.used;
  }

  page_allocator() = default;
  page_allocator(const page_allocator&) = delete;
  page_allocator& operator=(const page_allocator&) = delete;

  //! All `pages` free, in their order. What was held before is forgotten.
  status attach(int pages, workspace memory) {
    if (pages < 1) return {errc::bad_shape, "pages must be at least 1: it counts the pages of the pool", pages, 1};
    if (const status bad = check_workspace(memory, bytes(pages)); !bad) return bad;
    carver carve{memory.data};
    at_ = carve.take<links>(std::size_t(pages) + 1);
    pages_ = free_ = pages;
    for (int p = 0; p <= pages; ++p) at_[p] = {p == 0 ? pages : p - 1, p == pages ? 0 : p + 1, 0};   // entry `pages` is both ends of the ring
    return {};
  }

  int pages() const { return pages_; }
  int free_pages() const { return free_; }
  //! Holders of a page; 0: free. @pre 0 <= page < pages()
  int holders(int page) const { return at_[page].holders; }
  //! The free page that take() gives next, and the one after `page`; `none` at the end. @pre page is free
  int next_free() const { return end_or(at_[pages_].after); }
  int next_free(int page) const { return end_or(at_[page].after); }

  //! The page at the front of the queue, held once; `none` where all are held.
  int take() {
    const int page = next_free();
    if (page == none) return none;
    unlink(page);
    at_[page].holders = 1;
    return page;
  }
  //! One holder more. A free page leaves the queue: its content is wanted again.
  status hold(int page) {
    if (const status bad = check(page); !bad) return bad;
    if (at_[page].holders == 0) unlink(page);
    ++at_[page].holders;
    return {};
  }
  //! One holder less; the last one frees the page. `revivable`: its content can still be found.
  status drop(int page, bool revivable = false) {
    if (const status bad = check(page); !bad) return bad;
    if (at_[page].holders == 0) return {errc::bad_value, "page: nobody holds it: it was freed before", page, 0};
    if (--at_[page].holders == 0) link(page, revivable ? at_[pages_].before : pages_);
    return {};
  }

  //! Walks everything: the queue is one ring of exactly the pages without holders.
  status audit() const {
    int seen = 0;
    for (int p = at_[pages_].after, before = pages_; ; before = p, p = at_[p].after) {
      if (p < 0 || p > pages_ || at_[p].before != before) return {errc::bad_value, "page allocator: the queue of free pages is broken", p, before};
      if (p == pages_) break;
      if (at_[p].holders != 0) return {errc::bad_value, "page allocator: a free page has holders", p, at_[p].holders};
      if (++seen > pages_) return {errc::bad_value, "page allocator: the queue of free pages has no end", seen, pages_};
    }
    if (seen != free_) return {errc::bad_value, "page allocator: the queue holds other than the counted free pages", seen, free_};
    for (int p = 0; p < pages_; ++p) {
      if (at_[p].holders < 0) return {errc::bad_value, "page allocator: a page has fewer than no holders", at_[p].holders, 0};
      seen += at_[p].holders > 0;
    }
    return seen == pages_ ? status{} : status{errc::bad_value, "page allocator: a page is neither free nor held", seen, pages_};
  }

private:
  struct links { int before, after, holders; };

  status check(int page) const {
    if (page >= 0 && page < pages_) return {};
    return {errc::bad_value, "page: not below the number of pages in the pool", page, pages_};
  }
  int end_or(int page) const { return page == pages_ ? none : page; }
  void unlink(int page) {
    at_[at_[page].before].after = at_[page].after;
    at_[at_[page].after].before = at_[page].before;
    --free_;
  }
  void link(int page, int before) {       // behind `before`
    const int after = at_[before].after;
    at_[page].before = before, at_[page].after = after;
    at_[before].after = at_[after].before = page;
    ++free_;
  }

  links* at_ = nullptr;
  int pages_ = 0, free_ = 0;
};

}  // namespace smalti::inline SMALTI_CODE::cache
