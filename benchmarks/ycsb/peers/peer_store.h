// What the bindings of the peers share: where a store lies, how big it will be, what it survives.
//
// All peers are set up alike: records are not compressed (their bytes are random, so it would cost
// time and gain nothing), caches are as large as the data, and each put returns when it would
// survive the end of the process; what more it survives the property NAME.sync decides, and the
// report says.
#ifndef DAXKV_BENCHMARKS_YCSB_PEERS_PEER_STORE_H_
#define DAXKV_BENCHMARKS_YCSB_PEERS_PEER_STORE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "benchmarks/ycsb/engine.h"
#include "benchmarks/ycsb/properties.h"
#include "benchmarks/ycsb/report.h"

namespace daxkv::ycsb {

// Makes the directory of a store that a load fills. In the other phases kNotFound, naming
// `property`, when there is nothing at `path`.
absl::Status PrepareDirectory(const std::string& path, std::string_view property, Phase phase);

// How many records there are when the phase ends, if every insert of the mix is a new key.
uint64_t ExpectedRecords(const Settings& settings);
// Of the largest record as the driver encodes it (benchmarks/ycsb/record.h).
uint64_t RecordSizeBytes(const Settings& settings);
// Keys and records of all ExpectedRecords.
uint64_t ExpectedDataBytes(const Settings& settings);
// The size of a cache: what the property says, or where that is 0 room for all data and a quarter.
uint64_t CacheSizeBytes(const Settings& settings, std::string_view property);

// "tmpfs", "ext2/ext3/ext4", "xfs", or the type's number.
std::string FileSystemName(const std::string& path);
// What a put that has been written to a file of `path` survives; `synced`: and waited for, by fsync
// or msync.
std::string FilePromise(const std::string& path, bool synced);

}  // namespace daxkv::ycsb

#endif  // DAXKV_BENCHMARKS_YCSB_PEERS_PEER_STORE_H_
