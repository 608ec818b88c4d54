# CREATE EXTENSION esrs SCHEMA app: everything works, with that schema in the search_path
# and without, and moves on with a dump.
#
# Catches: a statement of ours, or a type, that is looked up by search_path; a function of
# ours that is expected in public; a fixed schema in the script.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('schema');
my ($i1, $i2, $i3) = map { id($_) } 1 .. 3;

sub sql { my ($sql, $database) = @_; return $node->safe_psql($database || 'postgres', $sql) }

# "App 2" needs quotes; strangers in the search_path try to be taken for the real thing
for my $case ([ 'app', '' ], [ 'app', 'decoy, pg_catalog' ], [ '"App 2"', 'public' ])
{
	my ($schema, $path) = @$case;
	my $name = "$schema with search_path \"$path\"";
	my $set = $path eq '' ? "SET search_path = '';" : "SET search_path = $path;";

	sql('DROP DATABASE IF EXISTS work');
	sql('CREATE DATABASE work');
	my $work = sub { return sql("SET client_min_messages = warning; $set $_[0]", 'work') };
	# with a place to create tables in
	my $ddl = sub { return sql("SET client_min_messages = warning; SET search_path = tables; $_[0]", 'work') };

	sql("CREATE SCHEMA $schema; CREATE SCHEMA decoy; CREATE SCHEMA tables; CREATE EXTENSION esrs SCHEMA $schema", 'work');
	sql(<<'SQL', 'work');
-- strangers
CREATE FUNCTION decoy.now() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE ''decoy''; END';
CREATE FUNCTION decoy.eq(uuid, uuid) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE ''decoy''; END';
CREATE OPERATOR decoy.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = decoy.eq);
CREATE TYPE decoy.esrs_event AS (nothing int);
CREATE TYPE decoy.jsonb AS (nothing int);
CREATE TABLE decoy.book_events (nothing int);
CREATE TABLE decoy.aggregates (nothing int);
-- the aggregate
CREATE FUNCTION tables.book_handle(state pg_catalog.jsonb, command pg_catalog.jsonb) RETURNS pg_catalog.jsonb[]
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT CASE WHEN command OPERATOR(pg_catalog.?) 'add' THEN ARRAY[pg_catalog.jsonb_build_object('added', command OPERATOR(pg_catalog.->) 'add')] ELSE '{}' END $$;
CREATE FUNCTION tables.book_apply(state pg_catalog.jsonb, event pg_catalog.jsonb) RETURNS pg_catalog.jsonb
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT pg_catalog.jsonb_build_object('sum', coalesce((state OPERATOR(pg_catalog.->>) 'sum')::int, 0) OPERATOR(pg_catalog.+) (event OPERATOR(pg_catalog.->>) 'added')::int) $$;
CREATE TABLE tables.model (what text);
SQL
	sql(<<SQL, 'work');
CREATE FUNCTION tables.keep(e $schema.esrs_event) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp
    AS \$\$ INSERT INTO tables.model VALUES (pg_catalog.concat((e).aggregate, (e).sequence_number)) \$\$;
CREATE FUNCTION tables.keep_all(e $schema.esrs_event[]) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp
    AS \$\$ INSERT INTO tables.model VALUES ('all') \$\$;
CREATE FUNCTION tables.forget(pg_catalog.uuid) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp
    AS \$\$ INSERT INTO tables.model VALUES ('forgotten') \$\$;
SQL

	is($ddl->("SELECT $schema.esrs_register_aggregate('book', handle_command => 'tables.book_handle(jsonb,jsonb)', apply_event => 'tables.book_apply(jsonb,jsonb)')::text"),
		'book_events', "$name: registered");
	$work->("SELECT $schema.esrs_register_handler('keep', ARRAY['book'], 'tables.keep($schema.esrs_event)', delete_handler => 'tables.forget(uuid)')");
	$work->("SELECT $schema.esrs_register_handler('keep_all', ARRAY['book'], 'tables.keep_all($schema.esrs_event[])')");
	is($work->("SELECT $schema.esrs_handle_command('book', $i1, '{\"add\": 1}')"), '{"sum": 1}', "$name: handle_command");
	is($work->("SELECT sequence_number, state FROM $schema.esrs_try_command('book', $i1, '{\"add\": 2}', command_id => $i1)"),
		'2|{"sum": 3}', "$name: try_command");
	is($work->("SELECT sequence_number FROM $schema.esrs_try_command('book', $i1, '{\"add\": 2}', command_id => $i1)"),
		'2', "$name: command_id");
	is($work->("SELECT count(*) FROM $schema.esrs_handle_commands(ARRAY[('book', $i1, '{\"add\": 3}', NULL, NULL, NULL), ('book', $i2, '{\"add\": 3}', 0, '{}', $i2)]::$schema.esrs_command[])"),
		'2', "$name: handle_commands");
	is($work->("SELECT * FROM $schema.esrs_decide('book', $i1, '{\"add\": 4}')"), '{"added": 4}', "$name: decide");
	is($work->("SELECT sequence_number FROM $schema.esrs_persist('book', $i2, ARRAY['{\"added\": 7}']::pg_catalog.jsonb[])"), '2', "$name: persist");
	is($work->("SELECT sequence_number, state FROM $schema.esrs_load('book', $i1)"), '3|{"sum": 6}', "$name: load");
	is($work->("SELECT sequence_number, state FROM $schema.esrs_load('book', $i1, at_sequence => 1)"), '1|{"sum": 1}', "$name: load of the past");
	is($work->("SELECT sequence_number FROM $schema.esrs_lock_and_load('book', $i1)"), '3', "$name: lock_and_load");
	is($work->("SELECT pg_catalog.count(*) FROM $schema.esrs_events('book', $i1)"), '3', "$name: events");
	is($work->("SELECT pg_catalog.length($schema.esrs_event_json(e)) OPERATOR(pg_catalog.>) 100 FROM $schema.esrs_events('book', $i1, 1, 1) AS e"), 't', "$name: event_json");
	is($work->("SELECT $schema.esrs_delete('book', $i2)"), '2', "$name: delete");
	is($work->("SELECT pg_catalog.count(*) FROM $schema.esrs_feed(ARRAY['book'])"), '4', "$name: feed");
	like($work->("SELECT $schema.esrs_test('book', ARRAY['{\"added\": 1}']::pg_catalog.jsonb[], '{\"add\": 1}', ARRAY['{\"added\": 1}']::pg_catalog.jsonb[])"), qr/^ok/, "$name: test");
	is($work->("SELECT pg_catalog.string_agg(what, ' ' ORDER BY what) FROM tables.model"), 'all all all all all book1 book1 book2 book2 book3 forgotten', "$name: handlers");
	is($work->("SELECT pg_catalog.count(*) FROM $schema.esrs_check()"), '0', "$name: check");
	is($work->("SELECT name, kind FROM $schema.esrs_aggregates"), 'book|sql', "$name: views");
	$work->("SELECT $schema.esrs_alter_aggregate('book', '{\"notify\": \"off\", \"append_only\": false}')");
	$work->("SELECT $schema.esrs_alter_aggregate('book', '{\"append_only\": true, \"unique_event_id\": true}')");
	$work->("SELECT $schema.esrs_alter_handler('keep', '{\"event_types\": [\"added\"]}')");
	my (undef, undef, $stderr) = $node->psql('work', "\\set VERBOSITY sqlstate\n$set DELETE FROM tables.book_events;");
	like($stderr, qr/ZE003/, "$name: guard");
	is($work->("SELECT $schema.esrs_handle_command('book', $i1, '{\"add\": 1}')"), '{"sum": 7}', "$name: after the alterations");

	# dumped and restored
	my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
	sql('DROP DATABASE IF EXISTS copy');
	sql('CREATE DATABASE copy TEMPLATE template0');
	command_ok([ 'pg_dump', '-d', $node->connstr('work'), '-f', $dump ], "$name: dumped");
	command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('copy'), '-f', $dump ], "$name: restored");
	is(sql("$set SELECT $schema.esrs_handle_command('book', $i1, '{\"add\": 1}')", 'copy'), '{"sum": 8}', "$name: and works there");

	$work->("SELECT $schema.esrs_unregister_handler('keep'), $schema.esrs_unregister_handler('keep_all')");
	$work->("SELECT $schema.esrs_unregister_aggregate('book', drop_events => true)");
	$work->('DROP FUNCTION tables.keep, tables.keep_all');
	is($work->('DROP EXTENSION esrs'), '', "$name: dropped");
	is($work->("SELECT pg_catalog.count(*) FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) 'esrs'"), '0', "$name: without a trace");
}

# the extension is not relocatable afterwards, and says so
sql('CREATE EXTENSION esrs');
my ($rc, undef, $stderr) = $node->psql('postgres', 'CREATE SCHEMA other; ALTER EXTENSION esrs SET SCHEMA other');
like($stderr, qr/does not support SET SCHEMA/, 'it stays where it was created');

$node->stop;
done_testing();
