# jobqueue: builds with PGXS. See the head of scripts/test for "make test".
#
#   make [CXX=clang++] [SANITIZE=undefined] [INJECTION=1] [WERROR=]    build here
#   make install, make installcheck, make clean          as with every PGXS extension; PG_CONFIG chooses the server.
#                                        The isolation tests of installcheck need the settings in test/isolation.conf
#   make test [SUITES="regress tap:001_crash"] [PG=18]   builds and tests in a scratch directory, needs no root
#   make matrix [SUITES="..."]                           likewise, on each version of the server
#   make coverage [SUITES="..."]                         likewise, and which lines of src/ the tests reach
#   make valgrind [SUITES="..."]                         likewise, with the server under Valgrind: slow
#   make demo, bench [QUICK=1], torture, hostile, fuzz [FUZZ_SEED=1]   likewise; see the heads of scripts/*
#   make dist                                            the archive for PGXN, from git
#   make check-deb                                       builds, installs, updates and removes the Debian packages
#   make format, make check-format, make check-layers, make tidy    about the source text

.DEFAULT_GOAL := all
top := $(patsubst %/,%,$(dir $(firstword $(MAKEFILE_LIST))))

# These bring their own server, and install what is missing: they must work where there is no pg_config yet.
SCRIPT_GOALS := test matrix coverage valgrind demo bench torture hostile fuzz dist check-deb format check-format \
	check-layers tidy

.PHONY: $(SCRIPT_GOALS)
test:
	@'$(top)/scripts/test' $(SUITES)
matrix:
	@'$(top)/scripts/matrix' $(SUITES)
coverage:
	@'$(top)/scripts/coverage' $(SUITES)
valgrind:
	@'$(top)/scripts/valgrind' $(SUITES)
demo:
	@'$(top)/scripts/demo'
bench:
	@'$(top)/scripts/bench'
fuzz:
	@'$(top)/scripts/fuzz'
torture:
	@'$(top)/scripts/torture'
hostile:
	@'$(top)/scripts/hostile'
dist:
	@'$(top)/scripts/dist'
check-deb:
	@'$(top)/scripts/check-deb'
format:
	@'$(top)/scripts/format'
check-format:
	@'$(top)/scripts/format' --check
check-layers:
	@'$(top)/scripts/check-layers'
tidy:
	@'$(top)/scripts/tidy'

ifneq ($(filter-out $(SCRIPT_GOALS),$(or $(MAKECMDGOALS),all)),)

EXTENSION = jobqueue
MODULE_big = jobqueue

# The control file is where the version is written; everything else takes it from there.
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" '$(top)/jobqueue.control')
INSTALL_SQL := $(EXTENSION)--$(EXTVERSION).sql

files = $(patsubst $(top)/%,%,$(sort $(wildcard $(addprefix $(top)/,$(1)))))
SOURCES := $(call files,src/*.cpp src/*/*.cpp src/*/*/*.cpp)
SQL_PARTS := $(call files,src/sql/*.sql)
TEST_MODULES := $(patsubst %.cpp,%.so,$(call files,test/modules/*.cpp))

OBJS = $(SOURCES:.cpp=.o)
DATA_built = $(INSTALL_SQL)
DATA = $(call files,$(EXTENSION)--*--*.sql)
SHLIB_LINK += -lstdc++
EXTRA_CLEAN = $(OBJS:.o=.d) $(OBJS:.o=.gcno) $(TEST_MODULES) $(TEST_MODULES:.so=.o) $(TEST_MODULES:.so=.d) \
	test/sanitize.o test/sanitize.d odr regions

PG_CONFIG ?= pg_config

# make installcheck asks the server whether it preloads the library. Where it does not, no handler runs, and fewer tests.
ifneq ($(filter installcheck,$(MAKECMDGOALS)),)
PRELOADED := $(findstring $(EXTENSION),$(shell '$(shell $(PG_CONFIG) --bindir)/psql' -X -A -t -d postgres \
	-c 'SHOW shared_preload_libraries'))
else
PRELOADED := $(EXTENSION)
endif
ifneq ($(PRELOADED),)
REGRESS = $(patsubst sql/%.sql,%,$(call files,sql/*.sql))
ISOLATION = $(patsubst test/isolation/specs/%.spec,%,$(call files,test/isolation/specs/*.spec))
else
REGRESS = $(shell sed 's/\#.*//' '$(top)/sql/nopreload.list')
endif
REGRESS_OPTS = --load-extension=$(EXTENSION)
ISOLATION_OPTS = --load-extension=$(EXTENSION) --inputdir=$(top)/test/isolation

# Bitcode serves to inline C functions into JIT-compiled queries: of no use here, and it needs clang.
override with_llvm = no

PGXS := $(shell $(PG_CONFIG) --pgxs)
ifeq ($(wildcard $(PGXS)),)
$(error "$(PG_CONFIG) --pgxs" names no file: install postgresql-server-dev-NN, or say where with PG_CONFIG=...)
endif
include $(PGXS)

# PGXS's own CXXFLAGS are those that the server was built with: for one compiler, and for older C++. It links with the
# CFLAGS of that compiler, which may be newer than the one here, and have warnings that this one does not know.
override CFLAGS := $(filter-out -W%,$(CFLAGS))
# The server's headers rely on -fno-strict-aliasing and -fwrapv. Before version 16 they leave PGDLLEXPORT empty.
WERROR ?= -Werror
JOBQUEUE_CXXFLAGS := -std=c++20 -O2 -g -fPIC -Wall -Wextra -Wshadow $(WERROR) -fno-strict-aliasing -fwrapv \
	-fstack-protector-strong -fno-omit-frame-pointer \
	-fvisibility=hidden -D'PGDLLEXPORT=__attribute__((visibility("default")))' \
	-D'JOBQUEUE_VERSION="$(EXTVERSION)"'

ifdef SANITIZE
# The server is not instrumented: it loads the runtime along with this library. vptr and function look at type
# information across libraries, which that runtime is not linked for. With -fwrapv no overflow would be looked for.
SANITIZE_FLAGS := -fsanitize=$(SANITIZE) -fno-wrapv -fno-sanitize=vptr -fno-sanitize-recover=all \
	$(if $(findstring clang,$(CXX)),-fno-sanitize=function)
JOBQUEUE_CXXFLAGS += $(SANITIZE_FLAGS)
SANITIZE_OPTIONS := test/sanitize.o
SHLIB_LINK += $(SANITIZE_OPTIONS) $(if $(findstring undefined,$(SANITIZE)),-lubsan) \
	$(if $(findstring address,$(SANITIZE)),-lasan)
SHLIB_PREREQS += $(SANITIZE_OPTIONS)
endif

ifdef INJECTION
JOBQUEUE_CXXFLAGS += -DJOBQUEUE_INJECTION
endif

ifdef COVERAGE
JOBQUEUE_CXXFLAGS += -O0 --coverage
SHLIB_LINK += --coverage
endif

# -isystem: warnings about the server's headers are not ours to mend.
INCLUDES := -I$(top)/src $(patsubst -I/%,-isystem /%,$(filter-out -I. -I./ -I$(srcdir),$(CPPFLAGS)))
COMPILE_CXX = $(CXX) $(JOBQUEUE_CXXFLAGS) $(PG_CXXFLAGS) $(INCLUDES)

# Replaces PGXS's rule for the same pattern.
%.o: %.cpp
	@mkdir -p $(@D)
	$(COMPILE_CXX) -MMD -MP -c -o $@ $<

$(OBJS) $(TEST_MODULES:.so=.o): $(top)/Makefile $(top)/jobqueue.control
-include $(wildcard $(OBJS:.o=.d) $(TEST_MODULES:.so=.d))

$(INSTALL_SQL): $(SQL_PARTS) $(top)/Makefile
	@echo 'generating $@ from $(words $(SQL_PARTS)) files'
	@{ printf '%s\n' '\echo Use "CREATE EXTENSION $(EXTENSION)" to load this file. \quit'; \
	   awk 'FNR == 1 { n = split(FILENAME, part, "/"); print "\n-- " part[n] } { print }' $(filter %.sql,$^); } > $@

# Compiles the sources with clang, as a second compiler; its output is then searched for errors and exceptions in the
# wrong region.
IR_FLAGS := -O0 -gline-tables-only -S -emit-llvm
IR := $(SOURCES:%.cpp=regions/%.ll)
.PHONY: check-clang check-regions
check-clang: $(IR) $(TEST_MODULES:%.so=regions/%.ll) regions/test/regions/faults.ll
regions/%.ll: %.cpp $(top)/Makefile
	@mkdir -p $(@D)
	$(COMPILE_CXX) $(IR_FLAGS) -o $@ $<
CHECK_REGIONS = $(PYTHON) '$(top)/test/regions/regions.py' --server '$(bindir)/postgres'
check-regions: $(IR) regions/test/regions/faults.ll
	$(CHECK_REGIONS) --faults test/regions/faults.cpp regions/test/regions/faults.ll regions/src/pg/guard.ll
	$(CHECK_REGIONS) $(IR)

# What .clang-tidy says; see scripts/tidy.
TIDY ?= $(SOURCES)
.PHONY: tidy-sources $(addprefix tidy/,$(TIDY))
tidy-sources: $(addprefix tidy/,$(TIDY))
$(addprefix tidy/,$(TIDY)): tidy/%: %
	@clang-tidy --quiet $< -- $(JOBQUEUE_CXXFLAGS) $(PG_CXXFLAGS) $(INCLUDES)

# Finds two types with one name: link-time optimisation sees them. -O0, since nothing is to be run; g++ only.
.PHONY: check-odr
check-odr: $(SOURCES:%.cpp=odr/%.o)
	$(CXX) -shared -flto -O0 -Wodr -Werror -o odr/$(MODULE_big).so $^
odr/%.o: %.cpp $(top)/Makefile
	@mkdir -p $(@D)
	$(COMPILE_CXX) -O0 -flto -c -o $@ $<

# C++ helpers of the tests: each file is a library of its own, which no user needs.
.PHONY: test-modules install-test-modules
test-modules: $(TEST_MODULES)
install-test-modules: test-modules installdirs
	$(if $(TEST_MODULES),$(INSTALL_SHLIB) $(TEST_MODULES) '$(DESTDIR)$(pkglibdir)/')
$(TEST_MODULES): %.so: %.o | $(SANITIZE_OPTIONS)
	$(LINK.shared) -o $@ $< $(LDFLAGS) $(LDFLAGS_SL) $(SHLIB_LINK)

endif
