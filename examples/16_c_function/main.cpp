// An older program: compiled as C++14, it knows linear.h and nothing of the library. Checks the answer against sums in double.
#include "linear.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

static_assert(__cplusplus < 201703L, "this file shows an older program: compile it as C++14");

// The upper half of a float is a bf16; the numbers here have few enough digits to fit.
static unsigned short bits_of(float v) {
  std::uint32_t word;
  std::memcpy(&word, &v, 4);
  return static_cast<unsigned short>(word >> 16);
}

int main() {
  const int tokens = 33, inputs = 256, outputs = 136;
  std::minstd_rand random(1);
  std::vector<float> a(tokens * inputs), w(outputs * inputs), bias(outputs), c(tokens * outputs);
  for (float& v : a) v = float(int(random() % 129) - 64) / 64;
  for (float& v : w) v = float(int(random() % 129) - 64) / 64;
  for (float& v : bias) v = float(int(random() % 129) - 64) / 64;
  std::vector<unsigned short> a16(a.size()), w16(w.size());
  std::transform(a.begin(), a.end(), a16.begin(), bits_of);
  std::transform(w.begin(), w.end(), w16.begin(), bits_of);

  const linear_layer layer = {a16.data(), w16.data(), bias.data(), c.data(), tokens, inputs, outputs, 0};
  const std::size_t bytes = linear_workspace_bytes(&layer);
  void* memory = nullptr;
  if (bytes > 0 && posix_memalign(&memory, 256, bytes) != 0) return 1;
  const char* why = "";
  const int code = linear_run(&layer, memory, bytes, &why);
  std::free(memory);
  if (code != 0) return std::printf("refused: %s\n", why), 1;

  // A sum of k float products is off by at most (k + 2) 2^-24 of their sizes, silu stretches that by at most 1.1 and adds a few
  // units in the last place.
  double worst = 0;
  for (int i = 0; i < tokens; ++i)
    for (int j = 0; j < outputs; ++j) {
      double sum = bias[j], size = std::abs(bias[j]);
      for (int p = 0; p < inputs; ++p) {
        const double product = double(a[i * inputs + p]) * w[j * inputs + p];
        sum += product, size += std::abs(product);
      }
      const double want = sum / (1 + std::exp(-sum));
      worst = std::max(worst, std::abs(c[i * outputs + j] - want) / (1.1 * (inputs + 2) * std::ldexp(size, -24) + std::ldexp(1 + std::abs(want), -20)));
    }
  linear_layer wrong = layer;
  wrong.inputs = -1;
  const bool refused = linear_run(&wrong, nullptr, 0, &why) != 0;
  const bool ok = worst <= 1 && refused;
  std::printf("C++14 calls the library through C: error %.3f of its bound; a negative size: \"%s\"%s\n", worst, why, ok ? "" : "  WRONG");
  return !ok;
}
