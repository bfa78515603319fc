// expect: smalti: to_view takes an mdspan of rank 2
#include <smalti/core/mdspan.hpp>

struct cube {
  using element_type = float;
  using data_handle_type = float*;
  float* data_handle() const { return nullptr; }
  long extent(int) const { return 0; }
  long stride(int) const { return 0; }
  static constexpr int rank() { return 3; }
  static constexpr bool is_always_strided() { return true; }
};
int main() {
  smalti::view<float> to;
  return bool(to_view(cube{}, to));
}
