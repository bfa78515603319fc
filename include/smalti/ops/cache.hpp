// Key and value caches: pages of one pool for many sequences. docs/ops/cache.md has the rules, the layouts and an example.
#pragma once
#include <smalti/ops/cache/append.hpp>
#include <smalti/ops/cache/balance.hpp>
#include <smalti/ops/cache/compact.hpp>
#include <smalti/ops/cache/compress.hpp>
#include <smalti/ops/cache/copy_pages.hpp>
#include <smalti/ops/cache/hired.hpp>
#include <smalti/ops/cache/match_pairs.hpp>
#include <smalti/ops/cache/page_allocator.hpp>
#include <smalti/ops/cache/paged.hpp>
#include <smalti/ops/cache/pool.hpp>
#include <smalti/ops/cache/prefix_index.hpp>
#include <smalti/ops/cache/source.hpp>
#include <smalti/ops/cache/systems.hpp>
#include <smalti/ops/cache/tables.hpp>
#include <smalti/ops/cache/tiered.hpp>
