// What a figure belongs to: machine, compiler, commit and peers go into the JSON's context; the date and the
// number of processors are Google Benchmark's own.
#pragma once
#include <string>

namespace bench {

//! Adds cpu, instructions, compiler, flags, commit (with "-dirty" where files differ) and peers to the context.
void describe_machine(const std::string& peers);

}  // namespace bench
