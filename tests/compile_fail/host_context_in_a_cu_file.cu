// expect: smalti: a host context runs in .cpp files only
#include <smalti/core/explain_context.hpp>

template <class Context> smalti::status run(const Context& context) {
  static_assert(smalti::explain_context<Context>());
  if constexpr (smalti::runs_here<Context>) return smalti::status{smalti::errc::bad_value, "", context.device, 0};
  return check_context(context);
}

#if defined(SMALTI_REMEDY)
int main() { return bool(run(smalti::cuda_context::on(nullptr))); }
#else
int main() { return bool(run(smalti::host_context{})); }
#endif
