// Codecs and formats: what a stored code means as a number. Each part has its header; this one brings them all.
//
//   codecs/element.hpp      the concept, rules for ties
//   codecs/integer.hpp      offset_int<Bits, Offset>
//   codecs/small_float.hpp  e2m1 e3m2 e2m3 e4m3 e5m2
//   codecs/lookup.hpp       nf4 fp4 dynamic_map
//   scales.hpp              scales, zero points, second levels
//   formats.hpp             q4_0 ... mxfp4 ... nvfp4 ... int_affine: codec and scales under their names
#pragma once
#include <smalti/policy/codecs/element.hpp>
#include <smalti/policy/codecs/integer.hpp>
#include <smalti/policy/codecs/lookup.hpp>
#include <smalti/policy/codecs/small_float.hpp>
#include <smalti/policy/formats.hpp>
#include <smalti/policy/scales.hpp>
