// From DLPack tensors to views. Opt-in. DLPack's header is not needed: the functions take any struct with DLTensor's
// member names (data, device, ndim, dtype, shape, strides, byte_offset), so every version of it will do.
// Numbers of types and devices: https://dmlc.github.io/dlpack/latest/c_api.html
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/core/adopt.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>
#include <smalti/core/view.hpp>

namespace smalti::inline SMALTI_DATA {

//! DLDataType without its lanes: DLDataTypeCode and bits.
struct dlpack_dtype {
  int code, bits;
  constexpr bool operator==(const dlpack_dtype&) const = default;
};

//! How DLPack names an element type. Specialise it for a type of your own that DLPack knows.
template <class T> struct dlpack_dtype_of {
  static_assert(std::is_arithmetic_v<T>, "smalti: DLPack has no name for this element type: specialise smalti::dlpack_dtype_of for it");
  static constexpr dlpack_dtype value{std::is_same_v<T, bool> ? 6 : std::is_floating_point_v<T> ? 2 : std::is_unsigned_v<T> ? 1 : 0,
                                      8 * int(sizeof(T))};
};
template <class T> struct dlpack_dtype_of<const T> : dlpack_dtype_of<T> {};
template <> struct dlpack_dtype_of<fp16> { static constexpr dlpack_dtype value{2, 16}; };
template <> struct dlpack_dtype_of<bf16> { static constexpr dlpack_dtype value{4, 16}; };
template <> struct dlpack_dtype_of<fp8_e4m3> { static constexpr dlpack_dtype value{10, 8}; };        // kDLFloat8_e4m3fn
template <> struct dlpack_dtype_of<fp8_e4m3fnuz> { static constexpr dlpack_dtype value{11, 8}; };
template <> struct dlpack_dtype_of<fp8_e5m2> { static constexpr dlpack_dtype value{12, 8}; };
template <> struct dlpack_dtype_of<fp8_e5m2fnuz> { static constexpr dlpack_dtype value{13, 8}; };
template <> struct dlpack_dtype_of<e8m0> { static constexpr dlpack_dtype value{14, 8}; };            // kDLFloat8_e8m0fnu

//! Where a view must lie: host memory, or memory that CUDA device number `cuda` reaches.
struct dlpack_place {
  int cuda = -1;                        //!< -1: the host
  //! kDLCPU 1, kDLCUDA 2, kDLCUDAHost 3 (pinned), kDLCUDAManaged 13.
  constexpr status check(int type, int id) const {
    const bool shared = type == 3 || type == 13;
    if (cuda < 0) {
      if (type == 1 || shared) return {};
      return {errc::bad_value, "the tensor is not in memory that the host reads: copy it to the host", type, 1};
    }
    if (shared) return {};
    if (type != 2) return {errc::bad_value, "the tensor is not in CUDA memory: copy it to the device of the context", type, 2};
    if (id != cuda) return {errc::bad_value, "the tensor is on another CUDA device than the context", id, cuda};
    return {};
  }
};

namespace detail {

struct dlpack_axes { std::int64_t extent[3], stride[3]; };

// Everything but the geometry: rank, type, place, offset. Fills in the strides that DLPack leaves out.
template <int Rank, class T, class Tensor>
status read_dlpack(const Tensor& from, dlpack_place place, T*& data, dlpack_axes& axes) {
  static_assert(requires { from.data; from.device.device_type; from.device.device_id; from.ndim; from.dtype.code; from.dtype.bits;
                           from.dtype.lanes; from.shape; from.strides; from.byte_offset; },
    "smalti: dlpack_to_view and dlpack_to_stack take a DLTensor (of a DLManagedTensor: its member dl_tensor)");
  if (from.ndim != Rank)
    return {errc::bad_shape, Rank == 2 ? "a view takes a tensor of 2 axes: reshape it" : "a stack takes a tensor of 3 axes: reshape it", from.ndim, Rank};
  if (from.shape == nullptr) return {errc::null_pointer, "the tensor has no shape", 0, Rank};
  constexpr dlpack_dtype want = dlpack_dtype_of<T>::value;
  if (from.dtype.lanes != 1) return {errc::bad_value, "vector elements are not taken: dtype.lanes must be 1", from.dtype.lanes, 1};
  if (int(from.dtype.code) != want.code)
    return {errc::bad_value, "the tensor's type is not that of the view: dtype.code differs", std::int64_t(from.dtype.code), want.code};
  if (int(from.dtype.bits) != want.bits)
    return {errc::bad_value, "the tensor's type is not that of the view: dtype.bits differs", std::int64_t(from.dtype.bits), want.bits};
  if (status s = place.check(int(from.device.device_type), int(from.device.device_id)); !s) return s;
  std::int64_t compact = 1;
  for (int axis = Rank - 1; axis >= 0; --axis) {
    axes.extent[axis] = from.shape[axis];
    axes.stride[axis] = from.strides == nullptr ? compact : std::int64_t(from.strides[axis]);
    // A hostile shape may overflow: then the compact stride means nothing, and some extent is out of reach anyway.
    if (__builtin_mul_overflow(compact, std::int64_t(from.shape[axis]), &compact)) compact = reach + 1;
  }
  data = from.data == nullptr ? nullptr
                              : reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(from.data) + static_cast<std::uintptr_t>(from.byte_offset));
  return {};
}

}  // namespace detail

//! The matrix a DLTensor of 2 axes describes; strides may be null (compact). Refuses another type, rank, device, column
//! stride, overlapping rows, extents and strides beyond 32 bits, and memory that breaks the view's promise of 16 bytes
//! (view<T, 1> promises nothing). The tensor keeps its memory: the view is valid as long as the tensor is.
//! `to` is unchanged on refusal.
template <class Tensor, class T, int Step>
status dlpack_to_view(const Tensor& from, dlpack_place place, view<T, Step>& to) {
  T* data = nullptr;
  detail::dlpack_axes a{};
  if (status s = detail::read_dlpack<2>(from, place, data, a); !s) return s;
  return adopt(data, a.extent[0], a.extent[1], a.stride[0], a.stride[1], to);
}

//! The stack a DLTensor of 3 axes describes: axis 0 counts matrices.
template <class Tensor, class T, int Step>
status dlpack_to_stack(const Tensor& from, dlpack_place place, stack<T, Step>& to) {
  T* data = nullptr;
  detail::dlpack_axes a{};
  if (status s = detail::read_dlpack<3>(from, place, data, a); !s) return s;
  return adopt(data, a.extent[0], a.extent[1], a.extent[2], a.stride[0], a.stride[1], a.stride[2], to);
}

}  // namespace smalti::inline SMALTI_DATA
