// Panels that a thread keeps: what is found again must be what would be packed anew.
#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <smalti/tile/host/block.hpp>
#include "support/arrays.hpp"

using namespace smalti;

namespace {

constexpr unsigned seed = 5;

// Loads the panel into a block that keeps panels and into one that does not.
template <class Panel, class Matrix> void same(host::block& keeps, const Matrix& m) {
  host::block packs(0, 0, 0);
  const auto kept = std::make_unique<Panel>(), fresh = std::make_unique<Panel>();
  keeps.load(*kept, m, 0, 0);
  packs.load(*fresh, m, 0, 0);
  REQUIRE(kept->kept != nullptr);
  REQUIRE(fresh->kept == nullptr);
  REQUIRE(kept->depth == fresh->depth);
  REQUIRE(kept->live == fresh->live);
  REQUIRE(std::memcmp(kept->data, fresh->data, sizeof(typename Panel::array)) == 0);
}

}  // namespace

TEST_CASE("panels of one matrix that differ in form, shape or element are not taken for each other", "[tile][panels]") {
  std::mt19937 generator(seed);
  CAPTURE(seed);
  const int size = 2048;
  const auto memory = test::random_array<bf16>(std::size_t(size) * size, generator);
  const view<const bf16> m{memory.data(), size, size, size};
  test::array<std::byte> room(std::size_t(4) << 20);
  const auto store = std::make_unique<host::panel_store>(room.data(), room.size());
  host::block keeps(0, 0, 0, store.get());
  for (int again = 0; again < 2; ++again) {
    same<host::right_panel<bf16, 2048, 16>>(keeps, m);
    same<host::right_panel<bf16, 1024, 16>>(keeps, transposed(m));
    same<host::right_panel<bf16, 1024, 32>>(keeps, transposed(m));
    same<host::right_panel<bf16, 1024, 16>>(keeps, m);
    same<host::right_panel<float, 1024, 16>>(keeps, m);
    same<host::right_panel<float, 1024, 16>>(keeps, transposed(m));
  }
}
