#include <catch2/catch.hpp>
#include <cstdint>
#include <initializer_list>
#include <vector>
#include <smalti/core/dlpack.hpp>

using namespace smalti;

// DLPack's C structs as its specification lays them out, for a machine without its header.
struct dl_device { std::int32_t device_type, device_id; };
struct dl_type { std::uint8_t code, bits; std::uint16_t lanes; };
struct dl_tensor {
  void* data;
  dl_device device;
  std::int32_t ndim;
  dl_type dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

alignas(64) static float memory[4096];

struct tensor {
  std::vector<std::int64_t> shape, strides;
  dl_tensor t{memory, {1, 0}, 0, {2, 32, 1}, nullptr, nullptr, 0};
  tensor(std::vector<std::int64_t> s, std::vector<std::int64_t> r = {}) : shape(s), strides(r) {
    t.ndim = int(shape.size());
    t.shape = shape.data();
    t.strides = strides.empty() ? nullptr : strides.data();
  }
};

TEST_CASE("a tensor of two axes becomes a view", "[core][dlpack]") {
  view<float> v;
  tensor compact({5, 8});
  REQUIRE(bool(dlpack_to_view(compact.t, {}, v)));
  CHECK((v.data == memory && v.rows == 5 && v.cols == 8 && v.stride == 8));
  tensor strided({5, 8}, {12, 1});
  strided.t.byte_offset = 32;
  REQUIRE(bool(dlpack_to_view(strided.t, {}, v)));
  CHECK((v.data == memory + 8 && v.stride == 12));
  view<const float, 1> c;
  strided.t.byte_offset = 4;
  REQUIRE(bool(dlpack_to_view(strided.t, {}, c)));
  CHECK(c.data == memory + 1);
  CHECK(dlpack_to_view(strided.t, {}, v) == status{errc::misaligned, "", 4, 0});
  strided.t.byte_offset = 2;
  CHECK(dlpack_to_view(strided.t, {}, c) == status{errc::misaligned, "", 2, 0});
}

TEST_CASE("a tensor of three axes becomes a stack", "[core][dlpack]") {
  stack<float> s;
  REQUIRE(bool(dlpack_to_stack(tensor({2, 5, 8}).t, {}, s)));
  CHECK((s.count == 2 && s.rows == 5 && s.cols == 8 && s.distance == 40 && s.stride == 8));
  REQUIRE(bool(dlpack_to_stack(tensor({2, 5, 8}, {8, 16, 1}).t, {}, s)));
  CHECK((s.distance == 8 && s.stride == 16));
  CHECK(dlpack_to_stack(tensor({5, 8}).t, {}, s) == status{errc::bad_shape, "", 2, 3});
}

TEST_CASE("a tensor of another form is refused", "[core][dlpack]") {
  view<float> v{memory, 1, 4, 8};
  CHECK(dlpack_to_view(tensor({5}).t, {}, v) == status{errc::bad_shape, "", 1, 2});
  CHECK(dlpack_to_view(tensor({2, 5, 8}).t, {}, v) == status{errc::bad_shape, "", 3, 2});
  CHECK(dlpack_to_view(tensor({5, 8}, {1, 5}).t, {}, v) == status{errc::bad_shape, "", 5, 1});
  CHECK(dlpack_to_view(tensor({5, 8}, {4, 1}).t, {}, v) == status{errc::bad_shape, "", 4, 8});
  CHECK(dlpack_to_view(tensor({5, 1LL << 40}).t, {}, v).code == errc::out_of_reach);
  CHECK(dlpack_to_view(tensor({INT64_MAX, INT64_MAX}).t, {}, v).code == errc::out_of_reach);
  CHECK(dlpack_to_view(tensor({5, -8}).t, {}, v).code == errc::bad_shape);
  tensor x({5, 8});
  x.t.shape = nullptr;
  CHECK(dlpack_to_view(x.t, {}, v).code == errc::null_pointer);
  tensor null({5, 8});
  null.t.data = nullptr;
  null.t.byte_offset = 64;
  CHECK(dlpack_to_view(null.t, {}, v).code == errc::null_pointer);
  tensor empty({0, 8});
  empty.t.data = nullptr;
  view<float> e;
  CHECK(bool(dlpack_to_view(empty.t, {}, e)));
  CHECK((v.data == memory && v.rows == 1 && v.cols == 4 && v.stride == 8));
}

TEST_CASE("a tensor of another type is refused", "[core][dlpack]") {
  view<float> v;
  tensor x({5, 8});
  x.t.dtype = {2, 32, 4};
  CHECK(dlpack_to_view(x.t, {}, v) == status{errc::bad_value, "", 4, 1});
  x.t.dtype = {0, 32, 1};
  CHECK(dlpack_to_view(x.t, {}, v) == status{errc::bad_value, "", 0, 2});
  x.t.dtype = {2, 16, 1};
  CHECK(dlpack_to_view(x.t, {}, v) == status{errc::bad_value, "", 16, 32});
  view<bf16, 1> b;
  x.t.dtype = {4, 16, 1};
  CHECK(bool(dlpack_to_view(x.t, {}, b)));
  x.t.dtype = {2, 16, 1};
  CHECK(dlpack_to_view(x.t, {}, b) == status{errc::bad_value, "", 2, 4});
}

TEST_CASE("types have DLPack's numbers", "[core][dlpack]") {
  const auto is = [](dlpack_dtype have, int code, int bits) { return have == dlpack_dtype{code, bits}; };
  CHECK(is(dlpack_dtype_of<std::int8_t>::value, 0, 8));
  CHECK(is(dlpack_dtype_of<std::int32_t>::value, 0, 32));
  CHECK(is(dlpack_dtype_of<std::int64_t>::value, 0, 64));
  CHECK(is(dlpack_dtype_of<std::uint8_t>::value, 1, 8));
  CHECK(is(dlpack_dtype_of<float>::value, 2, 32));
  CHECK(is(dlpack_dtype_of<const double>::value, 2, 64));
  CHECK(is(dlpack_dtype_of<bool>::value, 6, 8));
  CHECK(is(dlpack_dtype_of<fp16>::value, 2, 16));
  CHECK(is(dlpack_dtype_of<const bf16>::value, 4, 16));
  CHECK(is(dlpack_dtype_of<fp8_e4m3>::value, 10, 8));
  CHECK(is(dlpack_dtype_of<fp8_e4m3fnuz>::value, 11, 8));
  CHECK(is(dlpack_dtype_of<fp8_e5m2>::value, 12, 8));
  CHECK(is(dlpack_dtype_of<fp8_e5m2fnuz>::value, 13, 8));
  CHECK(is(dlpack_dtype_of<e8m0>::value, 14, 8));
}

// type: 1 CPU, 2 CUDA, 3 CUDA's pinned host memory, 4 OpenCL, 10 ROCm, 13 CUDA managed.
TEST_CASE("a tensor elsewhere is refused", "[core][dlpack]") {
  view<float> v;
  tensor x({5, 8});
  const auto on = [&](dlpack_place place, int type, int id) {
    x.t.device = {type, id};
    return dlpack_to_view(x.t, place, v);
  };
  for (const int type : {1, 3, 13}) CHECK(bool(on({}, type, 0)));
  for (const int type : {2, 4, 10}) CHECK(on({}, type, 0) == status{errc::bad_value, "", type, 1});
  CHECK(bool(on({1}, 2, 1)));
  for (const int type : {3, 13}) CHECK(bool(on({1}, type, 0)));
  CHECK(on({1}, 2, 0) == status{errc::bad_value, "", 0, 1});
  for (const int type : {1, 4, 10}) CHECK(on({1}, type, 1) == status{errc::bad_value, "", type, 2});
}
