// Tiles and operands of the host machine. A tile is an aligned array on the block's own stack. An operand of
// a product is a panel: the left one rows, the right one `4 / sizeof(storage)` rows interleaved, so that one
// 32-bit word of a column is what one lane of an inner product takes. A left panel that lies in memory as it
// should is used where it lies; a right panel is packed once by a thread and kept for its next blocks.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <type_traits>
#include <smalti/core/float.hpp>
#include <smalti/tile/host/dot.hpp>
#include <smalti/tile/host/lanes.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::host {

template <class T, int R, int C>
struct array_tile {
  using element = T;
  static constexpr int rows = R, cols = C;
  static_assert(C % lane_count == 0, "smalti: the host machine needs tile widths in multiples of 16: choose another tile in the tuning");
  alignas(64) T v[R][C];
};
template <class T, int R>
struct array_column {
  using element = T;
  static constexpr int rows = R, cols = 1;
  alignas(64) T v[(R + lane_count - 1) / lane_count * lane_count];   // whole packs: maps and reads run over the padding
};
template <class T, int C>
struct array_row {
  using element = T;
  static constexpr int rows = 1, cols = C;
  static_assert(C % lane_count == 0, "smalti: the host machine needs tile widths in multiples of 16: choose another tile in the tuning");
  alignas(64) T v[C];
};

// What an operand of element T is held as: bf16 where that is exact, 8-bit integers as they are, else float.
template <class T> struct storage_of { using type = bf16; };
template <> struct storage_of<float> { using type = float; };
template <> struct storage_of<fp16> { using type = float; };
template <> struct storage_of<tf32> { using type = float; };
template <> struct storage_of<std::int8_t> { using type = std::int8_t; };

// Right panels that a thread keeps from block to block, in memory the op carved from its workspace. A ring:
// a new panel is written at the head over the oldest ones, but never over one that is in use, and a small
// table finds the panels that are still whole.
class panel_store {
public:
  struct key {
    const void* data = nullptr;
    int rows = 0, cols = 0, stride = 0, i = 0, j = 0;                            // the matrix, and which tile of it
    int form = 0, panel_rows = 0, panel_cols = 0, per_word = 0;                  // plain or transposed, and how it is packed
    bool operator==(const key&) const = default;
  };

  panel_store() : panel_store(nullptr, 0) {}
  panel_store(std::byte* memory, std::size_t bytes) : memory_(memory), capacity_(bytes / 64 * 64) {
    // An entry for each 8 KiB: lists of blocks come back to panels in any order, and the table must know all that the memory holds.
    while (sets_ < most_sets && capacity_ > std::size_t(sets_) * ways * 8192) sets_ *= 2;
    for (unsigned i = 0; i < sets_ * ways; ++i) ::new (static_cast<void*>(table_ + i)) entry{}, marks_[i] = 0;
  }

  //! The panel of this key if it is still there, else null. What it returns is in use until release().
  const std::byte* find(const key& k) {
    const entry*& last = recent_[k.form & 1];               // the next strip of rows asks for the same one
    if (last != nullptr && last->what == k && alive(*last)) return found(*last);
    const std::uint64_t h = hash(k);
    const unsigned first = set(h);
    for (unsigned i = first; i < first + ways; ++i)
      if (marks_[i] == mark(h) && table_[i].what == k && alive(table_[i])) {
        last = table_ + i;
        return found(table_[i]);
      }
    return nullptr;
  }
  //! Room for a new panel, in use until release(), or null where there is none to be had.
  std::byte* make(const key& k, std::size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (bytes > capacity_ && !mutant(defect::panel_too_large_accepted)) return nullptr;
    std::uint64_t begin = head_;
    if (begin % capacity_ + bytes > capacity_ && !mutant(defect::panel_runs_off_the_end)) begin += capacity_ - begin % capacity_;
    if (users_ != 0 && begin + bytes - oldest_ > capacity_ && !mutant(defect::panel_overwrites_one_in_use)) return nullptr;
    head_ = begin + bytes;
    const std::uint64_t h = hash(k);
    entry* place = table_ + set(h);                  // of one that is gone, else of the oldest
    for (entry* e = place, *end = e + ways; e < end; ++e) {
      if (e->what == k || !alive(*e)) {
        place = e;
        break;
      }
      if (e->begin < place->begin) place = e;
    }
    *place = {k, begin, head_};
    marks_[place - table_] = mark(h);
    use(begin);
    return memory_ + begin % capacity_;
  }
  void release() { --users_; }

private:
  struct entry {
    key what;
    std::uint64_t begin = 0, end = 0;
  };
  // Sets of a few: where each place had one entry, two panels that fall on it would drive each other out at every
  // visit, and each new copy moves the head on over panels that are wanted.
  static constexpr unsigned most_sets = 512, ways = 8;
  bool alive(const entry& e) const { return e.end != 0 && (head_ - e.begin <= capacity_ || mutant(defect::panel_found_after_eviction)); }
  static std::uint64_t hash(const key& k) {
    std::uint64_t h = reinterpret_cast<std::uintptr_t>(k.data) >> 4;
    for (std::uint64_t x : {std::uint64_t(unsigned(k.i)), std::uint64_t(unsigned(k.j)), std::uint64_t(unsigned(k.form)),
                            std::uint64_t(unsigned(k.panel_rows)), std::uint64_t(unsigned(k.panel_cols))})
      h = (h ^ x) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
    return h;
  }
  unsigned set(std::uint64_t h) const { return unsigned(h % sets_) * ways; }
  static std::uint32_t mark(std::uint64_t h) { return std::uint32_t(h >> 32) | 1; }
  const std::byte* found(const entry& e) {
    use(e.begin);
    return memory_ + e.begin % capacity_;
  }
  void use(std::uint64_t begin) {
    if (users_ == 0 || begin < oldest_) oldest_ = begin;
    ++users_;
  }

  std::byte* memory_ = nullptr;
  std::size_t capacity_ = 0;
  std::uint64_t head_ = 0, oldest_ = 0;
  int users_ = 0;
  unsigned sets_ = 128;
  const entry* recent_[2] = {};
  std::uint32_t marks_[most_sets * ways];                  // of the hash: a table of many entries is not in the near caches
  union {                                                  // as many as there are sets of are begun
    entry table_[most_sets * ways];
  };
};

// `live` rows and `depth` columns came from memory; the product skips the rest, which count as zero.
template <class T, int R, int K>
struct left_panel {
  using element = T;
  using storage = typename storage_of<T>::type;
  static constexpr int rows = R, cols = K;
  const storage* data = nullptr;
  std::int64_t stride = K;
  int live = R, depth = K;
  static constexpr int per_word = 4 / int(sizeof(storage));
  // Operands of float products that would have to be turned lie across instead: [R / 16][k][16], pieces of rows as they are in memory.
  // The inner product takes either, and copying costs less than turning.
  static constexpr bool may_lie_across = std::is_same_v<T, tf32> && R % lane_count == 0;
  bool across = false;                             // then `stride` is from sixteen rows to the next
  panel_store* kept = nullptr;                     // where `data` lies, if it is a turned panel that is kept
  // Rows of a kept panel are a cache line apart from a power of two: sixteen of them are written at a time, and would
  // otherwise crowd into one or two sets of the first-level cache.
  static constexpr int line = K * int(sizeof(storage)) % 1024 == 0 ? K + 64 / int(sizeof(storage)) : K;
  using array = storage[R][may_lie_across ? K : line];
  alignas(64) storage own[R][K];
  left_panel() {}                                  // `own` stays as it is: filling it would cost more than the product
  left_panel(const left_panel&) = delete;
  ~left_panel() { drop(); }
  void drop() {
    if (kept) kept->release();
    kept = nullptr;
  }
};

// acc += the columns of a from `first` on, whichever way it lies, times `right`: dot (dot.hpp).
template <class T, int R, int K>
void dot_left(float* acc, std::int64_t acc_stride, const left_panel<T, R, K>& a, std::int64_t stride, int first, const typename left_panel<T, R, K>::storage* right, std::int64_t right_width, int cols,
              int k) {
  if constexpr (left_panel<T, R, K>::may_lie_across)
    if (a.across) return dot_across(acc, acc_stride, a.data + first * lane_count, stride, right, right_width, a.live, cols, k);
  dot(acc, acc_stride, a.data + first, stride, right, right_width, a.live, cols, k);
}

template <class T, int K, int N>
struct right_panel {
  using element = T;
  using storage = typename storage_of<T>::type;
  static constexpr int rows = K, cols = N, per_word = 4 / int(sizeof(storage));
  // Columns of floats lie in strips: what the inner product works on at a time is then one piece of memory, which the
  // first-level cache can hold whole; rows of 256 columns would crowd into a quarter of its sets. (3 % faster for f32;
  // slower for words of bf16, which are copied.) For AMX words of bf16 lie in strips of two tiles, those of int8 in rows.
  static constexpr bool in_tiles = SMALTI_DOT_LEVEL >= 4 && per_word == 2 && N % 32 == 0;
  static constexpr int strip = (per_word == 1 || (per_word == 4 && SMALTI_DOT_LEVEL < 4)) && N % 64 == 0 ? 64 : in_tiles ? 32 : N;
  static_assert(K % per_word == 0 && N % lane_count == 0, "smalti: a right operand is packed in 32-bit words of rows and 16 columns");
  const storage* data = nullptr;
  int live = N, depth = K;                         // columns and rows that came from memory; the rest count as zero
  panel_store* kept = nullptr;                     // where `data` lies, if not in `own`
  using array = storage[N / strip][K / per_word][strip][per_word];
  alignas(64) array own;
  //! The word of row k and column n, in an array of this panel.
  static storage* at(array& out, int k, int n) { return &out[n / strip][k / per_word][n % strip][0]; }
  right_panel() {}
  right_panel(const right_panel&) = delete;
  ~right_panel() { drop(); }
  void drop() {
    if (kept) kept->release();
    kept = nullptr;
  }
};

// Factors of the rows of a scaled product: one for each row and group of k, the rows of a group together.
template <int R, int G> struct factor_array {
  using element = float;
  static constexpr int rows = R, cols = G, padded = (R + lane_count - 1) / lane_count * lane_count;
  alignas(64) float v[G][padded];
};

// Codes of N columns, [word][n]: 16 neighbouring columns are one vector. Used where they lie in memory. Of the last word tile of a
// panel only the rows in use are there.
template <int N, int Words>
struct packed_words {
  const std::uint32_t* data = nullptr;
  std::int64_t stride = 0;
  int rows = Words;
};

}  // namespace smalti::inline SMALTI_CODE::host
