// From one layout of a batch to another: one all-to-all, whatever the two are. Sequence parallelism's exchange of tokens for heads and
// back (Ulysses), a ring's zigzag made of contiguous shares, the switch between a model's dimensions: all are this.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>
#include <smalti/comm/executor.hpp>
#include <smalti/comm/layout.hpp>
#include <smalti/core/workspace.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! How rows of columns lie on ranks: rows dealt out by a layout, every rank with all columns; or all rows everywhere, rank r with
//! its part of the columns. Columns are blocks that stay together: heads.
struct sharding {
  token_layout rows{};
  bool by_columns = false;
  //! The columns of a rank. Fewer columns than ranks: a column on several ranks in turn.
  constexpr std::int64_t first_column(std::int64_t columns, int r) const { return by_columns ? columns * r / rows.ranks : 0; }
  constexpr std::int64_t columns_of(std::int64_t columns, int r) const {
    if (!by_columns) return columns;
    const std::int64_t n = columns * (r + 1) / rows.ranks - first_column(columns, r);
    return n == 0 && columns > 0 ? 1 : n;
  }
  constexpr std::int64_t rows_of(std::int64_t n, int r) const { return by_columns ? n : rows.share(n, r); }
  constexpr std::int64_t token(std::int64_t n, int r, std::int64_t i) const { return by_columns ? i : rows.token(n, r, i); }
};
constexpr sharding by_rows(const token_layout& l) { return {l, false}; }
constexpr sharding by_columns(int ranks) { return {contiguous(ranks), true}; }

//! What a reshard is given: a batch of sequences, rows of `columns` blocks of `block` bytes, row after row and sequence after sequence.
struct reshard_args {
  sharding from{}, to{};
  const int* lengths = nullptr;             //!< [sequences] tokens of each, the same on all ranks
  int sequences = 0;
  std::int64_t columns = 1, block = 1;
  const std::byte* input = nullptr;         //!< this rank's rows by `from`
  std::byte* output = nullptr;              //!< this rank's rows by `to`
  std::uint32_t operation = 0;
  nanoseconds timeout = 60'000'000'000;
  bool agree = true;
};

//! One reshard after another of one rank: start(...) and advance(), or run(...). Bytes leave as they came in: output token t column c is
//! input token t column c. Each rank sends each of its blocks once to each rank that wants it; what stays is copied.
//! Memory: workspace_bytes, about the input and the output once more.
template <class Net> class reshard {
  static_assert(explain_transport<Net>());

 public:
  explicit reshard(Net& net) : net_(&net), exchange_(net) {}

  status check(const reshard_args& x) const {
    if (const status bad = first_bad(x.from.rows.check(), x.to.rows.check()); !bad) return bad;
    if (x.from.rows.ranks != net_->size() || x.to.rows.ranks != net_->size()) return {errc::bad_shape, "from, to: ranks must be the transport's size", x.from.rows.ranks, net_->size()};
    if (x.sequences < 0 || x.columns < 0) return {errc::bad_shape, "sequences and columns must not be negative", x.sequences < 0 ? x.sequences : x.columns, 0};
    if (x.block < 1 || x.block > 2147483647) return {errc::bad_value, "block must be at least 1 byte, at most 2^31 - 1", x.block, 1};
    if (x.sequences > 0 && x.lengths == nullptr) return {errc::null_pointer, "lengths is null: it needs the tokens of each sequence", 0, x.sequences};
    for (int s = 0; s < x.sequences; ++s)
      if (x.lengths[s] < 0) return {errc::bad_shape, "lengths must not be negative", x.lengths[s], 0};
    const int ranks = net_->size(), rank = net_->rank();
    if (x.from.by_columns && x.columns < ranks && x.columns > 0) return {errc::bad_shape, "from: fewer columns than ranks lie on several ranks each, so whose is sent is not said: reduce them first", x.columns, ranks};
    if (x.from.by_columns && x.to.by_columns) return {errc::bad_value, "from and to are both by columns: nothing would move"};
    const std::int64_t in = held(x, x.from, rank), out = held(x, x.to, rank);
    if (in > 0 && x.input == nullptr) return {errc::null_pointer, "input is null"};
    if (out > 0 && x.output == nullptr) return {errc::null_pointer, "output is null"};
    if (in > 0 && out > 0 && x.input < x.output + out * x.block && x.output < x.input + in * x.block) return {errc::aliased, "output overlaps input: a reshard needs two arrays"};
    return {};
  }
  //! From sizes and layouts alone. (Counts in a table of its own, of the number of ranks.)
  std::size_t workspace_bytes(const reshard_args& x) const {
    if (!check(x)) return 0;
    const int ranks = net_->size();
    std::vector<std::int64_t> offsets(std::size_t(ranks) * 2 + 2);
    count(x, offsets.data(), offsets.data() + ranks + 1);
    // Addresses that are not null and apart are all that counting asks of memory; nothing is read.
    const auto somewhere = [](int bit) { return reinterpret_cast<std::byte*>(std::uintptr_t(1) << bit); };
    const arguments<bytes> a = exchange_args(x, offsets.data(), offsets.data() + ranks + 1, somewhere(45), somewhere(46));
    const pairwise s(ranks);
    return lay_out(x, offsets.data(), offsets.data() + ranks + 1, nullptr).used + exchange_.workspace_bytes(s, a);
  }

  status start(const reshard_args& x, workspace memory) {
    state_ = progress::failed;
    if (failure_ = check(x); !failure_) return failure_;
    if (failure_ = check_workspace(memory, workspace_bytes(x)); !failure_) return failure_;
    x_ = x;
    const int ranks = net_->size();
    carver c{memory.data};
    std::int64_t* sizes = c.take<std::int64_t>(std::size_t(ranks) * 2 + 2);
    count(x, sizes, sizes + ranks + 1);
    p_ = lay_out(x, sizes, sizes + ranks + 1, memory.data);
    ::new (p_.schedule) pairwise(ranks);
    pack();
    arguments<bytes> a = exchange_args(x, sizes, sizes + ranks + 1, p_.leaving, p_.coming);
    failure_ = exchange_.start(*p_.schedule, a, {memory.data + p_.used, memory.size - p_.used});
    if (failure_) state_ = progress::blocked;
    return failure_;
  }
  progress advance() {
    if (state_ != progress::blocked) return state_;
    const progress p = exchange_.advance();
    if (p == progress::failed) failure_ = exchange_.failure();
    if (p == progress::done) unpack();
    return state_ = p;
  }
  const status& failure() const { return failure_; }
  nanoseconds deadline() const { return exchange_.deadline(); }
  void abort() {
    exchange_.abort();
    advance();
  }
  status run(const reshard_args& x, workspace memory) {
    if (const status bad = start(x, memory); !bad) return bad;
    while (advance() == progress::blocked) net_->idle(deadline());
    return failure_;
  }

 private:
  struct places {
    std::int64_t *sizes, *cursor;
    pairwise* schedule;
    std::byte *leaving, *coming;
    std::size_t used;
  };
  static status first_bad(status a, status b) { return !a ? a : b; }
  // Blocks of a rank.
  static std::int64_t held(const reshard_args& x, const sharding& s, int r) {
    std::int64_t rows = 0;
    for (int q = 0; q < x.sequences; ++q) rows += s.rows_of(x.lengths[q], r);
    return rows * s.columns_of(x.columns, r);
  }
  struct columns { std::int64_t first, last; };
  // The columns that go from one rank to another.
  static columns shared(const reshard_args& x, int from, int to) {
    const std::int64_t a = x.from.first_column(x.columns, from), b = x.to.first_column(x.columns, to);
    const std::int64_t last = std::min(a + x.from.columns_of(x.columns, from), b + x.to.columns_of(x.columns, to)), first = std::max(a, b);
    return {first, std::max(first, last)};
  }
  // Calls f(other, local row, columns) for each row of mine and each rank that it goes to (of: to) or comes from (of: from), rows ascending.
  template <class F> void each(const reshard_args& x, bool leaving, F f) const {
    const sharding &mine = leaving ? x.from : x.to, &theirs = leaving ? x.to : x.from;
    const int ranks = net_->size(), rank = net_->rank();
    std::int64_t row = 0;
    for (int s = 0; s < x.sequences; ++s) {
      const std::int64_t n = x.lengths[s], here = mine.rows_of(n, rank);
      for (std::int64_t i = 0; i < here; ++i, ++row) {
        const int owner = theirs.by_columns ? 0 : theirs.rows.owner(n, mine.token(n, rank, i));
        for (int r = theirs.by_columns ? 0 : owner; r < (theirs.by_columns ? ranks : owner + 1); ++r) f(r, row, leaving ? shared(x, rank, r) : shared(x, r, rank));
      }
    }
  }
  // Where the blocks for and from each rank begin.
  void count(const reshard_args& x, std::int64_t* to, std::int64_t* from) const {
    const int ranks = net_->size();
    std::fill(to, to + ranks + 1, 0), std::fill(from, from + ranks + 1, 0);
    each(x, true, [&](int r, std::int64_t, columns c) { to[r + 1] += c.last - c.first; });
    each(x, false, [&](int r, std::int64_t, columns c) { from[r + 1] += c.last - c.first; });
    for (int r = 0; r < ranks; ++r) to[r + 1] += to[r], from[r + 1] += from[r];
  }
  places lay_out(const reshard_args& x, const std::int64_t* to, const std::int64_t* from, std::byte* base) const {
    const int ranks = net_->size();
    carver c{base};
    places p{};
    p.sizes = c.take<std::int64_t>(std::size_t(ranks) * 2 + 2), p.cursor = c.take<std::int64_t>(std::size_t(ranks));
    p.schedule = c.take<pairwise>(1);
    p.leaving = c.take<std::byte>(std::size_t(to[ranks] * x.block)), p.coming = c.take<std::byte>(std::size_t(from[ranks] * x.block));
    p.used = (c.used + carver::alignment - 1) / carver::alignment * carver::alignment;
    return p;
  }
  static arguments<bytes> exchange_args(const reshard_args& x, const std::int64_t* to, const std::int64_t* from, const std::byte* leaving, std::byte* coming) {
    return {.input = leaving, .output = coming, .items = to[x.from.rows.ranks], .combine = {int(x.block)}, .offsets = to, .output_offsets = from, .operation = x.operation, .timeout = x.timeout, .agree = x.agree};
  }
  void pack() {
    std::copy(p_.sizes, p_.sizes + net_->size(), p_.cursor);
    const std::int64_t wide = x_.from.columns_of(x_.columns, net_->rank()), first = x_.from.first_column(x_.columns, net_->rank());
    each(x_, true, [&](int r, std::int64_t row, columns c) {
      const std::int64_t n = c.last - c.first;
      if (n > 0) std::memcpy(p_.leaving + p_.cursor[r] * x_.block, x_.input + (row * wide + c.first - first) * x_.block, std::size_t(n * x_.block));
      p_.cursor[r] += n;
    });
  }
  void unpack() {
    const std::int64_t* from = p_.sizes + net_->size() + 1;
    std::copy(from, from + net_->size(), p_.cursor);
    const std::int64_t wide = x_.to.columns_of(x_.columns, net_->rank()), first = x_.to.first_column(x_.columns, net_->rank());
    each(x_, false, [&](int r, std::int64_t row, columns c) {
      const std::int64_t n = c.last - c.first;
      if (n > 0) std::memcpy(x_.output + (row * wide + c.first - first) * x_.block, p_.coming + p_.cursor[r] * x_.block, std::size_t(n * x_.block));
      p_.cursor[r] += n;
    });
  }

  Net* net_;
  execution<bytes, Net> exchange_;
  reshard_args x_{};
  places p_{};
  progress state_ = progress::failed;
  status failure_;
};

}  // namespace smalti::inline SMALTI_CODE::comm
