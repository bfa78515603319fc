// Scratch memory is the caller's: an op says how much from sizes alone, and carves it at run time with the
// same function, so the two numbers cannot disagree.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <smalti/core/status.hpp>

namespace smalti::inline SMALTI_DATA {

//! Memory that an op may use until its work on the context is done. Needs no initial content.
struct workspace {
  std::byte* data = nullptr;
  std::size_t size = 0;
  constexpr workspace() = default;
  workspace(void* memory, std::size_t bytes) : data(static_cast<std::byte*>(memory)), size(bytes) {}
};

//! Lays arrays out one after another, each on a boundary of 256 bytes. With no base it only counts.
struct carver {
  static constexpr std::size_t alignment = 256;
  std::byte* base = nullptr;
  std::size_t used = 0;
  template <class T> T* take(std::size_t n) {
    used = (used + alignment - 1) / alignment * alignment;
    T* p = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += n * sizeof(T);
    return p;
  }
  //! As take; with no base an address of its own, which nobody reads: checks may then tell arrays apart.
  template <class T> T* place(std::size_t n) {
    T* p = take<T>(n);
    return p ? p : reinterpret_cast<T*>(std::uintptr_t(alignment) + (used - n * sizeof(T)));
  }
  //! Scratch of operations that run one after another: what the hungriest of them needs.
  workspace take_shared(std::initializer_list<std::size_t> needs) {
    std::size_t most = 0;
    for (const std::size_t need : needs) most = need > most ? need : most;
    return {take<std::byte>(most), most};
  }
};

inline status check_workspace(workspace w, std::size_t need) {
  if (need == 0) return {};
  if (w.data == nullptr)
    return {errc::workspace_too_small, "workspace is missing: allocate workspace_bytes(ctx, args)", 0, std::int64_t(need)};
  if (reinterpret_cast<std::uintptr_t>(w.data) % carver::alignment != 0)
    return {errc::misaligned, "workspace must begin on a boundary of 256 bytes",
            std::int64_t(reinterpret_cast<std::uintptr_t>(w.data) % carver::alignment), 0};
  if (w.size < need)
    return {errc::workspace_too_small, "workspace is smaller than workspace_bytes(ctx, args)", std::int64_t(w.size), std::int64_t(need)};
  return {};
}

}  // namespace smalti::inline SMALTI_DATA
