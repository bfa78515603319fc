// Routing: from logits to experts and weights, to the rows of a grouped product, and what keeps the experts' loads even.
#pragma once
#include <smalti/ops/route/balance.hpp>
#include <smalti/ops/route/index.hpp>
#include <smalti/ops/route/named.hpp>
#include <smalti/ops/route/router.hpp>
