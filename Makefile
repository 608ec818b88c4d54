# Makefile - builds, installs and tests the extension, through PGXS.
#
#   make && make install && make installcheck
#
# installcheck runs against the server that PGHOST, PGPORT and PGUSER name; the
# role must be a superuser, TAP tests cannot run as root, and the server's user must
# be able to read this directory.  scripts/test does
# all of it in a private directory with a server of its own.
#
# Extra compiler flags go into COPT (make COPT=-Werror).  PGXS does not notice
# changed flags: run "make clean" first.  Where clang is missing: with_llvm=no.

# Without this a missing pkg-config would go unnoticed until the library is loaded.
ifneq ($(shell pkg-config --exists json-c 2>/dev/null && echo yes),yes)
ifeq ($(filter clean distclean uninstall,$(MAKECMDGOALS)),)
$(error pkg-config does not find json-c: install pkg-config and the development files of json-c)
endif
endif

EXTENSION   = esrs
MODULE_big  = esrs
PGFILEDESC  = "esrs - event sourcing and CQRS inside PostgreSQL"
OBJS        = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))
DATA        = $(sort $(wildcard esrs--*.sql))
# installed as $(includedir_server)/extension/esrs/esrs.h
HEADERS     = include/esrs.h

PG_CPPFLAGS = -I$(srcdir)/include -I$(srcdir)/src \
              $(shell pkg-config --cflags json-c)
PG_CFLAGS   = -std=gnu11 -Wextra -Wno-unused-parameter -Wno-sign-compare \
              -Wno-missing-field-initializers -Wshadow=compatible-local \
              -Wstrict-prototypes -Wold-style-definition
SHLIB_LINK  = $(shell pkg-config --libs json-c)

# A test is found by its file: sql/NAME.sql or specs/iso_NAME.spec with
# expected/NAME.out, or t/NAME.pl.  All outputs share one folder, hence iso_.
REGRESS        = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))
REGRESS_OPTS   = --load-extension=$(EXTENSION) --encoding=UTF8
ISOLATION      = $(patsubst specs/%.spec,%,$(sort $(wildcard specs/iso_*.spec)))
ISOLATION_OPTS = --load-extension=$(EXTENSION) --encoding=UTF8
TAP_TESTS      = $(if $(wildcard t/*.pl),1)
EXTRA_CLEAN    = output_iso tmp_check_iso

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# PGXS knows no header dependencies: any changed header builds everything anew.
$(OBJS) $(OBJS:.o=.bc): $(wildcard include/*.h src/*.h src/*/*.h)

# The C aggregates that only tests use: built where they are, never installed.
.PHONY: testlib clean-testlib
testlib:
	$(if $(wildcard testlib/*.c),$(MAKE) -C testlib PG_CONFIG='$(PG_CONFIG)')
clean-testlib:
	$(if $(wildcard testlib/*.c),$(MAKE) -C testlib PG_CONFIG='$(PG_CONFIG)' clean)
installcheck: testlib
clean: clean-testlib
