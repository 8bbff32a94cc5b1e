#include "packed_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <mutex>
#include <new>

namespace fathom {

namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSlab = size_t{64} << 20;

// A mapping whose matrices all lie in large pages: a matrix alone is often smaller than one.
class Slab {
   public:
    explicit Slab(size_t size) : reserved_(size + kHugePage) {
        mapping_ = mmap(nullptr, reserved_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapping_ == MAP_FAILED) throw std::bad_alloc();
        const uintptr_t address = (reinterpret_cast<uintptr_t>(mapping_) + kHugePage - 1) / kHugePage * kHugePage;
        next_ = reinterpret_cast<uint8_t*>(address);
        end_ = next_ + size;
#ifdef MADV_HUGEPAGE
        madvise(next_, size, MADV_HUGEPAGE);  // advice: without it the weights are as right, and a little slower
#endif
    }
    ~Slab() { munmap(mapping_, reserved_); }
    Slab(const Slab&) = delete;
    Slab& operator=(const Slab&) = delete;

    uint8_t* take(size_t size) {
        if (static_cast<size_t>(end_ - next_) < size) return nullptr;
        uint8_t* taken = next_;
        next_ += size;
        return taken;
    }

   private:
    size_t reserved_;
    void* mapping_;
    uint8_t* next_;
    uint8_t* end_;
};

// Whether pages would come back as they are if this process forgot them: all that are here are a file's, none changed.
bool nothing_of_its_own(uintptr_t first_page, size_t pages) {
    constexpr uint64_t kPresent = uint64_t{1} << 63, kSwapped = uint64_t{1} << 62, kFile = uint64_t{1} << 61;
    const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    uint64_t entries[512];
    bool nothing = pagemap >= 0;
    for (size_t done = 0; nothing && done < pages; done += std::size(entries)) {
        const size_t some = std::min(pages - done, std::size(entries));
        const off_t from = static_cast<off_t>((first_page + done) * sizeof(uint64_t));
        const ssize_t wanted = static_cast<ssize_t>(some * sizeof(uint64_t));
        nothing = pread(pagemap, entries, some * sizeof(uint64_t), from) == wanted;
        nothing = nothing && std::none_of(entries, entries + some, [](uint64_t entry) {
                      return (entry & kSwapped) || ((entry & kPresent) && !(entry & kFile));
                  });
    }
    if (pagemap >= 0) close(pagemap);
    return nothing;
}

}  // namespace

std::shared_ptr<uint8_t> packed_memory(size_t size) {
    static std::mutex mutex;
    static std::weak_ptr<Slab> current;  // goes with the last session that uses it
    size = (size + 63) / 64 * 64;
    const std::lock_guard<std::mutex> lock(mutex);
    std::shared_ptr<Slab> slab = current.lock();
    uint8_t* taken = slab ? slab->take(size) : nullptr;
    if (taken == nullptr) {
        slab = std::make_shared<Slab>(size > kSlab ? size : kSlab);
        taken = slab->take(size);
        current = slab;
    }
    return {slab, taken};
}

void let_go(const void* data, size_t size) {
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + size) / page * page;
    if (begin >= end) return;
    if (nothing_of_its_own(begin / page, (end - begin) / page)) {
        madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);  // the system's copy of the file stays
        return;
    }
#ifdef MADV_PAGEOUT
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_PAGEOUT);
#endif
}

}  // namespace fathom
