// How an agent reaches the GPU. There is one kernel, run_agent. Its name carries a Maker, an empty type with
//     template <target T> using agent = ...;
// so that one name serves every architecture: the kernel takes the agent of the architecture it is compiled for, and
// the host, which needs the tile's shape to size the grid, asks the same Maker with the target whose code the driver
// will load (code_target). The agents of all targets flatten to the same fields; only their tuning differs.
#pragma once
#include <cuda_runtime_api.h>
#include <type_traits>
#include <smalti/core/context.hpp>
#include <smalti/core/cuda_context.hpp>
#include <smalti/core/status.hpp>
#include <smalti/tile/cuda_tile/block.cuh>
#include <smalti/tile/flat.hpp>
#include <smalti/tile/grid.hpp>

namespace smalti::inline SMALTI_CODE::cuda_tile {

template <target T> using target_constant = std::integral_constant<target, T>;

//! f(target_constant<T>{}) for the GPU target T that t is: a run-time target where a type is needed.
template <class F> constexpr decltype(auto) for_target(target t, F&& f) {
  switch (t) {
    case target::sm120: return f(target_constant<target::sm120>{});
    case target::sm100: return f(target_constant<target::sm100>{});
    case target::sm90: return f(target_constant<target::sm90>{});
    case target::sm89: return f(target_constant<target::sm89>{});
    default: return f(target_constant<target::sm80>{});
  }
}

//! The architectures this file is compiled for, as a type: what depends on them takes it as a parameter, so that
//! files compiled for different ones do not mix bodies.
template <int... Archs> struct code_list {
  //! The compiled code a device of compute capability `arch` (as 90 for 9.0) runs, as 90; 0 where there is none.
  //! The newest of its own generation that is not newer than the device, else the newest older one (the driver
  //! then compiles the Tile IR beside it).
  static constexpr int for_device(int arch) {
    int own = 0, older = 0;
    for (const int a : {Archs / 10 ...}) {
      if (a > arch) continue;
      if (a / 10 == arch / 10 && a > own) own = a;
      if (a > older) older = a;
    }
    return own != 0 ? own : older;
  }
};
#if defined(__CUDA_ARCH_LIST__)
using compiled_code = code_list<__CUDA_ARCH_LIST__>;
#else
using compiled_code = code_list<>;
#endif

//! The target whose agent runs on a device, into `out`.
template <class Code = compiled_code> constexpr status code_target(int arch, target& out) {
  const int code = Code::for_device(arch);
  if (code == 0)
    return {errc::unsupported_arch,
            "the program holds no code for this device: add its architecture to CMAKE_CUDA_ARCHITECTURES (nvcc -arch)", arch, 0};
  out = target_of(code);
  return {};
}

namespace detail {

#if defined(__CUDA_ARCH__)
constexpr target this_target = target_of(__CUDA_ARCH__ / 10);
#else
constexpr target this_target = target::sm80;  // the host's pass sees the kernel's name and arguments only
#endif
template <class Maker> using agent_here = typename Maker::template agent<this_target>;

template <class Agent> SMALTI_HD consteval int occupancy_of() {
  if constexpr (requires { Agent::occupancy; }) return Agent::occupancy;
  else return 1;
}
template <class Agent> SMALTI_HD consteval int cluster_of() {
  if constexpr (requires { Agent::cluster; }) return Agent::cluster;
  else return 1;
}
template <class Maker, class Fields>
constexpr bool same_fields = std::is_same_v<flat::fields_of<typename Maker::template agent<target::sm80>>, Fields>&&
    std::is_same_v<flat::fields_of<typename Maker::template agent<target::sm89>>, Fields>&&
        std::is_same_v<flat::fields_of<typename Maker::template agent<target::sm90>>, Fields>&&
            std::is_same_v<flat::fields_of<typename Maker::template agent<target::sm100>>, Fields>&&
                std::is_same_v<flat::fields_of<typename Maker::template agent<target::sm120>>, Fields>;

}  // namespace detail

//! The kernel of every agent. The hint with key 0 acts on the architecture being compiled.
template <class Maker, class... Fields>
[[using cutile: hint(0, occupancy = detail::occupancy_of<detail::agent_here<Maker>>()),
  hint(0, num_cta_in_cga = detail::cluster_of<detail::agent_here<Maker>>())]] __tile_global__ void
run_agent(Fields... fields) {
  const auto agent = flat::rebuild<detail::agent_here<Maker>>(fields...);
  block here;
  agent(here);
}

namespace detail {
template <class Maker, class... Fields> const void* kernel_of(flat::scalars<Fields...>) { return reinterpret_cast<const void*>(&run_agent<Maker, Fields...>); }
}  // namespace detail

//! Queues the agents of a grid on `stream`. `agent` is an agent of any target, or any aggregate with its fields: only
//! the fields travel. An empty grid is no launch. The device must be the stream's (device_guard).
template <class Maker, class Agent, class Code = compiled_code>
status launch(cudaStream_t stream, Maker, const grid& g, const Agent& agent) {
  static_assert(std::is_empty_v<Maker>, "smalti: a maker is an empty type with  template <target T> using agent = ...");
  using fields = flat::fields_of<Agent>;
  static_assert(detail::same_fields<Maker, fields>,
                "smalti: the agents of all targets have the same fields, and the launch passes them: only tuning may depend on the target");
  if (g.x <= 0 || g.y <= 0 || g.z <= 0) return {};
  constexpr int most = 65535;  // of y and z, on every architecture
  if (g.y > most)
    return {errc::out_of_reach, "the grid's y extent is beyond 65535 blocks: split the problem or take larger tiles", g.y, most};
  if (g.z > most) return {errc::out_of_reach, "the grid's z extent is beyond 65535 blocks: split the problem", g.z, most};
  void* addresses[fields::count + 1];
  int i = 0;
  flat::each(agent, [&](const auto& scalar) { addresses[i++] = const_cast<void*>(static_cast<const void*>(&scalar)); });
  const cudaError_t error = cudaLaunchKernel(detail::kernel_of<Maker>(fields{}), dim3(g.x, g.y, g.z), dim3(1), addresses, 0, stream);
  if (error == cudaErrorNoKernelImageForDevice)
    return {errc::unsupported_arch,
            "the program holds no code for this device: add its architecture to CMAKE_CUDA_ARCHITECTURES (nvcc -arch)", error, 0};
  return status_of(error, "a kernel could not be launched");
}

}  // namespace smalti::inline SMALTI_CODE::cuda_tile
