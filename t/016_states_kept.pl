# States that a session keeps, and snapshots, over what happens outside of a session:
# another build of a library, a dump that is restored, the extension dropped and created
# again, prepared transactions, a standby.
#
# Catches: a state of one build that another one takes, in a session that has the old
# one still loaded or in a new one; a snapshot under the name of a library that did not
# make it; snapshots in a dump; a state that outlives pg_restore, the extension, or a
# change that a standby has replayed; a standby that writes.

use strict;
use warnings;

use File::Copy;
use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my ($i1, $i2, $i3) = map { id($_) } 1 .. 3;
my $node = new_node('kept', streaming => 1, conf => "max_prepared_transactions = 5\nclient_min_messages = warning\n");

sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql) }
sub session { return $node->background_psql('postgres') }

# Statements that make $name(): the counter's value in aggregate $aggregate, and how many
# events loading it has applied.
sub loaded_sql
{
	my ($name, $aggregate, $library) = @_;

	return <<SQL;
CREATE FUNCTION ${name}_applied() RETURNS bigint AS '$library', 'testlib_applied' LANGUAGE C;
CREATE FUNCTION $name(OUT value text, OUT applied bigint) LANGUAGE plpgsql AS \$\$
DECLARE
    before bigint := ${name}_applied();
BEGIN
    SELECT state ->> 'value' INTO value FROM esrs_load('$aggregate', $i1);
    applied := ${name}_applied() - before;
END \$\$;
SQL
}

# the SQLSTATE of a statement
sub sqlstate
{
	my ($statement) = @_;
	my (undef, undef, $stderr) =
	  $node->psql('postgres', "\\set VERBOSITY sqlstate\n$statement;");

	return $stderr =~ /ERROR:\s+(\w{5})/ ? $1 : '00000';
}

# ---------------------------------------------------------------------------
# libraries
# ---------------------------------------------------------------------------

# Compile testlib's counter, which counts in steps of $step, and put it in the place of
# $dir/$name.so; a session that has loaded the old one keeps it.
sub build
{
	my ($name, $step, @flags) = @_;
	my $source = "$ENV{TESTDIR}/testlib";
	my ($cc, $cflags, $include) = map { my $x = `pg_config --$_`; chomp $x; $x } qw(cc cflags includedir-server);
	my $json = `pkg-config --cflags --libs json-c`;

	chomp $json;
	$cflags =~ s/-fsanitize\S*//g;
	return 0 if system("$cc $cflags -fPIC -shared -DCOUNTER_STEP=$step -I$source/../include -I$include"
		  . " -o $dir/new.so $source/counter.c $source/module.c $json @flags >$dir/cc.log 2>&1") != 0;
	return rename("$dir/new.so", "$dir/$name.so");
}

sql('CREATE EXTENSION esrs');

SKIP:
{
	skip 'no compiler, or no json-c', 1 unless build('counter', 1, '-Wl,--build-id');

	sql(loaded_sql('loaded', 'in_c', "$dir/counter") . <<SQL);
CREATE FUNCTION counter(internal) RETURNS esrs.aggregate_handler AS '$dir/counter', 'testlib_counter_kept' LANGUAGE C;
SELECT esrs_register_aggregate('in_c', handler => 'counter(internal)', snapshot_every => 1);
SQL
	# value, and how many events a load has applied
	my $load = 'SELECT * FROM loaded()';
	my $cold = "SET esrs.state_cache_size = 0";
	my $add = "SELECT state ->> 'value' FROM esrs_try_command('in_c', $i1, '{\"Add\": {\"by\": 1}}')";

	my $old = session();
	is($old->query_safe($add), '1', 'a library: a command');
	is($old->query_safe($add), '2', 'a library: and another');
	is($old->query_safe($load), '2|0', 'the session keeps the state');
	is(sql($load), '2|0', 'another one has the snapshot');

	# another build, while the session runs
	ok(build('counter', 100, '-Wl,--build-id'), 'the library is replaced');
	is($old->query_safe($load), '2|0', 'the old session keeps what its build has made');
	my $new = session();
	is($new->query_safe($load), '200|2', 'a new one folds with its build');
	is($old->query_safe("$cold; $load"), '2|0', 'the old one uses the snapshot that is its own');
	is($new->query_safe($add), '300', 'the new one commands');
	is($new->query_safe("$cold; $load"), '300|0', 'and has a snapshot of its own');
	is($old->query_safe($load), '3|3', 'which the old one does not use');
	is($old->query_safe('RESET esrs.state_cache_size;' . $load), '3|3', 'nor takes over');
	is($old->query_safe($add), '4', 'the old one commands, with what it keeps');
	is($old->query_safe($load), '4|0', 'and keeps it');
	is($new->query_safe($load), '400|4', 'the new one does not use the snapshot of the old one');
	is($new->query_safe('CREATE FUNCTION unrelated() RETURNS int LANGUAGE sql AS \'SELECT 1\''), '', 'some function is created');
	is($old->query_safe("$cold; $load"), '4|0', 'the old one still knows its own build');
	is($new->query_safe($load), '400|4', 'and the new one its own');
	is(sql('SELECT count(*) FROM esrs_verify(\'in_c\')'), '0', 'esrs_verify(): what is not used is not wrong');
	$new->quit;

	# the very build comes back
	ok(build('counter', 1, '-Wl,--build-id'), 'the first build is back');
	is(sql($load), '4|0', 'and so are its snapshots');
	$old->quit;

	# without a build ID nobody could tell
	ok(build('anonymous', 1, '-Wl,--build-id=none'), 'a library without a build ID');
	sql("CREATE FUNCTION anonymous(internal) RETURNS esrs.aggregate_handler AS '$dir/anonymous', 'testlib_counter_kept' LANGUAGE C");
	is(sqlstate("SELECT esrs_register_aggregate('anonymous', handler => 'anonymous(internal)', snapshot_every => 1)"),
		'22023', 'is refused for snapshots');
	sql("SELECT esrs_register_aggregate('anonymous', handler => 'anonymous(internal)')");
	is(sqlstate("SELECT esrs_alter_aggregate('anonymous', '{\"snapshot_every\": 1}')"), '22023', 'also later');
	is(sqlstate("SELECT esrs_alter_aggregate('in_c', '{\"handler\": \"anonymous(internal)\"}')"), '22023',
		'and in the place of another');
	# one that loses it: commands go on, without snapshots
	ok(build('counter', 100, '-Wl,--build-id=none'), 'a build without a build ID takes the place');
	is(sql($load), '400|4', 'no snapshot is used');
	is(sql($add), '500', 'commands go on');
	is(sql("SELECT sequence_number FROM esrs.snapshots WHERE aggregate = 'in_c'"), '4', 'none is taken');
	is(sqlstate("SELECT esrs_alter_aggregate('in_c', '{\"snapshots\": \"rebuild\"}')"), '55000', 'none can be rebuilt');

	# a library that SQL calls: named with and without the suffix
	build('helper', 1, '-Wl,--build-id');
	for my $suffix ('', '.so')
	{
		my $name = $suffix ? 'with_suffix' : 'without_suffix';

		build('helper', 1, '-Wl,--build-id');
		sql(<<SQL);
CREATE FUNCTION ${name}_step(int) RETURNS int AS '$dir/helper$suffix', 'testlib_step' LANGUAGE C;
CREATE FUNCTION ${name}_handle(jsonb, jsonb) RETURNS jsonb[] LANGUAGE sql RETURN ARRAY[\$2];
CREATE FUNCTION ${name}_apply(jsonb, jsonb) RETURNS jsonb LANGUAGE sql
    RETURN jsonb_build_object('n', coalesce((\$1 ->> 'n')::int, 0) + ${name}_step((\$2 ->> 'n')::int));
SELECT esrs_register_aggregate('$name', handle_command => '${name}_handle(jsonb,jsonb)',
    apply_event => '${name}_apply(jsonb,jsonb)', snapshot_every => 1);
SQL
		my $command = "SELECT esrs_handle_command('$name', $i1, '{\"n\": 1}')";
		my $state = "SELECT state FROM esrs_load('$name', $i1)";

		$old = session();
		is($old->query_safe($command), '{"n": 1}', "$name: a command");
		is(sql($state), '{"n": 1}', "$name: another session");
		build('helper', 100, '-Wl,--build-id');
		is(sql($state), '{"n": 100}', "$name: with another build the snapshot is not used");
		# the old session finds the new file, and has the old code
		is($old->query_safe("CREATE FUNCTION ${name}_unrelated() RETURNS int LANGUAGE sql AS 'SELECT 1'"), '', "$name: functions change");
		is($old->query_safe($command), '{"n": 2}', "$name: a session with the old build commands");
		is(sql($state), '{"n": 200}', "$name: and leaves no snapshot that others use");
		$old->quit;
	}
}

# ---------------------------------------------------------------------------
# dumped and restored
# ---------------------------------------------------------------------------

my $state = "SELECT sequence_number, state FROM esrs_load('counter', $i1)";
my $snapshot = "SELECT sequence_number, state FROM esrs.snapshots WHERE aggregate = 'counter' AND aggregate_id = $i1";

sub in { my ($database, $sql) = @_; return $node->safe_psql($database, $sql) }
sub add { my ($n) = @_; return "SELECT esrs_handle_command('counter', $i1, '{\"add\": $n}')" }

sql('CREATE DATABASE source');
in('source', 'CREATE EXTENSION esrs');
in('source', counter_sql('counter'));
in('source', "SELECT esrs_alter_aggregate('counter', '{\"snapshot_every\": 2}')");
in('source', add($_)) for 1 .. 3;
is(in('source', $snapshot), '2|{"sum": 3}', 'there is a snapshot');
command_ok([ 'pg_dump', '-d', $node->connstr('source'), '-Fc', '-f', "$dir/dump" ], 'dumped');

sql('CREATE DATABASE target TEMPLATE template0');
command_ok([ 'pg_restore', '-d', $node->connstr('target'), '--exit-on-error', "$dir/dump" ], 'restored');
is(in('target', 'SELECT count(*) FROM esrs.snapshots'), '0', 'without snapshots');
is(in('target', 'SELECT name, snapshot_every FROM esrs_aggregates'), 'counter|2', 'with the option');
is(in('target', $state), '3|{"sum": 6}', 'the state is there');
is(in('target', add(4)), '{"sum": 10}', 'commands go on');
is(in('target', $snapshot), '4|{"sum": 10}', 'and take a snapshot');
is(in('target', 'SELECT count(*) FROM esrs_verify(\'counter\')'), '0', 'all is well');
# a copy of the files has the same functions, and the snapshots with them
sql('CREATE DATABASE copy TEMPLATE source');
is(in('copy', add(4)), '{"sum": 10}', 'a database made of another one');
is(in('copy', 'SELECT count(*) FROM esrs_verify(\'counter\')'), '0', 'all is well there');

# into the same database, under a session that keeps the state
my $kept = $node->background_psql('source');
is($kept->query_safe(add(100)), '{"sum": 106}', 'a session keeps a state');
command_ok([ 'pg_restore', '-d', $node->connstr('source'), '--clean', '--if-exists', '--exit-on-error', "$dir/dump" ],
	'everything is restored in the place of what was there');
is($kept->query_safe($state), '3|{"sum": 6}', 'it sees what was restored');
is($kept->query_safe(add(200)), '{"sum": 206}', 'and commands upon that');
is(in('source', $state), '4|{"sum": 206}', 'so do others');
is(in('source', $snapshot), '4|{"sum": 206}', 'with a new snapshot');

# the same events with other contents, with the same ids, numbers and positions
command_ok([ 'pg_dump', '-d', $node->connstr('source'), '-Fc', '-t', 'counter_events', '-f', "$dir/events" ], 'the events alone');
is($kept->query_safe($state), '4|{"sum": 206}', 'a session keeps the state');
for my $how ('append_only', 'triggers')
{
	my ($open, $close) = $how eq 'append_only' ?
	  map { "SELECT esrs_alter_aggregate('counter', '{\"append_only\": $_}')" } qw(false true) :
	  ('ALTER TABLE counter_events DISABLE TRIGGER ALL', 'ALTER TABLE counter_events ENABLE ALWAYS TRIGGER esrs_append_only');

	in('source', "BEGIN; $open; UPDATE counter_events SET payload = '{\"added\": 1000}'; $close; COMMIT");
	is($kept->query_safe($state), '4|{"sum": 4000}', "$how: history was changed");
	in('source', "BEGIN; $open; TRUNCATE counter_events; COMMIT");
	command_ok([ 'pg_restore', '-d', $node->connstr('source'), '--data-only', $how eq 'triggers' ? '--disable-triggers' : (), '--exit-on-error', "$dir/events" ],
		"$how: the data were restored");
	is($kept->query_safe($state), '4|{"sum": 206}', "$how: seen as it was");
	in('source', $close);
	is($kept->query_safe($state), '4|{"sum": 206}', "$how: and later");
	is(in('source', $state), '4|{"sum": 206}', "$how: in another session, too");
	is(in('source', "SELECT count(*) FROM esrs_verify('counter')"), '0', "$how: all is well");
}
$kept->quit;

# ---------------------------------------------------------------------------
# the extension is dropped, and created again
# ---------------------------------------------------------------------------

sql('CREATE DATABASE again');
$kept = $node->background_psql('again');
$kept->query_safe('CREATE EXTENSION esrs');
$kept->query_safe(counter_sql('counter'));
$kept->query_safe("SELECT esrs_alter_aggregate('counter', '{\"snapshot_every\": 1}')");
is($kept->query_safe(add(1)), '{"sum": 1}', 'a command');
is($kept->query_safe(add(2)), '{"sum": 3}', 'and another');
my $register = "SELECT esrs_register_aggregate('counter', handle_command => 'counter_handle(jsonb,jsonb)',
    apply_event => 'counter_apply(jsonb,jsonb)', snapshot_every => 1)";

# the events stay
$kept->query_safe("SELECT esrs_unregister_aggregate('counter')");
$kept->query_safe('DROP EXTENSION esrs');
$kept->query_safe("UPDATE counter_events SET payload = '{\"added\": 50}'");
$kept->query_safe('CREATE EXTENSION esrs');
$kept->query_safe($register);
is($kept->query_safe($state), '2|{"sum": 100}', 'the extension is another one: the events as they are');
is($kept->query_safe(add(3)), '{"sum": 103}', 'commands go on');
is($kept->query_safe($snapshot), '3|{"sum": 103}', 'with snapshots');

# with everything that hangs on it, and by another session
in('again', 'DROP EXTENSION esrs CASCADE; CREATE EXTENSION esrs');
in('again', "UPDATE counter_events SET payload = '{\"added\": 7}'");
in('again', $register);
is($kept->query_safe($state), '3|{"sum": 21}', 'and again');
is($kept->query_safe(add(3)), '{"sum": 24}', 'commands go on');
is($kept->query_safe("SELECT count(*) FROM esrs_verify('counter')"), '0', 'all is well');
# rolled back
$kept->query_safe('BEGIN');
$kept->query_safe('DROP EXTENSION esrs CASCADE');
$kept->query_safe('ROLLBACK');
is($kept->query_safe($state), '4|{"sum": 24}', 'what was not dropped after all is there');
is($kept->query_safe(add(3)), '{"sum": 27}', 'and works');
$kept->quit;

# ---------------------------------------------------------------------------
# prepared transactions
# ---------------------------------------------------------------------------

sql(counter_sql('counter'));
sql("SELECT esrs_alter_aggregate('counter', '{\"snapshot_every\": 1}')");
$kept = session();
is($kept->query_safe(add(1)), '{"sum": 1}', 'a command');
$kept->query_safe('BEGIN');
is($kept->query_safe(add(10)), '{"sum": 11}', 'one in a transaction');
$kept->query_safe("PREPARE TRANSACTION 'one'");
is($kept->query_safe($state), '1|{"sum": 1}', 'that is prepared, and not seen');
is($kept->query_safe($snapshot), '1|{"sum": 1}', 'nor is its snapshot');
$kept->query_safe("ROLLBACK PREPARED 'one'");
is($kept->query_safe($state), '1|{"sum": 1}', 'rolled back it never was');
is($kept->query_safe(add(20)), '{"sum": 21}', 'another one takes the number');
$kept->query_safe('BEGIN');
is($kept->query_safe(add(30)), '{"sum": 51}', 'one more');
$kept->query_safe("PREPARE TRANSACTION 'two'");
is($kept->query_safe($state), '2|{"sum": 21}', 'is prepared');
is(sqlstate("SET lock_timeout = '100ms'; SELECT esrs_alter_aggregate('counter', '{\"snapshots\": \"rebuild\"}')"), '55P03',
	'a rebuild waits for it');
$kept->query_safe("COMMIT PREPARED 'two'");
is($kept->query_safe($state), '3|{"sum": 51}', 'committed it is seen');
is($kept->query_safe($snapshot), '3|{"sum": 51}', 'with its snapshot');
is($kept->query_safe(add(1)), '{"sum": 52}', 'and commands go on');
is($kept->query_safe("SELECT count(*) FROM esrs_verify('counter')"), '0', 'all is well');

# ---------------------------------------------------------------------------
# a standby
# ---------------------------------------------------------------------------

my $testlib = "$ENV{TESTDIR}/testlib/esrs_testlib";
my $have_c = -e "$testlib.so";

sql(loaded_sql('standby_loaded', 'standby_c', $testlib) . <<SQL) if $have_c;
CREATE FUNCTION standby_counter(internal) RETURNS esrs.aggregate_handler AS '$testlib', 'testlib_counter_kept' LANGUAGE C;
SELECT esrs_register_aggregate('standby_c', handler => 'standby_counter(internal)', snapshot_every => 3);
SELECT esrs_handle_command('standby_c', $i1, '{"Many": 3}');
SQL
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;

my $there = $standby->background_psql('postgres');
sub replayed { $node->wait_for_catchup($standby); return }

replayed();
is($there->query_safe($state), '4|{"sum": 52}', 'a standby loads');
is($standby->safe_psql('postgres', $snapshot), '4|{"sum": 52}', 'and has the snapshots');
SKIP:
{
	skip 'testlib is not built', 1 unless $have_c;
	my $load = 'SELECT * FROM standby_loaded()';

	is($standby->safe_psql('postgres', $load), '3|0', 'which it uses');
	is($there->query_safe($load), '3|0', 'also in the session that stays');
	sql("SELECT esrs_handle_command('standby_c', $i1, '{\"Add\": {\"by\": 5}}')");
	replayed();
	is($there->query_safe($load), '8|1', 'a new event is applied on top');
	is($there->query_safe($load), '8|0', 'and the state is kept');
	is($standby->safe_psql('postgres', $load), '8|1', 'not so in a new session');
	is($standby->safe_psql('postgres', "SELECT count(*) FROM esrs_verify('standby_c')"), '0', 'esrs_verify() runs there');
	sql("SELECT esrs_handle_command('standby_c', $i1, '{\"Many\": 2}')");
	replayed();
	is($standby->safe_psql('postgres', $load), '10|0', 'a new snapshot is used');
}
sql("SELECT esrs_delete('counter', $i1)");
sql(add($_)) for 1 .. 4;
replayed();
is($there->query_safe($state), '4|{"sum": 10}', 'deleted, and made again up to the same number');
sql(<<'SQL');
CREATE OR REPLACE FUNCTION counter_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('sum', coalesce((state ->> 'sum')::int, 0) + 100 * (event ->> 'added')::int)
$$;
SQL
replayed();
is($there->query_safe($state), '4|{"sum": 1000}', 'another function: neither the kept state nor the snapshot is used');
sql("BEGIN; SELECT esrs_alter_aggregate('counter', '{\"append_only\": false}');
     UPDATE counter_events SET payload = '{\"added\": 1}'; SELECT esrs_alter_aggregate('counter', '{\"append_only\": true}'); COMMIT");
replayed();
is($there->query_safe($state), '4|{"sum": 400}', 'history that was changed on purpose');
my (undef, undef, $stderr) = $standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT esrs_alter_aggregate('counter', '{\"snapshots\": \"rebuild\"}');");
like($stderr, qr/ERROR:\s+25006/, 'rebuilding is refused');
$standby->promote;
is($there->query_safe($state), '4|{"sum": 400}', 'promoted: the session goes on');
is($there->query_safe(add(1)), '{"sum": 500}', 'with commands');
is($there->query_safe($snapshot), '5|{"sum": 500}', 'and snapshots');
$there->quit;
$kept->quit;

$standby->stop;
$node->stop;
done_testing();
