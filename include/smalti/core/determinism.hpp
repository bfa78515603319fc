// What an op promises about the bits of its results.
#pragma once
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA {

//! Ordered: each level includes those before it.
enum class determinism : int {
  not_guaranteed,   //!< the order of sums may change from run to run
  run_to_run,       //!< same program, same device, same arguments: same bits (the default)
  gpu_to_gpu        //!< same bits on every GPU: integers, selection, f32 without tensor cores
};

//! Independent of the level and of each other.
struct invariance {
  bool batch = false;       //!< a row's bits do not depend on what else is in the batch
  bool partition = false;   //!< a collective's bits do not depend on how ranks are laid out
};

}  // namespace smalti::inline SMALTI_DATA
