#include <catch2/catch.hpp>
#include <cstdint>
#include <random>
#include <vector>
#include <smalti/core/pages.hpp>

using namespace smalti;

TEST_CASE("a token's slot, by table and strides", "[core][pages]") {
  constexpr int sequences = 3, heads = 2, width = 4;
  std::vector<int> table(sequences * heads * width), length(sequences * heads);
  for (int i = 0; i < int(table.size()); ++i) table[i] = 100 + i;
  for (int i = 0; i < int(length.size()); ++i) length[i] = 5 * i % 13;
  const bool table_shared = GENERATE(false, true), length_shared = GENERATE(false, true);
  const int page = GENERATE(1, 3, 4, 16);
  const pages p{table.data(), heads * width, table_shared ? 0 : width, length.data(), length_shared ? 0 : sequences, page};
  for (int s = 0; s < sequences; ++s) {
    for (int h = 0; h < heads; ++h) {
      const int tokens = length[length_shared ? s : h * sequences + s];
      CHECK(p.tokens(s, h) == tokens);
      CHECK(p.used(s, h) == (tokens + page - 1) / page);
      CHECK(p.row(s, h) == table.data() + (s * heads + (table_shared ? 0 : h)) * width);
      for (int t = 0; t < width * page; ++t) {
        const int entry = table[(s * heads + (table_shared ? 0 : h)) * width + t / page];
        CHECK(p.entry(s, h, t / page) == entry);
        REQUIRE(p.slot(s, h, t) == static_cast<long long>(entry) * page + t % page);
      }
    }
  }
}

TEST_CASE("slots of a large pool need 64 bits", "[core][pages]") {
  const int table[]{2000000000}, length[]{16};
  const pages p{table, 1, 0, length, 0, 16};
  CHECK(p.slot(0, 0, 15) == 2000000000LL * 16 + 15);
  CHECK(bool(check_pages(p, 1, 1, 1, 2000000001LL)));
}

TEST_CASE("table rows are found in 64 bits", "[core][pages]") {
  const long long stride = 3LL << 30;
  const int table[]{0}, length[]{1};
  const pages p{table, stride, 5LL << 30, length, 0, 16};   // addresses only: nothing is read
  const auto far = reinterpret_cast<std::uintptr_t>(p.row(2, 1)) - reinterpret_cast<std::uintptr_t>(p.row(0, 0));
  CHECK(far == std::uintptr_t(2 * stride + (5LL << 30)) * sizeof(int));
}

// Every entry past the last used one holds a poison that check_pages must not read as a page.
TEST_CASE("entries past the end may hold anything", "[core][pages]") {
  const unsigned seed = 20240611;
  CAPTURE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    const int page = 1 + int(random() % 9), width = 1 + int(random() % 5), sequences = 1 + int(random() % 4), heads = 1 + int(random() % 3);
    const int pool = 1 + int(random() % 50);
    std::vector<int> length(sequences * heads), table(sequences * heads * width);
    for (int& n : length) n = int(random() % (width * page + 1));
    const pages p{table.data(), width, static_cast<long long>(width) * sequences, length.data(), sequences, page};
    std::vector<int*> in_use;
    for (int s = 0; s < sequences; ++s)
      for (int h = 0; h < heads; ++h)
        for (int n = 0; n < width; ++n) {
          int& entry = table[(h * sequences + s) * width + n];
          const bool used = n < (length[h * sequences + s] + page - 1) / page;
          entry = used ? int(random() % pool) : random() % 2 ? -77 : 1 << 30;
          if (used) in_use.push_back(&entry);
        }
    REQUIRE(bool(check_pages(p, sequences, heads, width, pool)));
    if (in_use.empty()) continue;
    int& victim = *in_use[random() % in_use.size()];
    victim = pool;
    REQUIRE(check_pages(p, sequences, heads, width, pool) == status{errc::bad_value, "", pool, pool});
    victim = -1;
    REQUIRE(check_pages(p, sequences, heads, width, pool) == status{errc::bad_value, "", -1, 0});
  }
}

TEST_CASE("check_pages names what is wrong", "[core][pages]") {
  const int table[]{0, 1, 2, 3}, length[]{4, 8};
  const pages good{table, 2, 0, length, 0, 4};
  CHECK(bool(check_pages(good, 2, 3, 2, 4)));
  CHECK(bool(check_pages(good, 0, 3, 2, 4)));
  CHECK(bool(check_pages({nullptr, 0, 0, nullptr, 0, 4}, 0, 0, 0, 0)));
  CHECK(check_pages(good, -1, 3, 2, 4).code == errc::bad_shape);
  CHECK(check_pages(good, 2, -1, 2, 4).code == errc::bad_shape);
  CHECK(check_pages(good, 2, 3, -1, 4).code == errc::bad_shape);
  CHECK(check_pages(good, 2, 3, 1, 4) == status{errc::bad_shape, "", 8, 4});
  CHECK(check_pages(good, 2, 3, 2, 3) == status{errc::bad_value, "", 3, 3});

  pages bad = good;
  bad.page = 0;
  CHECK(check_pages(bad, 2, 3, 2, 4) == status{errc::bad_value, "", 0, 1});
  bad.page = 12;
  CHECK(bool(check_pages(bad, 2, 3, 2, 4)));
  CHECK(check_pages(bad, 2, 3, 2, 4, page_rule::power_of_two) == status{errc::bad_value, "", 12, 16});
  CHECK(bool(check_pages(good, 2, 3, 2, 4, page_rule::power_of_two)));
  bad = good, bad.row_stride = -2;
  CHECK(check_pages(bad, 2, 3, 2, 4).code == errc::bad_value);
  bad = good, bad.head_stride = -2;
  CHECK(check_pages(bad, 2, 3, 2, 4).code == errc::bad_value);
  bad = good, bad.length_head_stride = -2;
  CHECK(check_pages(bad, 2, 3, 2, 4).code == errc::bad_value);
  bad = good, bad.length = nullptr;
  CHECK(check_pages(bad, 2, 3, 2, 4).code == errc::null_pointer);
  bad = good, bad.table = nullptr;
  CHECK(check_pages(bad, 2, 3, 2, 4).code == errc::null_pointer);
  const int none[]{0, 0}, negative[]{0, -1};
  bad.length = none;
  CHECK(bool(check_pages(bad, 2, 3, 2, 4)));
  bad.length = negative;
  CHECK(check_pages(bad, 2, 3, 2, 4) == status{errc::bad_value, "", -1, 0});
  // A huge width must not wrap when it is multiplied by the page.
  CHECK(bool(check_pages({table, 2, 0, length, 0, 1 << 20}, 2, 3, 1 << 20, 4)));
}

TEST_CASE("lengths of every head are looked at when they are not shared", "[core][pages]") {
  const int table[]{0, 1}, length[]{4, 4, 4, 9};
  const pages p{table, 1, 0, length, 2, 4};
  CHECK(check_pages(p, 2, 2, 1, 2) == status{errc::bad_shape, "", 9, 4});
  CHECK(bool(check_pages(p, 2, 1, 1, 2)));
}
