// What every target defines: called with one input after another, by libFuzzer or by replay_main.cpp. A
// broken invariant ends the process (KVCRUSH_CHECK), as does whatever a sanitizer finds.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
