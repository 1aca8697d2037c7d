// kvctl: daxkv at the shell. Parses the command line; the commands are in commands.h.
//
// Exit codes: 0 done; 1 no such key; 2 usage or malformed input; 3 I/O, resources, or a store that
// can't be opened; 4 corrupt data; 130 interrupted. Errors are one line on stderr.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tools/commands.h"

namespace daxkv::tools {
namespace {

enum ExitCode {
  kDone = 0,
  kNotFound = 1,  // Or a condition that does not hold.
  kUsage = 2,
  kResource = 3,
  kCorrupt = 4,
  kInterrupted = 130
};

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kDone;
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAborted:
      return kNotFound;
    case absl::StatusCode::kInvalidArgument:
      return kUsage;
    case absl::StatusCode::kDataLoss:
      return kCorrupt;
    case absl::StatusCode::kCancelled:
      return kInterrupted;
    default:
      return kResource;
  }
}

int Report(const absl::Status& status) {
  if (!status.ok()) {
    // One line, and nothing that a terminal would take for a command.
    std::string line(status.message());
    std::replace_if(
        line.begin(), line.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
    std::fprintf(stderr, "kvctl: %s\n", line.c_str());
  }
  return ExitCodeOf(status);
}

// Everything that the command line can say.
struct CommandLine {
  StoreArgs store;
  CreateArgs create;
  PutArgs put;
  std::string get_key;
  CasArgs cas;
  std::string batch_file;
  RangeArgs estimate;
  DelArgs del;
  ScanArgs scan;
  LoadArgs load;
  std::string dump_file;
  std::string backup_file;
  CreateArgs restore;
  std::string keyspace;
  bool info_json = false;
  bool order_by_key = false;
  bool repair = false;
  std::function<absl::Status()> run;
};

CLI::App* AddCommand(CLI::App& app, CommandLine& line, const char* name, const char* description,
                     std::function<absl::Status()> run) {
  CLI::App* command = app.add_subcommand(name, description);
  command->fallthrough();
  command->callback([&line, run = std::move(run)] { line.run = run; });
  return command;
}

void AddRange(CLI::App* command, RangeArgs& range) {
  command->add_option("--from", range.from, "First key")->type_name("KEY");
  command->add_option("--to", range.to, "The key to stop before")->type_name("KEY");
}

void AddShape(CLI::App* command, CreateArgs& create) {
  command
      ->add_option("--fixed", create.fixed_size,
                   "One file of this size (512M, 4G), instead of a directory that grows")
      ->type_name("SIZE");
  command->add_option("--max-size", create.max_size, "The most that a directory may grow to")
      ->type_name("SIZE");
}

void AddRecordCommands(CLI::App& app, CommandLine& line) {
  CLI::App* create = AddCommand(app, line, "create", "Make an empty store",
                                [&line] { return Create(line.store, line.create); });
  AddShape(create, line.create);

  CLI::App* put = AddCommand(app, line, "put", "Store a value, durably",
                             [&line] { return Put(line.store, line.put); });
  put->add_option("KEY", line.put.key, "1..65536 bytes")->required();
  CLI::Option* value = put->add_option("VALUE", line.put.value, "The value");
  CLI::Option* file =
      put->add_option("--value-file", line.put.value_file, "Take the value from FILE; - is stdin");
  file->type_name("FILE")->excludes(value);
  put->add_flag("--if-absent", line.put.if_absent, "Only if the key has no value (else exit 1)");
  put->callback([&line, value, file] {
    if (value->count() + file->count() != 1) throw CLI::RequiredError("VALUE or --value-file");
    line.run = [&line] { return Put(line.store, line.put); };
  });

  CLI::App* get = AddCommand(app, line, "get", "Print a value: its exact bytes",
                             [&line] { return Get(line.store, line.get_key); });
  get->add_option("KEY", line.get_key, "The key")->required();

  CLI::App* cas = AddCommand(app, line, "cas", "Replace or delete a value if it is what you expect",
                             [&line] { return Cas(line.store, line.cas); });
  cas->add_option("KEY", line.cas.key, "The key")->required();
  cas->add_option("--expect", line.cas.expected, "Only if this is its value")->type_name("VALUE");
  cas->add_flag("--expect-absent", line.cas.expect_absent, "Only if it has none");
  cas->add_option("--set", line.cas.desired, "The value to store")->type_name("VALUE");
  cas->add_flag("--delete", line.cas.deletes, "Delete it");

  CLI::App* batch = AddCommand(app, line, "batch", "Do all changes of a file, or none",
                               [&line] { return Batch(line.store, line.batch_file); });
  batch->add_option("FILE", line.batch_file, "Lines: put KEY VALUE, del KEY, with tabs; - is stdin")
      ->required();

  CLI::App* del = AddCommand(app, line, "del", "Delete keys, or a half-open range of them",
                             [&line] { return Del(line.store, line.del); });
  del->add_option("KEY", line.del.keys, "Keys");
  AddRange(del, line.del.range);

  CLI::App* scan = AddCommand(app, line, "scan", "Print records in key order: key, tab, value",
                              [&line] { return Scan(line.store, line.scan); });
  AddRange(scan, line.scan.range);
  scan->add_option("--prefix", line.scan.prefix, "Only keys that begin so")->type_name("BYTES");
  scan->add_option("--limit", line.scan.limit, "At most so many")
      ->type_name("N")
      ->check(CLI::NonNegativeNumber);
  scan->add_flag("--keys-only", line.scan.keys_only, "Print keys alone");

  CLI::App* estimate =
      AddCommand(app, line, "estimate", "Print about how much lies in a half-open range",
                 [&line] { return Estimate(line.store, line.estimate); });
  AddRange(estimate, line.estimate);

  AddCommand(app, line, "count", "Print the number of records",
             [&line] { return Count(line.store); });
}

void AddKeyspaceCommands(CLI::App& app, CommandLine& line) {
  CLI::App* keyspace = app.add_subcommand("keyspace", "Make, drop and list keyspaces");
  keyspace->fallthrough();
  keyspace->require_subcommand(1);
  CLI::App* create = AddCommand(*keyspace, line, "create", "Make an empty keyspace",
                                [&line] { return CreateKeyspace(line.store, line.keyspace); });
  create->add_option("NAME", line.keyspace, "1..64 bytes")->required();
  CLI::App* drop = AddCommand(*keyspace, line, "drop", "Drop a keyspace with all it holds",
                              [&line] { return DropKeyspace(line.store, line.keyspace); });
  drop->add_option("NAME", line.keyspace, "Its name")->required();
  AddCommand(*keyspace, line, "list", "Print the names of all",
             [&line] { return ListKeyspaces(line.store); });
}

void AddStoreCommands(CLI::App& app, CommandLine& line) {
  CLI::App* load = AddCommand(app, line, "load", "Put all records of a file, synced in groups",
                              [&line] { return Load(line.store, line.load); });
  load->add_option("FILE", line.load.file, "The file; - is stdin")->required();
  load->add_option("--format", line.load.format,
                   "tsv (as scan prints) or debian (apt-cache dumpavail)")
      ->required()
      ->check(CLI::IsMember({"tsv", "debian"}));

  CLI::App* dump = AddCommand(app, line, "dump", "Write all records to a file, as scan prints them",
                              [&line] { return Dump(line.store, line.dump_file); });
  dump->add_option("FILE", line.dump_file, "The file; - is stdout")->required();

  CLI::App* backup = AddCommand(app, line, "backup", "Write a snapshot of the store to a file",
                                [&line] { return Backup(line.store, line.backup_file); });
  backup->add_option("FILE", line.backup_file, "The file; - is stdout")->required();

  CLI::App* restore =
      AddCommand(app, line, "restore", "Make a new store of what backup has written",
                 [&line] { return Restore(line.store, line.backup_file, line.restore); });
  restore->add_option("FILE", line.backup_file, "The file; - is stdin")->required();
  AddShape(restore, line.restore);

  CLI::App* info =
      AddCommand(app, line, "info", "Print what the store is and how it uses its space",
                 [&line] { return PrintInfo(line.store, line.info_json); });
  info->add_flag("--json", line.info_json, "As JSON");

  CLI::App* check =
      AddCommand(app, line, "check", "Verify everything; non-zero on any fault or leak",
                 [&line] { return line.repair ? Repair(line.store) : Check(line.store); });
  check->add_flag("--repair", line.repair,
                  "First rebuild what is damaged; exit 4 if something was lost");
  AddCommand(app, line, "scrub", "Verify the checksums of all records",
             [&line] { return Scrub(line.store); });
  CLI::App* compact = AddCommand(app, line, "compact", "Give empty extents back to the file system",
                                 [&line] { return Compact(line.store, line.order_by_key); });
  compact->add_flag("--order-by-key", line.order_by_key,
                    "Also write records in the order of their keys, for quicker scans");
  AddCommand(app, line, "quickstart", "See what daxkv does, on real input, in a temporary folder",
             [] { return Quickstart(); });
}

// Of the command that was named, as far as one was.
std::string SeeHelp(const CLI::App& app) {
  std::string commands;
  for (const CLI::App* command = &app; !command->get_subcommands().empty();) {
    command = command->get_subcommands().front();
    absl::StrAppend(&commands, " ", command->get_name());
  }
  return absl::StrCat(" (see kvctl", commands, " --help)");
}

int Main(int argc, char** argv) {
  // A closed pipe is a write error, so that the store is closed cleanly first.
  std::signal(SIGPIPE, SIG_IGN);
  CommandLine line;
  CLI::App app("daxkv: an ordered key-value store on memory-mapped media", "kvctl");
  app.add_option("--db", line.store.path, "The store")->type_name("PATH")->capture_default_str();
  app.add_option("--durability", line.store.durability,
                 "What a write survives on an ordinary file: power loss, or the end of the process")
      ->check(CLI::IsMember({"power", "process"}))
      ->capture_default_str();
  app.add_flag("--escaped", line.store.escaped,
               "Keys and values given as arguments have C escapes");
  app.add_option("--keyspace", line.store.keyspace,
                 "The keyspace of put, get, cas, batch, del, scan, estimate, count, load and dump")
      ->type_name("NAME");
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 1 no such key or a condition not met, 2 usage, 3 I/O or resource, 4 "
      "corrupt data.");
  AddRecordCommands(app, line);
  AddKeyspaceCommands(app, line);
  AddStoreCommands(app, line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);  // --help
  } catch (const CLI::ExtrasError&) {
    // The error's own text has them from the last to the first.
    return Report(absl::InvalidArgumentError(absl::StrCat(
        "not expected: ", absl::StrJoin(app.remaining(/*recurse=*/true), " "), SeeHelp(app))));
  } catch (const CLI::ParseError& error) {
    return Report(absl::InvalidArgumentError(absl::StrCat(error.what(), SeeHelp(app))));
  }
  return Report(line.run());
}

}  // namespace
}  // namespace daxkv::tools

int main(int argc, char** argv) { return daxkv::tools::Main(argc, argv); }
