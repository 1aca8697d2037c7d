"""Counts the test cases of one `bazel test`: count_tests.py EVENT_FILE BAZEL_STATUS.

EVENT_FILE is what --build_event_json_file wrote. Prints "N passed, N failed" and exits with 0 only
when some case passed, none failed and Bazel was content.

A test that ends without naming a failed case (a crash, a time-out, a sanitizer's report, a build
error) counts as one failed case.
"""

import json
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree

BAZEL_NO_TESTS_FOUND = 4


def read_events(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def count_cases(xml_path):
    """Returns how many cases of one test.xml passed and how many failed."""
    passed = failed = 0
    for case in ElementTree.parse(xml_path).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif case.get("status") != "notrun" and case.find("skipped") is None:
            passed += 1
    return passed, failed


def print_skips(log_path):
    """A test that can't run here says why in a line "...: SKIPPED, WHY", and passes."""
    with open(log_path, encoding="utf-8", errors="replace") as lines:
        print("".join(line for line in lines if ": SKIPPED, " in line), end="")


def count_attempt(result):
    """Counts one run of one test target, from its testResult event."""
    passed = failed = 0
    for output in result.get("testActionOutput", []):
        path = urllib.parse.unquote(urllib.parse.urlparse(output["uri"]).path)
        try:
            if output["name"] == "test.log":
                print_skips(path)
            elif output["name"] == "test.xml":
                passed, failed = count_cases(path)
        except (OSError, ElementTree.ParseError) as error:
            print(f"count_tests: {path}: {error}", file=sys.stderr)
    if result["status"] not in ("PASSED", "FLAKY") and failed == 0:
        failed = 1
    return passed, failed


def count_all(events):
    attempts = {}  # (label, run, shard) -> the last attempt, which decides
    tests = set()
    for event in events:
        if "testResult" in event:
            key = event["id"]["testResult"]
            attempts[key["label"], key.get("run"), key.get("shard")] = event["testResult"]
        elif event.get("configured", {}).get("targetKind", "").endswith("_test rule"):
            tests.add(event["id"]["targetConfigured"]["label"])
    counts = [count_attempt(result) for result in attempts.values()]
    never_ran = tests - {label for label, _, _ in attempts}
    passed = sum(passed for passed, _ in counts)
    failed = sum(failed for _, failed in counts) + len(never_ran)
    return passed, failed


def main():
    event_file, bazel_status = sys.argv[1], int(sys.argv[2])
    passed, failed = count_all(read_events(event_file))
    if bazel_status not in (0, BAZEL_NO_TESTS_FOUND) and failed == 0:
        failed = 1  # for instance a target that is no test and does not build
    if passed == 0 and failed == 0:
        print("count_tests: no test ran", file=sys.stderr)
    print(f"{passed} passed, {failed} failed")
    sys.exit(0 if passed > 0 and failed == 0 else 1)


if __name__ == "__main__":
    main()
