// expect: smalti: to_view and to_stack take an mdspan
#include <smalti/core/mdspan.hpp>

int main() {
  smalti::view<float> to;
  return bool(to_view(3, to));
}
