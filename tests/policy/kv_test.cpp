// Layouts and storages of pages: every layout is a bijection that keeps pages together; bytes are those of the formats.
#include <catch2/catch.hpp>
#include <string>
#include <vector>
#include <smalti/policy/kv_layout.hpp>
#include <smalti/policy/kv_storage.hpp>

using namespace smalti;
using namespace smalti::policy;

static_assert(explain_kv_layout<nhd>() && explain_kv_layout<hnd>() && kv_layout<nhd> && kv_layout<hnd>);
static_assert(explain_kv_storage<kv_plain<bf16>>() && kv_storage<kv_plain<float>>);

TEMPLATE_TEST_CASE("a layout is a bijection that keeps the rows of a page together", "[policy][kv]", nhd, hnd) {
  const TestType layout{};
  for (int pages = 1; pages <= 4; ++pages)
    for (int heads = 1; heads <= 5; ++heads)
      for (int tokens = 1; tokens <= 6; ++tokens) {
        std::vector<int> seen(std::size_t(pages * heads * tokens));
        for (int p = 0; p < pages; ++p)
          for (int s = 0; s < tokens; ++s)
            for (int h = 0; h < heads; ++h) {
              const int row = layout.row(p, s, h, heads, tokens);
              REQUIRE(row / (heads * tokens) == p);
              ++seen.at(std::size_t(row));
              if (TestType::order == kv_order::nhd) REQUIRE(row == (p * tokens + s) * heads + h);
              else REQUIRE(row == (p * heads + h) * tokens + s);
            }
        for (const int n : seen) REQUIRE(n == 1);
      }
}

TEST_CASE("bytes of keys and values are those of their formats", "[policy][kv]") {
  // Bytes of a token's key and value, one head of 128 channels.
  const auto both = [](const kv_format& f, int page) {
    const long long k = bytes_of(f, kv_part::key, 128, page).total(), v = bytes_of(f, kv_part::value, 128, page).total();
    REQUIRE(check_format(f, 128, 128, page).code == errc::ok);
    REQUIRE((k + v) % page == 0);
    return (k + v) / page;
  };
  CHECK(both(kv_plain<bf16>::format, 16) == 512);
  CHECK(both(kv_plain<fp16>::format, 16) == 512);
  CHECK(both(kv_plain<float>::format, 16) == 1024);
  CHECK(both(kv_plain<fp8_e4m3>::format, 16) == 256);
  CHECK(both(kv_grouped<kv_code::e4m3, 8, 4, kv_axis::channels, 128>::format, 16) == 264);
  CHECK(both(kv_grouped<kv_code::e2m1, 4, 1, kv_axis::channels, 16>::format, 16) == 144);
  CHECK(both(kv_grouped<kv_code::int4, 4, 4, kv_axis::channels, 32>::format, 16) == 160);
  CHECK(both(kv_grouped<kv_code::int3, 3, 4, kv_axis::channels, 32>::format, 16) == 128);
  CHECK(both(kv_grouped<kv_code::int2, 2, 4, kv_axis::channels, 32>::format, 16) == 96);
  CHECK(both(kv_grouped<kv_code::int2, 2, 4, kv_axis::channels, 64>::format, 16) == 80);
  CHECK(both(kv_grouped<kv_code::int2, 2, 4, kv_axis::channels, 128>::format, 16) == 72);
  // KIVI, pages of 32 tokens: keys in groups along tokens, values along channels.
  using kivi = kv_grouped<kv_code::int2, 2, 4, kv_axis::tokens, 32, kv_axis::channels, 32>;
  CHECK(bytes_of(kivi::format, kv_part::key, 128, 32).codes == 1024);
  CHECK(bytes_of(kivi::format, kv_part::key, 128, 32).scales == 512);
  CHECK(32 * both(kivi::format, 32) == 3072);
}

TEST_CASE("groups that a page or a head cannot hold are refused", "[policy][kv]") {
  using kivi = kv_grouped<kv_code::int2, 2, 4, kv_axis::tokens, 32, kv_axis::channels, 64>;
  const auto refused = [](const status& st, const char* what, int got, int need) {
    CHECK(st.code == errc::bad_shape);
    CHECK(std::string(st.what) == what);
    CHECK(st.got == got);
    CHECK(st.need == need);
  };
  refused(check_format(kivi::format, 128, 128, 48), "page must be a multiple of the storage's group of tokens", 48, 32);
  refused(check_format(kivi::format, 128, 96, 64), "value_dim must be a multiple of the storage's group of channels", 96, 64);
  using turned = kv_grouped<kv_code::int2, 2, 4, kv_axis::channels, 64, kv_axis::tokens, 32>;
  refused(check_format(turned::format, 96, 128, 64), "key_dim must be a multiple of the storage's group of channels", 96, 64);
  refused(check_format(turned::format, 128, 128, 48), "page must be a multiple of the storage's group of tokens", 48, 32);
  CHECK(check_format(turned::format, 128, 0, 48).code == errc::ok);           // no values, no groups of them
  refused(check_format(kv_grouped<kv_code::int3, 3, 0, kv_axis::none, 0>::format, 5, 8, 1), "a head's codes in a page must fill whole bytes: take more tokens for a page", 15, 8);
  CHECK(kv_plain<bf16>::format == kv_plain<bf16>::format);
  CHECK_FALSE(kv_plain<bf16>::format == kv_plain<fp16>::format);
  CHECK_FALSE(kivi::format == turned::format);
}
