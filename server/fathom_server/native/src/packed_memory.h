// Memory for packed weights: large pages where the system gives them, many matrices to a mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace fathom {

// `size` bytes at a multiple of 64. They live as long as the pointer or a copy of it. Throws std::bad_alloc.
std::shared_ptr<uint8_t> packed_memory(size_t size);

// Tells the system that mapped pages, read once, may go; they come back when read again.
void let_go(const void* data, size_t size);

}  // namespace fathom
