// Which record each key has after a repair: what the old leaves say, as far as they can be
// believed, and what lies about for the rest. Internal to kv/.
//
// Not thread-safe.
#ifndef DAXKV_KV_REPAIR_PLAN_H_
#define DAXKV_KV_REPAIR_PLAN_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kv/repair.h"
#include "kv/repair_survey.h"
#include "kv/repair_tree.h"

namespace daxkv::kv {

// Fills a report's lists, which are bounded.
class Findings {
 public:
  // Of a keyspace; the default one's name is empty.
  Findings(RepairReport* report, std::string keyspace)
      : report_(*report), keyspace_(std::move(keyspace)) {}
  void Rebuilt(std::string line) { Add(&report_.rebuilt, InKeyspace(std::move(line))); }
  // `key`: if it is known. `why` follows on "the record ...".
  void LostRecord(std::optional<std::string_view> key, Address address);
  void LostRange(std::string_view from, std::optional<std::string_view> to, std::string_view why);
  void LostElse(std::string line) { Add(&report_.lost, InKeyspace(std::move(line))); }
  RepairReport& report() { return report_; }

 private:
  template <typename T>
  void Add(std::vector<T>* list, T item) {
    if (list->size() < RepairReport::kMostLines) {
      list->push_back(std::move(item));
    } else {
      report_.lists_cut = true;
    }
  }
  std::string InKeyspace(std::string line) const;

  RepairReport& report_;
  const std::string keyspace_;
};

// Of one keyspace. JudgeLeaves of all keyspaces comes before JudgeRest of any.
class RepairPlan {
 public:
  RepairPlan(Survey* survey, OldTree* tree, Findings* findings)
      : survey_(*survey), tree_(*tree), findings_(*findings) {}

  // `faults_elsewhere`: how many of those found are not this index's.
  void JudgeLeaves(size_t faults_elsewhere);
  // What atomic batches and records that nothing refers to say. `batch_words`: kBatchTableWords of
  // them; `surveys`: of all keyspaces, the default one's first. Afterwards it is known whether a
  // new index is needed.
  void JudgeRest(const uint64_t* batch_words, absl::Span<Survey* const> surveys);
  bool needs_new_index() const { return needs_new_index_; }
  // With the batch table cleared, batches that are not finished in the index would be lost.
  void FinishBatchesByNewIndex() { needs_new_index_ |= !overrides_.empty(); }
  // Records that the new index will have, at most, and the bytes of their keys.
  uint64_t most_records() const { return most_records_; }
  uint64_t key_size_bytes() const { return key_size_bytes_; }

  // Every key of the new index with its record, ascending; tells what is lost. Stops at a status
  // that is not OK.
  absl::Status ForEach(absl::FunctionRef<absl::Status(std::string_view, Address)> visit);
  // Slots with intact records that the new index does not refer to. After ForEach.
  const std::vector<Address>& rejected() const { return rejected_; }

 private:
  struct Entry {
    std::string_view key;
    Address address;
    uint64_t sequence;
    bool recovered = false;
  };
  // A slot that leads to no record of its tag.
  struct BadSlot {
    uint64_t word;
    std::optional<RecordView> claim;  // A damaged record there, whose key has the slot's tag.
    bool damaged_record;              // Something damaged lies there that may have been its record.
  };
  struct LeafJudgement {
    std::vector<Entry> entries;
    std::vector<BadSlot> bad;
  };
  struct Candidate {
    size_t leaf;
    Address address;
    bool certain;  // A clean close says that it is in use.
  };
  struct Claim {
    size_t leaf;
    RecordView record;  // Damaged; its key is probably right.
  };
  struct Override {
    Address address;  // Null: deleted.
    uint64_t sequence;
    bool lost;  // The record that the key should get is damaged.
  };

  LeafJudgement LookAt(size_t i) const;
  bool IsWithin(size_t i, std::string_view key) const;
  void JudgeLeaf(size_t i);
  void JudgeBatches(const uint64_t* words);
  void JudgeBatch(const RecordView& batch);
  // In whatever keyspace.
  std::optional<Survey::Place> FindAnywhere(Address address) const;
  std::optional<RecordView> IntactAnywhere(Address address) const;
  // Whether it lies in an extent of no keyspace that lives: that one was dropped meanwhile.
  bool IsOfDropped(Address address) const;
  void FindCandidates(bool maps_known);
  void ConsiderSlot(const SurveyedExtent& extent, uint32_t slot);
  bool IsSuperseded(size_t leaf, const RecordView& record) const;
  absl::Status VisitLeaf(size_t i,
                         absl::FunctionRef<absl::Status(std::string_view, Address)> visit);
  void AddCandidates(size_t i, const LeafJudgement& judged, std::vector<Entry>* entries);
  void TellLosses(size_t i, const LeafJudgement& judged, const std::vector<Entry>& kept);
  void Fault(std::string line) {
    needs_new_index_ = true;
    findings_.Rebuilt(std::move(line));
  }

  Survey& survey_;
  absl::Span<Survey* const> surveys_;  // While the rest is judged.
  OldTree& tree_;
  Findings& findings_;
  bool needs_new_index_ = false;
  // Every record slot is known to be used or free, and no used one is unreadable and unaccounted
  // for.
  bool complete_ = true;
  uint64_t most_records_ = 0, key_size_bytes_ = 0;
  std::vector<Candidate> candidates_;  // Ascending by leaf, as claims_.
  std::vector<Claim> claims_;
  std::unordered_set<Address> bad_targets_;  // Damaged records that bad slots lead to.
  std::unordered_set<Address> of_batches_;   // They are an index's by their batch only.
  std::map<std::string_view, Override> overrides_;
  std::vector<Address> rejected_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_REPAIR_PLAN_H_
