"""Libraries of the distribution as Bazel targets.

Headers lie in the compiler's own search path; what differs between distributions is which shared
libraries a name stands for and in which order they are linked. pkg-config knows that, so it is
asked once for each library, when the workspace is loaded.

Optional libraries are looked for in the compiler's library path. @system//:optional.bzl tells which
are there: INSTALLED is the list of their target names.
"""

_MISSING = "{} is not installed or pkg-config does not find it: run tools/setup first\n{}"

def _pkg_config(repository_ctx, option, package):
    result = repository_ctx.execute(["pkg-config", option, package])
    if result.return_code != 0:
        fail(_MISSING.format(package, result.stderr))
    return [flag for flag in result.stdout.strip().split(" ") if flag]

def _library(name, defines, linkopts):
    return """
cc_library(
    name = {},
    defines = {},
    linkopts = {},
)
""".format(repr(name), repr(defines), repr(linkopts))

def _is_installed(repository_ctx, library):
    """Whether the linker would find `library`; its headers come with the same package."""
    compiler = repository_ctx.os.environ.get("CC", "gcc")
    file = "lib{}.so".format(library)
    result = repository_ctx.execute([compiler, "-print-file-name=" + file])

    # The path where it lies; or, where it does not, the name alone.
    return result.return_code == 0 and result.stdout.strip() != file

def _system_libraries_impl(repository_ctx):
    if not repository_ctx.which("pkg-config"):
        fail(_MISSING.format("pkg-config", ""))
    targets = ['package(default_visibility = ["//visibility:public"])\n']
    for name, package in repository_ctx.attr.pkg_config.items():
        defines = [
            flag[len("-D"):]
            for flag in _pkg_config(repository_ctx, "--cflags-only-other", package)
            if flag.startswith("-D")
        ]

        # Only libraries that are really called end up in a binary's list of needed ones.
        linkopts = (
            ["-Wl,--push-state,--as-needed"] +
            _pkg_config(repository_ctx, "--libs", package) +
            ["-Wl,--pop-state"]
        )
        targets.append(_library(name, defines, linkopts))
    for name, library in repository_ctx.attr.link_only.items():
        targets.append(_library(name, [], ["-l" + library]))
    for name in repository_ctx.attr.header_only:
        targets.append(_library(name, [], []))
    installed = []
    for name, library in repository_ctx.attr.optional.items():
        if _is_installed(repository_ctx, library):
            installed.append(name)
            targets.append(_library(name, [], ["-l" + library]))
    repository_ctx.file("BUILD", "".join(targets))
    repository_ctx.file("optional.bzl", "INSTALLED = {}\n".format(repr(installed)))

system_libraries = repository_rule(
    implementation = _system_libraries_impl,
    doc = "Declares one cc_library for each system library.",
    attrs = {
        "header_only": attr.string_list(doc = "Targets that need no link flags."),
        "link_only": attr.string_dict(doc = "Target name to library, for those unknown to pkg-config."),
        "optional": attr.string_dict(doc = "Target name to library, for those that may be missing."),
        "pkg_config": attr.string_dict(doc = "Target name to pkg-config package name."),
    },
    configure = True,
    local = True,
)
