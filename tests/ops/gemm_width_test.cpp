// gemm::dense by its slow path, options::any_width: memory that is not aligned, widths that are not whole.
#include "gemm_problem.hpp"

using namespace smalti;
using namespace test;

// A GPU's slow path depends on the size of an element: one type of each size is compiled for it, to save time.
#if defined(__CUDACC__)
#define EACH_TYPE bf16, float, std::int8_t
#else
#define EACH_TYPE bf16, fp16, float, std::int8_t
#endif

TEMPLATE_TEST_CASE("dense takes any width and address by the slow path", "[ops][gemm]", EACH_TYPE) {
  shapes<TestType, float, any_nk>({{1, 1, 1, 1}, {1, 33, 77, 1}, {7, 17, 33, 2}, {50, 131, 201, 1}, {97, 65, 127, 1}});
  shapes<TestType, float, any_kn>({{1, 1, 1, 1}, {3, 33, 77, 1}, {50, 131, 201, 2}});
}

TEST_CASE("the slow path rounds its result to the type of c", "[ops][gemm]") {
  shapes<float, bf16, any_nk>({{3, 41, 65, 1}});
}
