# A database with aggregates, handlers, commands and deletions is dumped and restored in
# every usual way; then everything is as it was, and goes on: the next number, the next
# position, handlers, the guard, seen commands, permanent deletions, rights.
#
# Catches: a catalog or a sequence that is not dumped; an order of restoring that does not
# work; a table that needs its own name while it is made; a name that is quoted too little
# or too much; a position drawn twice after a partial dump.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('dump');
my $dir = PostgreSQL::Test::Utils::tempdir();
my ($i1, $i2, $i3) = map { id($_) } 1 .. 3;
my $testlib = "$ENV{TESTDIR}/testlib/esrs_testlib";
my $have_c = -e "$testlib.so";

sub sql { my ($database, $sql) = @_; return $node->safe_psql($database, $sql) }

sub sqlstate
{
	my ($database, $statement) = @_;
	my (undef, undef, $stderr) =
	  $node->psql($database, "\\set VERBOSITY sqlstate\n$statement;");

	return $stderr =~ /ERROR:\s+(\w{5})/ ? $1 : '00000';
}

# ---------------------------------------------------------------------------
# the database
# ---------------------------------------------------------------------------

# Names that are legal: a keyword, underscores, digits, the longest.
my $longest = 'z' x 40;
my @names = ('counter', 'select', '_', '__0', 'a', $longest);

sql('postgres', 'CREATE ROLE "Odd Owner"');
sql('postgres', 'CREATE ROLE commander');
sql('postgres', 'CREATE DATABASE source');
sql('source', 'CREATE EXTENSION esrs');
sql('source', "SET client_min_messages = warning; CREATE SCHEMA \"Odd \"\"Schema'\"; " . counter_sql('counter'));
sql('source', <<SQL);
SET client_min_messages = warning;
-- functions with names that need quotes
CREATE FUNCTION "Odd ""Schema'"."Handle It!"(jsonb, jsonb) RETURNS jsonb[] LANGUAGE sql
    SET search_path = pg_catalog, pg_temp AS \$\$ SELECT public.counter_handle(\$1, \$2) \$\$;
CREATE FUNCTION "Odd ""Schema'"."Apply\\It"(jsonb, jsonb) RETURNS jsonb LANGUAGE sql
    BEGIN ATOMIC SELECT public.counter_apply(\$1, \$2); END;
CREATE FUNCTION "Odd ""Schema'"."up""cast"(jsonb, int) RETURNS jsonb LANGUAGE sql
    SET search_path = pg_catalog, pg_temp AS \$\$ SELECT \$1 \$\$;
-- the tables are in several schemas
SET search_path = "Odd ""Schema'", public;
SELECT esrs_register_aggregate(name, handle_command => '"Odd ""Schema''"."Handle It!"(jsonb,jsonb)',
        apply_event => '"Odd ""Schema''"."Apply\\It"(jsonb,jsonb)', upcast => '"Odd ""Schema''"."up""cast"(jsonb,int)',
        initial_state => '{"sum": 0, "é\\"": "\\\\ '' \\n"}', event_version => 2,
        event_type_path => 'a.b''', notify => 'off', unique_event_id => true)
FROM unnest(ARRAY['select', '_', '__0', 'a']) AS name;
RESET search_path;
SELECT esrs_register_aggregate('$longest', append_only => false, event_id_format => 'v4');
SELECT esrs_register_aggregate('gone', handle_command => 'counter_handle(jsonb,jsonb)', apply_event => 'counter_apply(jsonb,jsonb)');

-- a read model, kept by two handlers; one serves two aggregates
CREATE TABLE model (aggregate text, aggregate_id uuid, events int, PRIMARY KEY (aggregate, aggregate_id));
CREATE FUNCTION keep_model(e esrs_event) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp
    AS \$\$
    INSERT INTO public.model VALUES ((e).aggregate, (e).aggregate_id, 1)
    ON CONFLICT (aggregate, aggregate_id) DO UPDATE SET events = model.events + 1
\$\$;
CREATE FUNCTION forget_model(uuid) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp
    AS \$\$ DELETE FROM public.model WHERE aggregate_id = \$1 \$\$;
CREATE TABLE "Odd ""Schema'".log (what text);
CREATE FUNCTION "Odd ""Schema'"."On 'Events'"(e esrs_event[]) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp
    AS \$\$ INSERT INTO "Odd ""Schema'".log VALUES ((e[1]).aggregate) \$\$;
SELECT esrs_register_handler('model', ARRAY['counter', 'select'], 'keep_model(esrs_event)',
    delete_handler => 'forget_model(uuid)');
SELECT esrs_register_handler('a_log', ARRAY['counter'],
    '"Odd ""Schema''"."On ''Events''"(esrs_event[])', event_types => ARRAY['added', 'it''s "x"']);

-- what happened
SELECT esrs_handle_command(name, id, '{"add": 1}')
FROM unnest(ARRAY['counter', 'select', '_', '__0', 'a']) AS name, unnest(ARRAY[$i1, $i2]::uuid[]) AS id, generate_series(1, 3);
SELECT count(*) FROM esrs_persist('$longest', $i1, ARRAY['"A"', '{"B": "é ☃ \\\\u0001"}', '{"n": 1.10}']::jsonb[]);
SELECT esrs_handle_command('counter', $i1, '{"add": 5}', command_id => $i1, metadata => '{"actor": "é"}');
SELECT esrs_handle_command('counter', $i2, '{"nothing": 5}', command_id => $i2);
SELECT esrs_delete('select', $i2);
SELECT esrs_delete('counter', $i3, permanent => true);
SELECT esrs_handle_command('gone', $i1, '{"add": 1}');
ALTER TABLE counter_events RENAME TO counted;
GRANT EXECUTE ON FUNCTION counter_handle TO commander;
-- handlers run as the caller
GRANT ALL ON model, "Odd ""Schema'".log TO commander;
GRANT USAGE ON SCHEMA "Odd ""Schema'" TO commander;
DROP TABLE gone_events;
-- positions that were rolled back, so that the newest event has not the newest position
BEGIN; SELECT esrs_handle_command('counter', $i1, '{"add": 5}'); ROLLBACK;
SQL

if ($have_c)
{
	sql('source', <<SQL);
SET client_min_messages = warning;
CREATE FUNCTION c_counter(internal) RETURNS esrs.aggregate_handler AS '$testlib', 'testlib_counter' LANGUAGE C;
SELECT esrs_register_aggregate('in_c', handler => 'c_counter(internal)');
SELECT esrs_handle_command('in_c', $i1, '{"Add": {"by": 3}}');
SQL
	push @names, 'in_c';
}

# ---------------------------------------------------------------------------
# the comparison
# ---------------------------------------------------------------------------

# All that must travel, as text.
my $picture = join(";\n",
	"SELECT 'aggregate', a.* FROM esrs.aggregates AS a ORDER BY name",
	"SELECT 'view', a.* FROM esrs_aggregates AS a ORDER BY name",
	"SELECT 'handler', h.* FROM esrs.handlers AS h ORDER BY name",
	"SELECT 'command', c.* FROM esrs.commands AS c ORDER BY 2, 3, 4",
	"SELECT 'deletion', d.* FROM esrs.deletions AS d ORDER BY position",
	"SELECT 'sequence', last_value, is_called FROM esrs.position_seq",
	"SELECT 'ordinals', last_value, is_called FROM esrs.handler_ordinal_seq",
	"SELECT 'model', m.* FROM model AS m ORDER BY 2, 3",
	"SELECT 'feed', f.* FROM esrs_feed((SELECT array_agg(name) FROM esrs_aggregates WHERE name <> 'gone')) AS f",
	"SELECT 'default', adrelid::regclass, pg_get_expr(adbin, adrelid) FROM pg_attrdef ORDER BY adrelid::regclass::text, adnum",
	"SELECT 'guard', tgrelid::regclass, pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE tgname = 'esrs_append_only' ORDER BY 2",
	"SELECT 'function', oid::regprocedure, proacl FROM pg_proc WHERE pronamespace IN ('public'::regnamespace, '\"Odd \"\"Schema''\"'::regnamespace) ORDER BY 2::text",
	"SELECT 'check', c.* FROM esrs_check() AS c");
my $source = sql('source', $picture);
like($source, qr/^check\|error\|gone\|its events table does not exist/m, 'esrs_check() knows what is missing, and nothing else');
is(() = $source =~ /^check\|/mg, 1, 'one finding');

sub works
{
	my ($database) = @_;

	my (%there, %here);
	$here{$_}++ for split /\n/, $source;
	$there{$_}++ for split /\n/, sql($database, $picture);
	is( join("\n", grep { !$here{$_} } sort keys %there),
		join("\n", grep { !$there{$_} } sort keys %here),
		"$database: everything has travelled");

	my $last = sql($database, 'SELECT last_value FROM esrs.position_seq');
	for my $name (@names)
	{
		my $next = sql($database, "SELECT max(sequence_number) + 1 FROM esrs_events('$name', $i1)");
		my $e = $name eq $longest ? "esrs_persist('$name', $i1, ARRAY['\"C\"']::jsonb[])" :
		  $name eq 'in_c' ? "unnest((SELECT events FROM esrs_try_command('$name', $i1, '{\"Add\": {\"by\": 1}}')))" :
		  "unnest((SELECT events FROM esrs_try_command('$name', $i1, '{\"add\": 1}')))";
		$last++;
		is(sql($database, "SELECT sequence_number, position FROM $e"),
			"$next|$last", "$database: $name goes on with the next number and position");
	}
	is(sql($database, "SELECT events FROM model WHERE aggregate = 'counter' AND aggregate_id = $i1"),
		'5', "$database: handlers are called");
	is(sql($database, "SELECT sequence_number, state FROM esrs_load('counter', $i1)"),
		'5|{"sum": 9}', "$database: the state is the fold of the events");
	is(sql($database, "SELECT sequence_number FROM esrs_try_command('counter', $i1, '{\"add\": 5}', command_id => $i1)"),
		'4', "$database: a command that was seen is not handled again");
	is(sqlstate($database, "SELECT esrs_handle_command('counter', $i1, '{\"add\": 6}', command_id => $i1)"),
		'ZE002', "$database: nor another with its id");
	is(sqlstate($database, "SELECT esrs_handle_command('counter', $i3, '{\"add\": 1}')"),
		'ZE007', "$database: a permanent deletion is one");
	is(sql($database, "SELECT sequence_number FROM esrs_try_command('select', $i2, '{\"add\": 1}')"),
		'1', "$database: any other starts again");
	is(sqlstate($database, 'UPDATE counted SET version = 1'), 'ZE003', "$database: events are append-only");
	is(sqlstate($database, "UPDATE ${longest}_events SET version = 1"), '00000', "$database: but not where it was allowed");
	is(sqlstate($database, 'DROP FUNCTION counter_handle'), '2BP01', "$database: functions are tied to the table");
	is(sqlstate($database, "SET ROLE \"Odd Owner\"; SELECT esrs_handle_command('counter', $i1, '{\"add\": 1}')"),
		'42501', "$database: a stranger cannot command");
	is(sqlstate($database, "SET ROLE commander; SELECT esrs_handle_command('counter', $i1, '{\"add\": 1}')"),
		'00000', "$database: a commander can");
	is(sqlstate($database, "SELECT esrs_handle_command('gone', $i1, '{\"add\": 1}')"),
		'42P01', "$database: a table that was dropped is missing there, too");
	is(sql($database, "SELECT count(*) FROM (SELECT position <= lag(position) OVER () AS back FROM
	                   esrs_feed((SELECT array_agg(name) FROM esrs_aggregates WHERE name <> 'gone'))) AS f WHERE back"),
		'0', "$database: the feed is in order");
	is(sql($database, "SELECT esrs_unregister_aggregate(name, true) FROM esrs_aggregates WHERE name = '_'"),
		'', "$database: an aggregate can be unregistered");
	return;
}

# ---------------------------------------------------------------------------
# dumped and restored
# ---------------------------------------------------------------------------


# Runs programs of PostgreSQL; the last argument names the test.
sub run_ok
{
	my $name = pop;
	my ($program, $database, @arguments) = @_;

	command_ok([ $program, '-d', $node->connstr($database), @arguments ], $name);
}

sub database { my ($name) = @_; sql('postgres', "CREATE DATABASE $name TEMPLATE template0"); return $name }

my $psql = [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1' ];
sub restore_plain
{
	my ($database, $file) = @_;

	command_ok([ @$psql, '-d', $node->connstr($database), '-f', $file ], "$database: restored without an error");
}

my $plain = database('plain');
run_ok('pg_dump', 'source', '-f', "$dir/plain.sql", 'dumped as SQL');
restore_plain($plain, "$dir/plain.sql");
works($plain);

my $custom = database('custom');
run_ok('pg_dump', 'source', '-Fc', '-f', "$dir/custom", 'dumped in the custom format');
run_ok('pg_restore', $custom, '--exit-on-error', '-j', '2', "$dir/custom", 'custom: restored, two jobs');
works($custom);

my $parts = database('parts');
run_ok('pg_dump', 'source', '--schema-only', '-f', "$dir/schema.sql", 'the schema alone');
run_ok('pg_dump', 'source', '--data-only', '-f', "$dir/data.sql", 'the data alone');
restore_plain($parts, "$dir/schema.sql");
restore_plain($parts, "$dir/data.sql");
works($parts);

# a second generation, as INSERT statements
my $second = database('second');
run_ok('pg_dump', 'source', '--rows-per-insert=2', '-f', "$dir/inserts.sql", 'dumped as INSERTs');
restore_plain($second, "$dir/inserts.sql");
works($second);

# ---------------------------------------------------------------------------
# one table alone: positions come without the sequence
# ---------------------------------------------------------------------------

run_ok('pg_dump', 'source', '-t', 'counted', '-f', "$dir/table.sql", 'one table');
run_ok('pg_dump', 'source', '-t', 'counted', '--data-only', '-f', "$dir/table_data.sql", 'its data');
my $greatest = sql('source', 'SELECT max(position) FROM counted');
my $functions = sql('source', "SELECT string_agg(pg_get_functiondef(f), ';') FROM unnest(ARRAY['counter_handle(jsonb,jsonb)',
    'counter_apply(jsonb,jsonb)']::regprocedure[]) AS f");

# where an aggregate is registered, and then filled
my $filled = database('filled');
sql($filled, "SET client_min_messages = warning; CREATE EXTENSION esrs; $functions;
    SELECT esrs_register_aggregate('counter', handle_command => 'counter_handle(jsonb,jsonb)', apply_event => 'counter_apply(jsonb,jsonb)');
    ALTER TABLE counter_events RENAME TO counted");
restore_plain($filled, "$dir/table_data.sql");
is(sql($filled, 'SELECT severity, object, problem, hint FROM esrs_check()'),
	"repaired|counter|position $greatest in table public.counted was ahead of the sequence|",
	'filled: esrs_check() moves the sequence behind the positions');
is(sql($filled, 'SELECT count(*) FROM esrs_check()'), '0', 'filled: once');
is(sql($filled, "SELECT sequence_number FROM esrs_try_command('counter', $i1, '{\"add\": 1}')"), '5', 'filled: the instance goes on');
is(sql($filled, 'SELECT max(position) FROM counted'), $greatest + 1, 'filled: with the next position');

# where the table comes first, and is adopted
my $adopted = database('adopted');
sql($adopted, "CREATE EXTENSION esrs; $functions");
restore_plain($adopted, "$dir/table.sql");
sql($adopted, "SET client_min_messages = warning; ALTER TABLE counted RENAME TO counter_events;
    SELECT esrs_register_aggregate('counter', handle_command => 'counter_handle(jsonb,jsonb)', apply_event => 'counter_apply(jsonb,jsonb)')");
is(sql($adopted, "SELECT sequence_number FROM esrs_try_command('counter', $i1, '{\"add\": 1}')"), '5', 'adopted: the instance goes on');
is(sql($adopted, 'SELECT max(position) FROM counter_events'), $greatest + 1, 'adopted: with the next position');
is(sql($adopted, 'SELECT count(*) FROM esrs_check()'), '0', 'adopted: healthy');

SKIP:
{
	skip 'testlib is not built: no aggregate in C', 1 unless $have_c;
	pass('with an aggregate in C');
}

$node->stop;
done_testing();
