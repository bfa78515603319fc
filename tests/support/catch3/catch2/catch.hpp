// Catch2 3 under the name its version 2 had.
#pragma once
#include <catch2/catch_all.hpp>
using Catch::Approx;
