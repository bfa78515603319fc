// The tuning with which a kernel of these files is compiled: the library's own, or with -DTUNING the one that
// bench/tune_gpu.py asks about. TUNING holds designated initializers, with COMMA for each comma: nvcc takes a real one for
// the end of the macro.
#pragma once
#include <smalti/core/version.hpp>
#define COMMA ,

namespace kernels {

#if defined(TUNING)
template <class Tuning, class Default> struct chosen {
  template <class... What> SMALTI_HD constexpr Tuning operator()(What...) const { return Tuning{TUNING}; }
};
template <class Tuning> SMALTI_HD constexpr Tuning picked(Tuning) { return Tuning{TUNING}; }
#else
template <class Tuning, class Default> using chosen = Default;
template <class Tuning> SMALTI_HD constexpr Tuning picked(Tuning t) { return t; }
#endif

}  // namespace kernels
