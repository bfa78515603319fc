// What a collective costs in time: links as latency and time per byte, bandwidths as they are reported, and a fit of the
// model to measurements. The model is only as good as its fit: fit(...) says how far it is off, and a model that misses a
// held-out measurement by more than 15 % is qualitative: it may rank schedules and must not be quoted.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <smalti/comm/schedule.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! A link: a message of n bytes arrives alpha + n beta seconds after it was sent, and keeps the link busy for n beta.
struct link_cost {
  double alpha = 1e-6;   //!< s
  double beta = 1e-10;   //!< s per byte
  constexpr double time(double bytes) const { return alpha + bytes * beta; }
};

//! Ranks in groups of `group` neighbours (nodes): links inside a group, links across, and NICs that a group's ranks share.
//! Every rank has one port out and one in, through which all its messages go. group = 0: all ranks are alike.
struct network {
  link_cost inside{}, across{};
  int group = 0;
  int nics = 0;          //!< of a group, for traffic across: rank i uses NIC i % nics; 0: one for each rank
  bool wires = false;    //!< a wire from every rank to every other instead of ports: full meshes, rings
  double gamma = 0;      //!< s per byte of combined input
  double kappa = 0;      //!< s per byte copied or finished

  constexpr bool crosses(int a, int b) const { return group > 0 && a / group != b / group; }
  constexpr const link_cost& between(int a, int b) const { return crosses(a, b) ? across : inside; }
};

//! The factor from algorithm bandwidth (bytes of the whole vector / time) to bus bandwidth, which compares with a link's
//! rate whatever P: 2(P-1)/P for all_reduce; (P-1)/P for reduce_scatter, all_gather, all_to_all, gather, scatter; 1 for others. For one rank 0:
//! report algorithm bandwidth alone. (As nccl-tests reports it.)
constexpr double bus_factor(collective kind, int ranks) {
  switch (kind) {
    case collective::all_reduce: return 2.0 * (ranks - 1) / ranks;
    case collective::reduce_scatter: case collective::all_gather: case collective::all_to_all: case collective::gather: case collective::scatter:
      return double(ranks - 1) / ranks;
    default: return 1;
  }
}

//! One measurement: a rank sent `messages` one after another, `bytes` in all.
struct cost_sample {
  double messages, bytes, seconds;
};

struct cost_fit {
  link_cost link;
  double worst = 0;   //!< greatest |predicted - measured| / measured over the samples
  constexpr double predict(double messages, double bytes) const { return messages * link.alpha + bytes * link.beta; }
  //! Whether the model meets a measurement it has not seen.
  constexpr bool holds(const cost_sample& s, double tolerance = 0.15) const {
    const double off = predict(s.messages, s.bytes) - s.seconds;
    return (off < 0 ? -off : off) <= tolerance * s.seconds;
  }
};

//! The alpha and beta with the least sum of squared relative errors, neither negative.
//! @pre two samples or more, of seconds > 0, whose messages and bytes are not in one proportion
inline status fit(const cost_sample* samples, std::size_t count, cost_fit& result) {
  if (samples == nullptr && count > 0) return {errc::null_pointer, "fit: samples is null"};
  if (count < 2) return {errc::bad_shape, "fit: two samples at least: a short message and a long one", std::int64_t(count), 2};
  // Normal equations of (messages / t) alpha + (bytes / t) beta = 1.
  double mm = 0, mb = 0, bb = 0, m1 = 0, b1 = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (!(samples[i].seconds > 0) || !(samples[i].messages >= 0) || !(samples[i].bytes >= 0))
      return {errc::bad_value, "fit: a sample needs seconds above 0, and messages and bytes of at least 0", std::int64_t(i), 0};
    const double m = samples[i].messages / samples[i].seconds, b = samples[i].bytes / samples[i].seconds;
    mm += m * m, mb += m * b, bb += b * b, m1 += m, b1 += b;
  }
  const double det = mm * bb - mb * mb;
  if (!(det > 1e-12 * mm * bb)) return {errc::bad_value, "fit: the samples cannot tell latency from bandwidth: measure sizes further apart"};
  double alpha = (m1 * bb - b1 * mb) / det, beta = (mm * b1 - mb * m1) / det;
  if (alpha < 0) alpha = 0, beta = b1 / bb;
  if (beta < 0) beta = 0, alpha = m1 / mm;
  result.link = {alpha, beta};
  result.worst = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double off = std::abs(result.predict(samples[i].messages, samples[i].bytes) / samples[i].seconds - 1);
    result.worst = off > result.worst ? off : result.worst;
  }
  return {};
}

}  // namespace smalti::inline SMALTI_CODE::comm
