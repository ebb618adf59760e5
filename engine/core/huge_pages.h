// Memory in huge pages, where the kernel has them to give. What is streamed through once a token (weights) or
// read in small scattered blocks (the KV cache) otherwise waits for address translations, and the processor's
// own prefetching stops at every 4 KiB.
#pragma once

#include <cstddef>
#include <memory>
#include <memory_resource>

namespace kvcrush {

// Asks for huge pages in those parts of [data, data + size_bytes) that could be any. A wish: no error is
// reported.
void prefer_huge_pages(void* data, std::size_t size_bytes);

// Memory for many things that end together: nothing is given back before the resource itself goes. Not
// thread-safe.
std::shared_ptr<std::pmr::memory_resource> make_huge_page_memory();

}  // namespace kvcrush
