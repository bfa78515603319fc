// What works row by row, 2048 tokens of 4096 columns of bf16: -DOP_norm, -DOP_layer, -DOP_rotary, -DOP_int8_rows, -DOP_int8_groups,
// -DOP_fp8_groups, -DOP_hadamard or -DOP_append.
#if defined(OP_norm) || defined(OP_layer)
#  include <smalti/ops/norm.hpp>
#elif defined(OP_rotary)
#  include <smalti/ops/rotary.hpp>
#elif defined(OP_append)
#  include <numeric>
#  include <smalti/ops/cache.hpp>
#else
#  include <smalti/ops/quantize.hpp>
#endif
#include "turns.hpp"

namespace {

using namespace smalti;
constexpr int rows = 2048, cols = 4096;

turns::memory<bf16>& in() { static turns::memory<bf16> m(std::size_t(rows) * cols); return m; }
turns::memory<bf16>& out() { static turns::memory<bf16> m(std::size_t(rows) * cols); return m; }
turns::memory<float>& numbers() { static turns::memory<float> m(std::size_t(rows) * cols / 32); return m; }

template <class Tuning> auto pass() {
  const auto context = with_tuning<Tuning>(host_context{.threads = 1});
  [[maybe_unused]] const view<const bf16> x{in().data(), rows, cols, cols};
  [[maybe_unused]] const view<bf16> y{out().data(), rows, cols, cols};
#if defined(OP_norm) || defined(OP_layer)
#  if defined(OP_norm)
  using op = norm::normalize<norm::statistic::root_mean_square, bf16>;
#  else
  using op = norm::normalize<norm::statistic::mean_and_variance, bf16>;
#  endif
  const typename op::args a{.x = x, .gain = {numbers().data(), 1, cols, cols}, .y = y};
#elif defined(OP_rotary)
  using op = rotary::rotate<bf16, policy::half_split, 128>;
  static std::vector<int> positions(rows, 17);
  const typename op::args a{.x = x, .y = y, .positions = positions.data(), .frequencies = numbers().data(), .heads = cols / 128};
#elif defined(OP_hadamard)
  using op = quantize::hadamard<bf16, bf16, 128>;
  const typename op::args a{.x = x, .y = y};
#elif defined(OP_append)
  using storage = policy::kv_plain<bf16>;
  using op = cache::append<bf16, storage>;
  static std::vector<int> slots(rows);
  std::iota(slots.begin(), slots.end(), 0);
  typename op::args a{};
  cache::lay_out_pool<storage, policy::nhd>({.pages = rows / 16, .page = 16, .kv_heads = cols / 256, .key_dim = 128, .value_dim = 128}, reinterpret_cast<std::byte*>(out().data()), &a.pool);
  a.k = {in().data(), rows, cols / 2, cols}, a.v = {in().data() + cols / 2, rows, cols / 2, cols};
  a.slots = slots.data();
#else
#  if defined(OP_int8_rows)
  using op = quantize::tokens<bf16, policy::int8_tokens<>>;
  constexpr int groups = 1;
#  elif defined(OP_int8_groups)
  using op = quantize::tokens<bf16, policy::int8_tokens<32>>;
  constexpr int groups = cols / 32;
#  else
  using op = quantize::tokens<bf16, policy::fp8_tokens<128>>;
  constexpr int groups = cols / 128;
#  endif
  typename op::args a{};
  a.x = x;
  a.codes = {reinterpret_cast<decltype(a.codes.data)>(out().data()), rows, cols, cols};
  a.scales = {numbers().data(), groups, rows, rows};
#endif
  turns::demand(op::check(context, a));
  return [=] { turns::demand(op::run(context, a, {})); };
}

}  // namespace

int main() {
  turns::compare_all([&](auto shape) { return pass<decltype(shape)>(); });
  return 0;
}
