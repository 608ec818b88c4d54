#!/bin/bash
# lib.sh - what the scripts of this folder share.  Sourced, never run.
#
# A run that needs a server goes like this:
#
#   enter_private "$@"      install what is missing, copy the repository into a private
#                           directory and start the script anew there, never as root
#   make_tree               a private installation of PostgreSQL to install into
#   build                   make and make install, into that installation
#   cluster_start           a throw-away server, reached by a Unix socket only
#
# Everything lives in one directory and goes away with it: neither the system's
# PostgreSQL nor the repository is written to, and several runs may go on at once.

script=$(basename "$0")
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
work=					# the private directory
keep=0					# 1: leave it, and the server, behind
child=					# pid of what "limited" is running
port=5433				# names the socket; nothing listens on the network
copt=					# compiler flags on top of the Makefile's
tools=					# --check: install what scripts/check needs, too
make_args=()

die() {
	echo "$script: $*" >&2
	exit 1
}

# ---------------------------------------------------------------------------
# results: one line a test, counted by "finish"
# ---------------------------------------------------------------------------

passed=0
failed=0
closed=0				# 1: the closing line has been written

# result ok|FAILED|skip NAME [NOTE]
result() {
	printf '%-7s %s\n' "$1" "$2${3:+ ($3)}"
	case $1 in
	ok) passed=$((passed + 1)) ;;
	FAILED) failed=$((failed + 1)) ;;
	esac
}

# counts the result lines in a file that another script of ours has written
count_results() {
	passed=$((passed + $(grep -c '^ok      ' "$1" || true)))
	failed=$((failed + $(grep -c '^FAILED  ' "$1" || true)))
}

# show TITLE FILE [LINES]: the end of a file, indented
show() {
	if [ -s "$2" ]; then
		echo "  --- $1"
		tail -n "${3:-60}" "$2" | sed 's/^/  | /'
	fi
}

# the closing line, and the exit status
finish() {
	if [ $((passed + failed)) = 0 ]; then
		result FAILED "$script: no test was run"
	fi
	echo
	echo "$passed passed, $failed failed"
	closed=1
	[ $failed = 0 ]
}

# ---------------------------------------------------------------------------
# the private directory
# ---------------------------------------------------------------------------

# copies the repository, without what git or a build keeps in it
copy_repository() {
	mkdir "$1"
	tar -C "$top" --exclude-vcs --exclude='*.o' --exclude='*.bc' --exclude='*.so' \
		--exclude=./results --exclude=./output_iso --exclude='./tmp_check*' \
		--exclude='./regression.*' --exclude=./coverage -cf - . |
		tar -C "$1" --no-same-owner -xf -
}

# Starts the calling script anew, inside a copy of the repository in a private
# directory, as a user other than root and with a clean environment.  Returns
# only there, with $work set and the cleaning-up armed.
enter_private() {
	local user as=()

	if [ -n "${ESRS_WORK:-}" ] && [ "$top" = "$ESRS_WORK/repo" ]; then
		work=$ESRS_WORK
		exec 3>&1 4>&2			# for the last words, whatever a signal interrupts
		trap leave_private EXIT
		trap 'exit 130' INT
		trap 'exit 143' TERM HUP
		mkdir "$work/tmp" "$work/log"
		pg_config=$(find_pg_config)
		bindir=$("$pg_config" --bindir)
		export PGHOST=$work PGPORT=$port PGUSER=postgres PGDATABASE=postgres
		return
	fi

	"$top/scripts/install-deps" $tools
	# not below TMPDIR: others must get there, and a socket's path is short
	work=$(mktemp -d "${ESRS_TMPDIR:-/tmp}/esrs.XXXXXX")
	work=$(cd "$work" && pwd -P)
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	copy_repository "$work/repo"
	if [ "$(id -u)" = 0 ]; then
		user=postgres
		if ! id "$user" >/dev/null 2>&1; then user=nobody; fi
		chown -R "$user:" "$work"
		as=(setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups --)
	fi
	cd "$work"
	exec "${as[@]}" env -i PATH="$PATH" LC_ALL=C.UTF-8 HOME="$work" TMPDIR="$work/tmp" \
		ESRS_WORK="$work" TERM="${TERM:-dumb}" ${PG_CONFIG:+PG_CONFIG="$PG_CONFIG"} \
		bash "$work/repo/scripts/$script" "$@"
}

leave_private() {
	local status=$?

	trap - EXIT
	trap '' INT TERM HUP
	exec 1>&3 2>&4
	if [ -n "$child" ]; then
		kill -TERM "$child" 2>/dev/null || true
		wait "$child" 2>/dev/null || true
	fi
	if [ $closed = 0 ] && [ $((passed + failed)) != 0 ]; then
		# broken off
		failed=$((failed + 1))
		finish || true
	fi
	cd /
	if [ $keep = 1 ]; then
		touch "$work/kept"
		echo "kept: $work; to end it: scripts/$script --stop $work" >&2
	else
		stop_servers "$work"
		rm -rf "$work"
	fi
	exit $status
}

# Ends every server whose data lies under a directory, at once.
stop_servers() {
	local file pid i

	while read -r file; do
		pid=$(head -n 1 "$file" 2>/dev/null) || continue
		# a stale file may name a stranger
		[ "/proc/$pid/cwd" -ef "$(dirname "$file")" ] || continue
		kill -QUIT "$pid" 2>/dev/null || continue
		for ((i = 0; i < 100; i++)); do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.1
		done
		kill -KILL "$pid" 2>/dev/null || true
	done < <(find "$1" -name postmaster.pid 2>/dev/null)
}

# stop_kept DIRECTORY: ends what --keep has left
stop_kept() {
	local dir=${1:-}

	if [ -z "$dir" ] || [ ! -e "$dir/kept" ] || [ ! -d "$dir/repo" ]; then
		die "\"$dir\" is not a directory that --keep has left"
	fi
	stop_servers "$dir"
	rm -rf "$dir"
}

# limited SECONDS COMMAND...: runs a command that a signal to us, or its time, ends
limited() {
	local status=0

	timeout -k 20 "$@" </dev/null &
	child=$!
	wait "$child" || status=$?
	child=
	if [ $status = 124 ]; then echo "$script: took more than $1 s, stopped"; fi
	return $status
}

# ---------------------------------------------------------------------------
# the private installation
# ---------------------------------------------------------------------------

find_pg_config() {
	if [ -n "${PG_CONFIG:-}" ]; then
		echo "$PG_CONFIG"
	elif [ -x /usr/lib/postgresql/15/bin/pg_config ]; then
		echo /usr/lib/postgresql/15/bin/pg_config
	else
		command -v pg_config || die "pg_config not found; set PG_CONFIG"
	fi
}

# gives a directory of the system a writable twin whose entries are links
link_entries() {
	local dir=$1 entry name

	mkdir -p "$work/tree$dir"
	for entry in "$dir"/*; do
		name=${entry##*/}
		case $name in esrs*) continue ;; esac
		if [ -e "$entry" ] && [ ! -e "$work/tree$dir/$name" ]; then
			ln -s "$entry" "$work/tree$dir/$name"
		fi
	done
}

# PostgreSQL finds its library and share directories relative to its own program:
# copied programs in the same layout make an installation of our own, whose
# pg_config tells PGXS where to install.
make_tree() {
	local system=$bindir dir program

	mkdir -p "$work/tree$bindir"
	for program in "$system"/{initdb,postgres,psql,pg*,createdb,dropdb,createuser,dropuser,vacuumdb}; do
		if [ -x "$program" ]; then cp -L "$program" "$work/tree$bindir/"; fi
	done
	dir=$("$pg_config" --sharedir)
	link_entries "$dir/extension"
	link_entries "$dir"
	dir=$("$pg_config" --pkglibdir)
	mkdir -p "$work/tree$dir/bitcode"
	link_entries "$dir"
	dir=$("$pg_config" --includedir-server)
	mkdir -p "$work/tree$dir/extension"
	link_entries "$dir"
	link_entries "$("$pg_config" --includedir)"
	dir=$("$pg_config" --libdir)
	if [ -d "$work/tree$dir" ]; then
		link_entries "$dir"
	else
		mkdir -p "$(dirname "$work/tree$dir")"
		ln -s "$dir" "$work/tree$dir"
	fi

	bindir=$work/tree$system
	pg_config=$bindir/pg_config
	for dir in pkglibdir sharedir includedir-server; do
		case $("$pg_config" --$dir) in
		"$work"/*) ;;
		*) die "the private installation does not work: --$dir is $("$pg_config" --$dir)" ;;
		esac
	done
	PATH=$bindir:$PATH
	make_args=(PG_CONFIG="$pg_config" with_llvm=no COPT="$copt")
}

# builds and installs the extension, and builds the test library; output to log/build
build() {
	limited 900 make -s -j"$(nproc)" -C "$work/repo" "${make_args[@]}" all install testlib \
		>"$work/log/build" 2>&1
}

# ---------------------------------------------------------------------------
# the throw-away server
# ---------------------------------------------------------------------------

cluster_start() {
	initdb -D "$work/data" -A trust -U postgres --no-sync --locale=C.UTF-8 -E UTF8 \
		>"$work/log/initdb" 2>&1 || { show initdb "$work/log/initdb"; return 1; }
	cat "$top/scripts/esrs.conf" - >>"$work/data/postgresql.conf" <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$work'
		port = $port
	CONF
	pg_ctl -D "$work/data" -l "$work/log/server" -w start >"$work/log/start" 2>&1 3>&- 4>&- ||
		{ show start "$work/log/start"; show "server log" "$work/log/server"; return 1; }
}

# Creates an empty database; waits for a server that has crashed and comes up again.
fresh_database() {
	local i

	for ((i = 0; i < 60; i++)); do
		if pg_isready -q; then break; fi
		sleep 0.5
	done
	createdb "$1"
}

cluster_stop() {
	pg_ctl -D "$work/data" -m fast -w -t 60 stop >"$work/log/stop" 2>&1
}
