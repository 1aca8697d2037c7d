// What ThreadSanitizer must not report, compiled into every binary of --config=tsan so that child
// processes and binaries started by hand have it too.
//
// The distribution's liburcu is not instrumented: the queues by which it hands its own heap blocks
// from one thread to another are invisible to ThreadSanitizer, its calls of calloc and free are
// not. called_from_lib leaves out only such calls that liburcu itself makes. What RCU promises to
// our code, callbacks included, is still checked; the RCU wrapper annotates it.

// NOLINTNEXTLINE(bugprone-reserved-identifier): the sanitizer's run time looks for this name.
extern "C" const char* __tsan_default_suppressions() {
  return "called_from_lib:liburcu-bp.so\n"
         "called_from_lib:liburcu-common.so\n"
         "called_from_lib:liburcu-cds.so\n";
}
