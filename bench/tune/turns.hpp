// What the host's tile shapes are timed with: one operation with several tunings, in turns, on one thread, so that the machine's
// changes of clock meet all of them. bench/tune_gpu.py --machine host compiles a case with -DKIND (the tuning's type) and -DSHAPES
// (tunings in braces, the present one first) and reads the line it prints.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <smalti/core/context.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <utility>
#include <vector>

namespace turns {

inline constexpr smalti::KIND shapes[] = {SHAPES};
constexpr int shape_count = int(sizeof(shapes) / sizeof(shapes[0]));

//! A selector. Some families ask with a regime, some without.
template <int I> struct shape {
  template <class... Regime> constexpr smalti::KIND operator()(smalti::target, Regime...) const { return shapes[I]; }
};

//! `count` elements on pages of 2 MiB where there are any, filled with small numbers: copies of one buffer one after another.
template <class T> class memory {
 public:
  explicit memory(std::size_t count, std::size_t copies = 1) : count_(count), copies_(copies) {
    const std::size_t huge = std::size_t(1) << 21, bytes = (count * copies * sizeof(T) + 256 + huge) / huge * huge;
    data_ = static_cast<T*>(std::aligned_alloc(huge, bytes));
    if (data_ == nullptr) std::abort();
    madvise(data_, bytes, MADV_HUGEPAGE);
    std::memset(static_cast<void*>(data_), 0, bytes);
    std::uint32_t state = 1;
    for (std::size_t i = 0; i < count; ++i) {
      state = state * 1664525u + 1013904223u;
      const int v = int(state >> 24) % 7 - 3;
      if constexpr (std::is_integral_v<T>) data_[i] = T(v);
      else if constexpr (sizeof(T) > 1) data_[i] = smalti::narrow<T>(float(v) / 4);
    }
    for (std::size_t c = 1; c < copies; ++c) std::memcpy(static_cast<void*>(data_ + c * count), data_, count * sizeof(T));
  }
  ~memory() { std::free(data_); }
  memory(const memory&) = delete;
  memory& operator=(const memory&) = delete;
  T* data() const { return data_; }
  //! The copy whose last use is the longest ago: from memory, where the copies are larger than the caches.
  T* next() { return data_ + turn_++ % copies_ * count_; }

 private:
  std::size_t count_, copies_, turn_ = 0;
  T* data_ = nullptr;
};

inline void demand(const smalti::status& st) {
  if (st) return;
  std::printf("%s", st.what);
  std::exit(1);
}

//! A workspace of its own for each tuning.
class space {
 public:
  explicit space(std::size_t bytes) : bytes_(bytes), memory_(bytes / sizeof(float) + 64) {}
  operator smalti::workspace() { return {reinterpret_cast<std::byte*>(memory_.data()), bytes_}; }

 private:
  std::size_t bytes_;
  memory<float> memory_;
};

template <class Run> double milliseconds(Run& run, int repeat) {
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < repeat; ++i) run();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count() / repeat;
}

inline double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

//! Prints the median time of each and its speed beside the first: the median of the rounds' ratios.
inline void compare(std::vector<std::function<void()>> subjects) {
  constexpr int rounds = 15;
  constexpr double least = 8;      // milliseconds of a sample
  for (auto& run : subjects) run();
  const int repeat = std::max(1, int(least / std::max(1e-4, milliseconds(subjects[0], 2))));
  std::vector<std::vector<double>> times(subjects.size());
  for (int round = 0; round < rounds; ++round)
    for (std::size_t turn = 0; turn < subjects.size(); ++turn) {
      const std::size_t s = (turn + std::size_t(round)) % subjects.size();   // nobody always follows the same neighbour
      times[s].push_back(milliseconds(subjects[s], repeat));
    }
  for (std::size_t s = 0; s < subjects.size(); ++s) {
    std::vector<double> ratio;
    for (int round = 0; round < rounds; ++round) ratio.push_back(times[0][std::size_t(round)] / times[s][std::size_t(round)]);
    std::printf("%s{\"ms\": %.4f, \"speed\": %.4f}", s == 0 ? "[" : ", ", median(times[s]), median(ratio));
  }
  std::printf("]\n");
}

//! make(selector) for every shape.
template <class Make> void compare_all(Make make) {
  std::vector<std::function<void()>> subjects;
  [&]<int... I>(std::integer_sequence<int, I...>) { (subjects.emplace_back(make(shape<I>{})), ...); }(std::make_integer_sequence<int, shape_count>{});
  compare(std::move(subjects));
}

}  // namespace turns
