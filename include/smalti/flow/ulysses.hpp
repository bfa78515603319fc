// Attention by an exchange of tokens for heads: see ulysses below. docs/flow/context_parallel.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <smalti/comm/reshard.hpp>
#include <smalti/core/check_view.hpp>
#include <smalti/flow/rotate.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/policy/mask.hpp>

namespace smalti::inline SMALTI_CODE::flow {

//! o of context_parallel, by four exchanges and no merges: every rank gives its tokens of all heads and gets all tokens of its heads,
//! computes attention as one rank does, and the exchange is undone.
//!
//! @tparam T, D, Mask, ValueDim, Out  as in attention::flash
//! @pre   query heads are a multiple of the ranks; key heads are too, or divide them (each is then sent to several ranks). Rows are packed:
//!        ragged, [row][head][channel]
//! @post  the bits of attention::flash on one rank: a head is computed whole, by one rank
//! @note  bytes sent by a rank with n rows: (P - 1) / P n (H D + Hkv' (D + Dv) + H Dv) elements, Hkv' = max(Hkv, P); with lse 4 H more. It falls with
//!        1 / P for a sequence of one length, where a ring's stays; nothing hides it. Memory: workspace_bytes
//! @note  gradients: context_parallel_backward takes this o and lse as they are
//! Source: Jacobs et al. 2023, DeepSpeed-Ulysses, arXiv:2309.14509.
template <class T, int D, class Mask = policy::causal, int ValueDim = D, class Out = T>
struct ulysses {
  struct options : attention::options {
    static constexpr int value_dim = ValueDim;
    using out = Out;
  };
  using flash = attention::flash<T, D, attention::dense_kv<T>, Mask, options>;
  template <class U> using head_rows = attention::head_rows<U>;

  struct args {
    comm::token_layout layout{};              //!< of the tokens of every sequence, queries and keys alike
    const int* lengths = nullptr;             //!< [sequences] tokens of each
    head_rows<const T> q = {}, k = {}, v = {};
    head_rows<Out> o = {};
    head_rows<float> lse = {};                //!< null data: not wanted
    float scale = 0;
    Mask mask = {};
    std::uint32_t operation = 0;              //!< the first of `operations` numbers
    comm::nanoseconds timeout = 60'000'000'000;
    bool agree = true;
  };
  static constexpr std::uint32_t operations = 5;

  template <class Net> static status check(const Net& net, const args& x) {
    const int ranks = net.size(), rank = net.rank();
    if (const status bad = x.layout.check(); !bad) return bad;
    if (x.layout.ranks != ranks) return {errc::bad_shape, "layout: ranks must be the transport's size", x.layout.ranks, ranks};
    if (x.q.heads <= 0 || x.q.heads % ranks != 0) return {errc::bad_shape, "q: the query heads must be a multiple of the ranks: take a ring, or pad the heads", x.q.heads, ranks};
    if (x.k.heads <= 0 || x.q.heads % x.k.heads != 0) return {errc::bad_shape, "q: the query heads must be a multiple of the key heads", x.q.heads, x.k.heads};
    if (x.k.heads % ranks != 0 && ranks % x.k.heads != 0) return {errc::bad_shape, "k: the key heads must be a multiple of the ranks, or divide them: pad key heads first, and query heads in proportion", x.k.heads, ranks};
    if (x.v.heads != x.k.heads) return {errc::bad_shape, "v: needs the heads of k", x.v.heads, x.k.heads};
    if (x.q.sequences > 0 && x.lengths == nullptr) return {errc::null_pointer, "lengths is null: it needs the tokens of each sequence", 0, x.q.sequences};
    if (const status bad = first_of([&] { return check_packed<"q">(x, x.q, D, rank); }, [&] { return check_packed<"k">(x, x.k, D, rank); }, [&] { return check_packed<"v">(x, x.v, ValueDim, rank); },
                                    [&] { return check_packed<"o">(x, x.o, ValueDim, rank); }, [&] { return x.lse.data == nullptr ? status{} : check_packed<"lse">(x, x.lse, 1, rank); }); !bad) return bad;
    using plain = attention::flash<T, D, attention::dense_kv<T>, policy::full, options>;
    return first_of([&] { return plain::check(host_context{1}, {.q = x.q, .kv = {x.k, x.v}, .o = x.o, .lse = x.lse, .scale = x.scale}); },
                    [&] { return policy::check_mask(x.mask, {x.q.sequences, x.q.heads, longest(x), longest(x)}); });
  }
  template <class Net> static std::size_t workspace_bytes(const host_context& context, Net& net, const args& x) {
    if (!check(net, x)) return 0;
    return lay_out(context, net, x, nullptr).used;
  }

 private:
  struct places {
    int* offsets;
    T *q, *k, *v;
    Out* o;
    float* lse;
    workspace flash, exchange[3];
    std::size_t used;
  };
 public:
  template <class Net> class execution {
   public:
    explicit execution(Net& net) : net_(&net), exchange_{comm::reshard<Net>(net), comm::reshard<Net>(net), comm::reshard<Net>(net)} {}
    template <class Context> status start(const Context&, const args&, workspace) {
      static_assert(explain_flow_context<Context>());
      return {};
    }
    template <class Context> status run(const Context&, const args&, workspace) {
      static_assert(explain_flow_context<Context>());
      return {};
    }
    status start(const host_context& context, const args& x, workspace memory) {
      state_ = comm::progress::failed;
      if (failure_ = first_of([&] { return check(*net_, x); }, [&] { return check_workspace(memory, workspace_bytes(context, *net_, x)); }); !failure_) return failure_;
      context_ = context, x_ = x, p_ = lay_out(context, *net_, x, memory.data), back_ = false;
      p_.offsets[0] = 0;
      for (int s = 0; s < x.q.sequences; ++s) p_.offsets[s + 1] = p_.offsets[s] + x.lengths[s];
      for (int i = 0; i < 3; ++i)
        if (failure_ = exchange_[i].start(there(x, p_, i), p_.exchange[i]); !failure_) return failure_;
      state_ = comm::progress::blocked;
      return {};
    }
    comm::progress advance() {
      while (state_ == comm::progress::blocked) {
        bool all = true;
        for (int i = 0; i < (back_ ? x_.lse.data != nullptr ? 2 : 1 : 3); ++i) {
          const comm::progress p = exchange_[i].advance();
          if (p == comm::progress::failed) return give_up(exchange_[i].failure());
          all = all && p == comm::progress::done;
        }
        if (!all) return state_;
        if (back_) return state_ = comm::progress::done;
        back_ = true;
        if (const status bad = flash::run(context_, call(context_, *net_, x_, p_), p_.flash); !bad) return give_up(bad);
        for (int i = 0; i < (x_.lse.data != nullptr ? 2 : 1); ++i)
          if (const status bad = exchange_[i].start(home(x_, p_, i), p_.exchange[i]); !bad) return give_up(bad);
      }
      return state_;
    }
    const status& failure() const { return failure_; }
    comm::nanoseconds deadline() const { return exchange_[0].deadline(); }
    void abort() {
      if (state_ == comm::progress::blocked) give_up({errc::peer_lost, "the group was aborted: open the next epoch"});
    }
    status run(const host_context& context, const args& x, workspace memory) {
      if (const status bad = start(context, x, memory); !bad) return bad;
      while (advance() == comm::progress::blocked) net_->idle(deadline());
      return failure_;
    }

   private:
    comm::progress give_up(status why) {
      failure_ = why;
      for (auto& e : exchange_) e.abort();
      return state_ = comm::progress::failed;
    }
    Net* net_;
    comm::reshard<Net> exchange_[3];
    host_context context_{};
    args x_{};
    places p_{};
    bool back_ = false;
    comm::progress state_ = comm::progress::failed;
    status failure_;
  };

 private:
  static int longest(const args& x) {
    int most = 0;
    for (int s = 0; s < x.q.sequences; ++s) most = x.lengths[s] > most ? x.lengths[s] : most;
    return most;
  }
  template <literal Name, class U> static status check_packed(const args& x, const head_rows<U>& r, int cols, int rank) {
    if (r.sequences != x.q.sequences) return {errc::bad_shape, sentence<Name, ": needs the sequences of q">(), r.sequences, x.q.sequences};
    if (r.cols != cols) return {errc::bad_shape, sentence<Name, ": cols must be the head dim in the op's type">(), r.cols, cols};
    if (r.row_stride != r.heads * cols || (r.heads > 1 && r.head_stride != cols)) return {errc::bad_shape, sentence<Name, ": rows must be packed, [row][head][channel], for an exchange">(), r.row_stride, r.heads * cols};
    if (r.sequences > 0 && (r.offsets == nullptr || r.offsets[0] != 0)) return {errc::bad_shape, sentence<Name, ": must be ragged, with offsets from 0">(), 0, 0};
    for (int s = 0; s < r.sequences; ++s)
      if (r.length(s) != x.layout.share(x.lengths[s], rank)) return {errc::bad_shape, sentence<Name, ": a sequence needs the rows that the layout gives this rank">(), r.length(s), x.layout.share(x.lengths[s], rank)};
    return {};
  }
  // q, k or v: from tokens to heads.
  static comm::reshard_args there(const args& x, const places& p, int which) {
    const auto as = [&](const head_rows<const T>& r, T* to, int cols) {
      return comm::reshard_args{comm::by_rows(x.layout), comm::by_columns(x.layout.ranks), x.lengths, x.q.sequences, r.heads, cols * std::int64_t(sizeof(T)), reinterpret_cast<const std::byte*>(r.data), reinterpret_cast<std::byte*>(to),
                                x.operation + std::uint32_t(which), x.timeout, x.agree};
    };
    return which == 0 ? as(x.q, p.q, D) : which == 1 ? as(x.k, p.k, D) : as(x.v, p.v, ValueDim);
  }
  // o or lse: back.
  static comm::reshard_args home(const args& x, const places& p, int which) {
    comm::reshard_args a{comm::by_columns(x.layout.ranks), comm::by_rows(x.layout), x.lengths, x.q.sequences, x.q.heads, which == 0 ? ValueDim * std::int64_t(sizeof(Out)) : 4, nullptr, nullptr, x.operation + 3 + std::uint32_t(which), x.timeout, x.agree};
    a.input = which == 0 ? reinterpret_cast<const std::byte*>(p.o) : reinterpret_cast<const std::byte*>(p.lse);
    a.output = which == 0 ? reinterpret_cast<std::byte*>(x.o.data) : reinterpret_cast<std::byte*>(x.lse.data);
    return a;
  }
  template <class Net> static typename flash::args call(const host_context&, const Net& net, const args& x, const places& p) {
    const int n = x.q.sequences, most = longest(x), heads = x.q.heads / net.size(), kv_heads = int(comm::by_columns(net.size()).columns_of(x.k.heads, net.rank()));
    const auto rows = [&](auto* data, int h, int cols) { return attention::head_rows<std::remove_pointer_t<decltype(data)>>{data, n, h, most, cols, 0, cols, h * cols, p.offsets}; };
    typename flash::args a{.q = rows(static_cast<const T*>(p.q), heads, D), .kv = {rows(static_cast<const T*>(p.k), kv_heads, D), rows(static_cast<const T*>(p.v), kv_heads, ValueDim)}, .o = rows(p.o, heads, ValueDim)};
    if (x.lse.data != nullptr) a.lse = rows(p.lse, heads, 1);
    a.scale = x.scale, a.mask = x.mask;
    return a;
  }
  template <class Net> static places lay_out(const host_context& context, Net& net, const args& x, std::byte* base) {
    std::size_t tokens = 0;
    for (int s = 0; s < x.q.sequences; ++s) tokens += std::size_t(x.lengths[s]);
    const std::size_t heads = std::size_t(x.q.heads / net.size()), kv_heads = std::size_t(comm::by_columns(net.size()).columns_of(x.k.heads, net.rank()));
    carver c{base};
    places p{};
    p.offsets = c.take<int>(std::size_t(x.q.sequences) + 1);
    p.q = c.take<T>(tokens * heads * D), p.k = c.take<T>(tokens * kv_heads * D), p.v = c.take<T>(tokens * kv_heads * ValueDim);
    p.o = c.take<Out>(tokens * heads * ValueDim), p.lse = c.take<float>(x.lse.data != nullptr ? tokens * heads : 0);
    // What an exchange needs depends on sizes, not on where things lie.
    places counted = p;
    const auto somewhere = [](int i) { return reinterpret_cast<std::byte*>(std::uintptr_t(40 + i) << 40); };
    counted.q = reinterpret_cast<T*>(somewhere(0)), counted.k = reinterpret_cast<T*>(somewhere(1)), counted.v = reinterpret_cast<T*>(somewhere(2));
    counted.o = reinterpret_cast<Out*>(somewhere(3)), counted.lse = reinterpret_cast<float*>(somewhere(4));
    const comm::reshard<Net> counting(net);
    for (int i = 0; i < 3; ++i) {
      std::size_t bytes = counting.workspace_bytes(there(x, counted, i));
      if (i == 0 || (i == 1 && x.lse.data != nullptr)) bytes = std::max(bytes, counting.workspace_bytes(home(x, counted, i)));
      p.exchange[i] = {c.take<std::byte>(bytes), bytes};
    }
    const std::size_t bytes = flash::workspace_bytes(context, call(context, net, x, p));
    p.flash = {c.take<std::byte>(bytes), bytes};
    p.used = c.used;
    return p;
  }
};

}  // namespace smalti::inline SMALTI_CODE::flow
