#include "benchmarks/ycsb/core_workload.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace daxkv::ycsb {
namespace {

constexpr int64_t kMaxKeys = 1'000'000'000'000;
constexpr int64_t kMaxFieldLength = 64 << 20;

LengthGenerator::Distribution DistributionNamed(const std::string& name) {
  if (name == "uniform") return LengthGenerator::Distribution::kUniform;
  if (name == "zipfian") return LengthGenerator::Distribution::kZipfian;
  return LengthGenerator::Distribution::kConstant;
}

absl::Status DoNotFit(const Settings& settings, std::string_view name, const std::string& why) {
  return absl::InvalidArgumentError(
      absl::StrCat(settings.Origin(name), ": ", std::string(name), ": ", why));
}

// The keys that a load inserts, when it is told; else all from insertstart on.
int64_t InsertCount(const Settings& settings) {
  return settings.IsSet("insertcount")
             ? settings.Whole("insertcount")
             : settings.Whole("recordcount") - settings.Whole("insertstart");
}

absl::Status CheckFit(const Settings& settings, Phase phase) {
  if (!settings.IsSet("recordcount")) {
    return absl::InvalidArgumentError(
        "recordcount is not set: give a workload with -P, or -p recordcount=N");
  }
  const int64_t records = settings.Whole("recordcount");
  const int64_t start = settings.Whole("insertstart");
  if (InsertCount(settings) < 1 || InsertCount(settings) > records - start) {
    return DoNotFit(
        settings, settings.IsSet("insertcount") ? "insertcount" : "insertstart",
        absl::StrCat("the keys to insert must lie below recordcount, which is ", records));
  }
  if (phase == Phase::kRun && settings.Whole("operationcount") == 0 &&
      settings.Whole("maxexecutiontime") == 0) {
    return absl::InvalidArgumentError(
        "operationcount is not set: give a workload with -P, -p operationcount=N or "
        "-p maxexecutiontime=SECONDS");
  }
  if (settings.Whole("minscanlength") > settings.Whole("maxscanlength")) {
    return DoNotFit(settings, "minscanlength", "must not be above maxscanlength");
  }
  if (settings.Text("fieldlengthdistribution") != "constant" &&
      settings.Whole("minfieldlength") > settings.Whole("fieldlength")) {
    return DoNotFit(settings, "minfieldlength", "must not be above fieldlength");
  }
  if (settings.Whole("fieldcount") * settings.Whole("fieldlength") > kMaxFieldLength) {
    return DoNotFit(settings, "fieldlength",
                    absl::StrCat("fieldcount * fieldlength must not be above ", kMaxFieldLength));
  }
  if (settings.Flag("dataintegrity") && settings.Text("fieldlengthdistribution") != "constant") {
    return DoNotFit(settings, "dataintegrity", "needs fieldlengthdistribution=constant");
  }
  if (phase == Phase::kRun && settings.Whole("multiget") > 1) {
    for (std::string_view other :
         {"updateproportion", "insertproportion", "scanproportion", "readmodifywriteproportion"}) {
      if (settings.Real(other) > 0) {
        return DoNotFit(
            settings, "multiget",
            absl::StrCat("needs a workload of reads only, and ", std::string(other), " is not 0"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<PropertyRule> CoreWorkloadRules() {
  return {
      ChoiceRule("workload",
                 {"site.ycsb.workloads.CoreWorkload", "com.yahoo.ycsb.workloads.CoreWorkload"},
                 "the workload's class; there is one"),
      TextRule("table", "usertable", "a name for the records; stores of one table ignore it"),
      WholeRule("recordcount", "1", 1, kMaxKeys, "records in the store after the load"),
      WholeRule("insertstart", "0", 0, kMaxKeys, "number of the first key to load"),
      WholeRule("insertcount", "1", 1, kMaxKeys, "records to load, if not all of recordcount"),
      WholeRule("operationcount", "0", 0, INT64_C(1) << 60,
                "operations of a run; 0: until maxexecutiontime"),
      RealRule("readproportion", "0.95", 0, 1000, "share of reads"),
      RealRule("updateproportion", "0.05", 0, 1000, "share of updates"),
      RealRule("insertproportion", "0", 0, 1000, "share of inserts"),
      RealRule("scanproportion", "0", 0, 1000, "share of scans"),
      RealRule("readmodifywriteproportion", "0", 0, 1000, "share of read-modify-writes"),
      ChoiceRule("requestdistribution",
                 {"uniform", "zipfian", "latest", "sequential", "hotspot", "exponential"},
                 "which keys are asked for"),
      WholeRule("multiget", "1", 1, 1024, "records that a read asks for at a time; reads only"),
      RealRule("hotspotdatafraction", "0.2", 0, 1, "hotspot: the hot part of the keys"),
      RealRule("hotspotopnfraction", "0.8", 0, 1, "hotspot: operations on the hot part"),
      RealRule("exponential.percentile", "95", 1, 99, "exponential: operations on the newest part"),
      RealRule("exponential.frac", "0.8571428571", 0, 1, "exponential: size of the newest part"),
      WholeRule("minscanlength", "1", 1, 1'000'000'000, "records of the shortest scan"),
      WholeRule("maxscanlength", "1000", 1, 1'000'000'000, "records of the longest scan"),
      ChoiceRule("scanlengthdistribution", {"uniform", "zipfian"}, "lengths of scans"),
      WholeRule("fieldcount", "10", 1, 65536, "fields of a record"),
      WholeRule("fieldlength", "100", 0, kMaxFieldLength, "bytes of a field, or of the longest"),
      WholeRule("minfieldlength", "1", 0, kMaxFieldLength, "bytes of the shortest field"),
      ChoiceRule("fieldlengthdistribution", {"constant", "uniform", "zipfian"},
                 "lengths of fields"),
      TextRule("fieldnameprefix", "field", "fields are called this and their number"),
      FlagRule("readallfields", true, "reads want all fields, not one"),
      FlagRule("writeallfields", false, "updates replace all fields, not one"),
      FlagRule("dataintegrity", false, "write values that belong to their keys, verify reads"),
      ChoiceRule("insertorder", {"hashed", "ordered"}, "whether key numbers are hashed"),
      WholeRule("zeropadding", "1", 1, KeyNamer::kMaxZeroPadding, "digits of a key, at least"),
      WholeRule("seed", "1", 0, INT64_MAX, "of the random numbers; the same gives the same run"),
  };
}

CoreWorkload::CoreWorkload(const Settings& settings)
    : first_key_(settings.Whole("insertstart")),
      seed_(static_cast<uint64_t>(settings.Whole("seed"))),
      field_count_(static_cast<size_t>(settings.Whole("fieldcount"))),
      field_length_(DistributionNamed(settings.Text("fieldlengthdistribution")),
                    settings.Whole("minfieldlength"), settings.Whole("fieldlength")),
      scan_length_(DistributionNamed(settings.Text("scanlengthdistribution")),
                   settings.Whole("minscanlength"), settings.Whole("maxscanlength")),
      multiget_(static_cast<size_t>(settings.Whole("multiget"))),
      read_all_fields_(settings.Flag("readallfields")),
      write_all_fields_(settings.Flag("writeallfields")),
      data_integrity_(settings.Flag("dataintegrity")),
      hashed_(settings.Text("insertorder") == "hashed"),
      zero_padding_(static_cast<int>(settings.Whole("zeropadding"))),
      load_sequence_(settings.Whole("insertstart")),
      inserted_(settings.Whole("recordcount")) {
  for (size_t i = 0; i < field_count_; ++i) {
    field_names_.push_back(absl::StrCat(settings.Text("fieldnameprefix"), i));
  }
}

absl::StatusOr<std::unique_ptr<CoreWorkload>> CoreWorkload::Make(const Settings& settings,
                                                                 Phase phase) {
  if (absl::Status status = CheckFit(settings, phase); !status.ok()) return status;
  std::unique_ptr<CoreWorkload> workload(new CoreWorkload(settings));
  if (phase != Phase::kRun) {
    workload->operations_ = static_cast<uint64_t>(InsertCount(settings));
    return workload;
  }
  workload->operations_ = static_cast<uint64_t>(settings.Whole("operationcount"));
  constexpr std::string_view kProportions[] = {"readproportion", "updateproportion",
                                               "insertproportion", "scanproportion",
                                               "readmodifywriteproportion"};
  double sum = 0;
  for (size_t i = 0; i < 5; ++i) {
    workload->operation_limits_[i] = sum += settings.Real(kProportions[i]);
  }
  if (sum <= 0) {
    return absl::InvalidArgumentError(
        "nothing to do: all of readproportion, updateproportion, "
        "insertproportion, scanproportion and "
        "readmodifywriteproportion are 0");
  }
  for (double& limit : workload->operation_limits_) limit /= sum;
  const int64_t last_key = settings.Whole("insertstart") + InsertCount(settings) - 1;
  if (absl::Status status = workload->MakeKeyChooser(settings, last_key); !status.ok()) {
    return status;
  }
  return workload;
}

absl::Status CoreWorkload::MakeKeyChooser(const Settings& settings, int64_t last_key) {
  const int64_t first_key = settings.Whole("insertstart");
  const std::string& distribution = settings.Text("requestdistribution");
  if (distribution == "uniform") {
    key_chooser_ = UniformChooser(first_key, last_key);
  } else if (distribution == "zipfian") {
    // Room for twice the inserts to be expected, so that the popular keys stay the same while the
    // store grows; a key that is not there yet is drawn again. The + 1 is YCSB's.
    const double new_keys =
        static_cast<double>(operations_) * settings.Real("insertproportion") * 2;
    key_chooser_ =
        ScrambledZipfianChooser(first_key, last_key + 1 + static_cast<int64_t>(new_keys));
  } else if (distribution == "latest") {
    key_chooser_ = LatestChooser(&inserted_);
  } else if (distribution == "sequential") {
    key_chooser_ = SequentialChooser(first_key, last_key);
  } else if (distribution == "hotspot") {
    key_chooser_ = HotspotChooser(first_key, last_key, settings.Real("hotspotdatafraction"),
                                  settings.Real("hotspotopnfraction"));
  } else if (distribution == "exponential") {
    key_chooser_ = ExponentialChooser(
        &inserted_, settings.Real("exponential.percentile"),
        static_cast<double>(settings.Whole("recordcount")) * settings.Real("exponential.frac"));
  } else {
    return DoNotFit(settings, "requestdistribution", "not known");
  }
  return absl::OkStatus();
}

}  // namespace daxkv::ycsb
