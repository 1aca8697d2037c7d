// The heap of a libpmemobj pool, as far as one must know which bytes libpmemobj is going to write
// to: where they are holes, they need blocks first.
//
// libpmemobj's layout version 6: zones of a little less than 16 GiB, each a header and then chunks
// of 256 KiB. The header says of which chunks a free block or an object is made. An object's own
// header lies at the start of its first chunk, and an object is made from a free block's start.
#ifndef DAXKV_DAX_OBJECT_CHUNKS_H_
#define DAXKV_DAX_OBJECT_CHUNKS_H_

#include <cstdint>
#include <optional>

#include "absl/functional/function_ref.h"

namespace daxkv::dax {

class ObjectChunks {
 public:
  static constexpr uint64_t kChunkBytes = 256 << 10;
  static constexpr uint64_t kObjectHeaderBytes = 64;  // At most.

  // Of the pool that is mapped at `base`. All offsets are pool offsets.
  explicit ObjectChunks(const char* base);

  // Where the chunk starts that has the byte at `offset`, or would have it if the pool reached so
  // far; a zone's header counts as the end of the chunk before it.
  uint64_t StartOfChunkAt(uint64_t offset) const;
  // Visits what is written to in [begin, end) when the heap grows over it: the headers of zones,
  // each with the header of the first object behind it.
  void ForEachZoneHeader(uint64_t begin, uint64_t end,
                         absl::FunctionRef<void(uint64_t offset, uint64_t size_bytes)> visit) const;
  // Visits the start of every free block below `end`, the pool's. What is damaged is passed over.
  // Thread safety: nobody may be in a call of libpmemobj's.
  void ForEachFreeBlock(uint64_t end, absl::FunctionRef<void(uint64_t offset)> visit) const;

  // Where the heap ends by libpmemobj's own records, of a pool of `size_bytes` that is not open;
  // nullopt where these can't be right, or its zones don't say the same. `read` tells whether it
  // could read so many bytes.
  using Read = absl::FunctionRef<bool(uint64_t offset, void* to, uint64_t size_bytes)>;
  static std::optional<uint64_t> FindEnd(uint64_t size_bytes, Read read);

 private:
  const char* const base_;
  const uint64_t first_zone_;
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_OBJECT_CHUNKS_H_
