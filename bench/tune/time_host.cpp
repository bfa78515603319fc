// Times one shape of the dense product beside another, in turns, at 1024^3 on one thread: bench/tune_gpu.py --machine host
// compiles it with -DTYPE, -DTUNING and -DBESIDE (designated initializers) and reads the line it prints.
#include <smalti/ops/gemm.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <vector>

namespace {

using namespace smalti;
using result = std::conditional_t<std::is_same_v<TYPE, std::int8_t>, int, float>;
using op = gemm::dense<TYPE, TYPE, result>;

struct tried {
  constexpr gemm::gemm_tuning operator()(target, gemm::gemm_regime) const { return {TUNING}; }
};
struct beside {
  constexpr gemm::gemm_tuning operator()(target, gemm::gemm_regime) const { return {BESIDE}; }
};

template <class Context> class product {
 public:
  product(const Context& context, const op::args& x) : context_(context), x_(x), memory_(op::workspace_bytes(context, x) / 256 + 1) {}
  double milliseconds() {
    const auto begin = std::chrono::steady_clock::now();
    const status st = op::run(context_, x_, {memory_.data(), memory_.size() * sizeof(line)});
    if (!st) std::printf("%s", st.what), std::exit(1);
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  }

 private:
  struct alignas(256) line { char bytes[256] = {}; };
  Context context_;
  op::args x_;
  std::vector<line> memory_;
};
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

}  // namespace

int main() {
  constexpr int size = 1024, rounds = 15;
  std::vector<TYPE> a(size * size + 64), b(size * size + 64);
  std::vector<result> c(size * size + 64);
  const auto aligned = [](auto& v) { return v.data() + (64 - reinterpret_cast<std::uintptr_t>(v.data()) % 64) % 64 / sizeof(v[0]); };
  const op::args x{.a = {aligned(a), size, size, size}, .b = {aligned(b), size, size, size}, .c = {aligned(c), size, size, size}};
  const host_context context{.threads = 1};
  product mine(with_tuning<tried>(context), x);
  product other(with_tuning<beside>(context), x);
  std::vector<double> my_time, ratio;
  for (int round = 0; round < rounds; ++round) {
    const bool first = round % 2 == 0;
    const double early = first ? mine.milliseconds() : other.milliseconds(), late = first ? other.milliseconds() : mine.milliseconds();
    my_time.push_back(first ? early : late);
    ratio.push_back((first ? late : early) / my_time.back());
  }
  std::printf("{\"ms\": %.4f, \"speed\": %.4f}\n", median(my_time), median(ratio));
  return 0;
}
