"""The Cython extensions, and nothing else: all metadata is in pyproject.toml."""

import glob
import os
import sysconfig
import threading

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# A tree must be the same bit for bit on every machine and backend, so that a product and a sum
# must never be fused into one rounding (docs/design.md, "Determinism").
# Weights are moved as the bits they are sorted by, hence no type-based aliasing.
# Vectors are passed between functions of one file alone, where no convention of calls matters (-Wno-psabi).
COMPILE_ARGS = (
    ["/O2", "/fp:precise"]
    if os.name == "nt"
    else ["-O3", "-g0", "-ffp-contract=off", "-fno-strict-aliasing", "-Wno-psabi"]
)
AVX2_ARGS = ["/arch:AVX2"] if os.name == "nt" else ["-mavx2"]
# Sums over windows need not be equal to another machine's: products and sums are fused where they can be.
WINDOW_ARGS = ["/Iaproarray/cpu"] if os.name == "nt" else ["-Iaproarray/cpu", "-ffp-contract=fast"]
FUSED_ARGS = [] if os.name == "nt" else ["-mfma"]
# Flags of sanitizers and of coverage (tests/instrumented.py), which then speak of lines of the .pyx files.
MORE_ARGS = os.environ.get("APROARRAY_CFLAGS", "").split()

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
}


# All that Cython would put into each module (views of memory) in one: half the time, and less to install.
SHARED = "aproarray.cpu._cyutility"


def extension(name, args=(), suffix=".pyx"):
    """Return the extension aproarray.cpu.<name>."""
    return Extension(
        f"aproarray.cpu.{name}",
        [f"aproarray/cpu/{name}{suffix}"],
        depends=sorted(glob.glob("aproarray/cpu/*.px[di]") + glob.glob("aproarray/cpu/*.h")),
        extra_compile_args=[*COMPILE_ARGS, *args, *MORE_ARGS],
        extra_link_args=MORE_ARGS,
    )


class BuildBesideSources(build_ext):
    """Translate a module when it is compiled, and put it beside its source, too, whatever is built.

    `import aproarray` then also works where Python finds the checkout before the installed package, as
    it does for `python -m` in a clone.
    """

    translating = threading.Lock()

    def finalize_options(self):
        """Compile the modules at the same time."""
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extension(self, extension):
        """Translate to C, one module at a time (Cython has global state), while compilers work on others."""
        with self.translating:
            (translated,) = cythonize(
                [extension],
                build_dir="build/cython",
                compiler_directives=DIRECTIVES,
                emit_linenums=bool(MORE_ARGS),
                force=self.force,
                shared_utility_qualified_name=SHARED,
                quiet=self.verbose == 0,
            )
        extension.sources = translated.sources
        super().build_extension(extension)

    def run(self):
        """Build, then copy."""
        super().run()
        self.copy_extensions_to_source()


# The longest to compile come first.
MODULES = (
    "_sweep",
    "_mst",
    "_tiles",
    "_global_gradients",
    "_rooted",
    "_reduce",
    "_flood",
    "_forest",
    "_tally",
    "_settle",
    "_smooth",
    "_check",
    "_minimax",
    "_weigh",
    "_zones",
)
AVX2_MODULES = ("_sweep_avx2", "_tiles_avx2", "_weigh_avx2", "_settle_avx2")
extensions = [extension("_stream", WINDOW_ARGS), *(extension(name) for name in MODULES)]
# The platform that is built for, which need not be this one. A universal build of macOS has no such flags.
if sysconfig.get_platform().endswith(("x86_64", "amd64")):
    # Chosen at run time.
    extensions[:0] = [extension(name, AVX2_ARGS) for name in AVX2_MODULES]
    extensions.insert(0, extension("_stream_avx2", [*AVX2_ARGS, *FUSED_ARGS, *WINDOW_ARGS]))
extensions.append(extension(SHARED.rpartition(".")[2], suffix=".c"))

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildBesideSources},
)
