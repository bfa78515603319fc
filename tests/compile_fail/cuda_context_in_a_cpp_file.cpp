// expect: smalti: a cuda_context works only in files that nvcc compiles
#include <smalti/core/explain_context.hpp>

template <class Context> smalti::status run(const Context& context) {
  static_assert(smalti::explain_context<Context>());
  if constexpr (smalti::runs_here<Context>) return context.threads < 0 ? smalti::status{smalti::errc::bad_value} : smalti::status{};
  return check_context(context);
}

#if defined(SMALTI_REMEDY)
int main() { return bool(run(smalti::host_context{})); }
#else
int main() { return bool(run(smalti::cuda_context::on(nullptr))); }
#endif
