// Values that their writer fills in place in the pool.
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "kv/engine.h"
#include "kv/exceptions.h"

namespace daxkv::kv {

absl::StatusOr<Address> Engine::ReserveValue(std::string_view key, uint64_t size_bytes) {
  absl::Status valid = CheckKey(key);
  // Only its size is looked at.
  if (valid.ok()) valid = CheckValueSize(size_bytes);
  if (!valid.ok()) return valid;
  absl::StatusOr<Address> address = AllocateRecord(RecordSizeBytes(key.size(), size_bytes));
  if (!address.ok()) return address.status();
  std::memcpy(space_->At(*address) + sizeof(RecordHeader), key.data(), key.size());
  reserved_values_.fetch_add(1, std::memory_order_relaxed);
  return address;
}

char* Engine::ReservedBytes(Address address, uint64_t key_size_bytes) const {
  return space_->At(address) + sizeof(RecordHeader) + key_size_bytes;
}

absl::Status Engine::CommitValue(Address address, std::string_view key, uint64_t size_bytes) {
  // The last access, also when an exception leaves: a dropped keyspace may go now.
  const auto done =
      absl::MakeCleanup([this] { reserved_values_.fetch_sub(1, std::memory_order_release); });
  const uint32_t body_checksum =
      SealRecord(*space_, address, kValueRecord, NextSequence(), key.size(), size_bytes);
  return Publish(key, address, body_checksum, /*expected=*/nullptr);
}

void Engine::AbandonValue(Address address) {
  space_->Abandon(address);
  // The last access: a dropped keyspace may go now.
  reserved_values_.fetch_sub(1, std::memory_order_release);
}

struct ValueWriter::Impl {
  Impl(std::shared_ptr<Engine> engine_in, std::string_view key_in)
      : engine(std::move(engine_in)), key(key_in) {}
  ~Impl() {
    if (address != kNullAddress) engine->AbandonValue(address);
  }

  const std::shared_ptr<Engine> engine;
  const std::string key;
  Address address = kNullAddress;  // Null once committed.
  absl::Span<char> bytes;
};

ValueWriter::ValueWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ValueWriter::ValueWriter(ValueWriter&&) noexcept = default;
ValueWriter& ValueWriter::operator=(ValueWriter&&) noexcept = default;
ValueWriter::~ValueWriter() = default;

absl::Span<char> ValueWriter::bytes() const {
  return impl_ == nullptr ? absl::Span<char>() : impl_->bytes;
}

absl::Status ValueWriter::Commit() {
  if (impl_ == nullptr || impl_->address == kNullAddress) {
    return absl::FailedPreconditionError("the value was committed before, or moved away");
  }
  Impl& impl = *impl_;
  const Address address = std::exchange(impl.address, kNullAddress);
  const uint64_t size_bytes = std::exchange(impl.bytes, {}).size();
  const dax::SurviveMediaErrors survive;
  const Gate::Pass pass(impl.engine->gate());
  if (pass.refused()) {
    impl.engine->AbandonValue(address);
    return impl.engine->Refusal();
  }
  return WithoutExceptions([&] { return impl.engine->CommitValue(address, impl.key, size_bytes); });
}

absl::StatusOr<ValueWriter> Keyspace::NewValueWriter(std::string_view key, uint64_t size_bytes) {
  if (engine_ == nullptr || engine_->is_shut()) {
    return engine_ == nullptr ? absl::FailedPreconditionError("the store is closed")
                              : engine_->Refusal();
  }
  const dax::SurviveMediaErrors survive;
  const Gate::Pass pass(engine_->gate());
  if (pass.refused()) return engine_->Refusal();
  return WithoutExceptions([&]() -> absl::StatusOr<ValueWriter> {
    auto impl = std::make_unique<ValueWriter::Impl>(engine_, key);
    absl::StatusOr<Address> address = engine_->ReserveValue(key, size_bytes);
    if (!address.ok()) return address.status();
    impl->address = *address;
    impl->bytes = absl::MakeSpan(engine_->ReservedBytes(*address, key.size()), size_bytes);
    return ValueWriter(std::move(impl));
  });
}

}  // namespace daxkv::kv
