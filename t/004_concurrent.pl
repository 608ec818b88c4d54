# Eight clients command one instance, and few: nobody sees an error, numbers are 1 to n
# without gap, no number is returned twice, and the state is the fold of the events.
#
# Catches: anything that a lock, taken late or released early, lets through.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('concurrent');

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql('CREATE EXTENSION esrs');
sql(counter_sql('counter'));
sql(<<'SQL');
-- what clients were told
CREATE UNLOGGED TABLE returned (run text, aggregate_id uuid, sequence_number int, sum int, added int);
-- a read model, kept by a handler
CREATE TABLE model (aggregate_id uuid PRIMARY KEY, sum int NOT NULL, events int NOT NULL);
CREATE FUNCTION keep_model(e esrs_event) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp
    AS $$
    INSERT INTO public.model VALUES ((e).aggregate_id, ((e).payload ->> 'added')::int, 1)
    ON CONFLICT (aggregate_id) DO UPDATE SET sum = model.sum + excluded.sum, events = model.events + 1
$$;
SELECT esrs_register_handler('model', ARRAY['counter'], 'keep_model(esrs_event)');
SQL

# run(NAME, PGBENCH OPTIONS, SCRIPT)
sub run
{
	my ($name, $options, $script) = @_;

	$node->pgbench(
		"-n -c 8 -j 2 $options",
		0,
		[qr/number of failed transactions: 0 /],
		[qr/^$/],
		"$name: no client sees an error",
		{ "004_$name" => $script });
}

# check(NAME, number of commands): the whole truth about the instances that a run used
sub check
{
	my ($name, $commands) = @_;

	is(sql("SELECT count(*) FROM returned WHERE run = '$name'"), $commands, "$name: all commands returned");
	is( sql("SELECT count(*) FROM (SELECT aggregate_id, sequence_number FROM returned
	         WHERE run = '$name' GROUP BY 1, 2 HAVING count(*) > 1) AS d"),
		'0', "$name: no number was returned twice");
	is( sql("SELECT count(*) FROM counter_events AS e JOIN returned AS r USING (aggregate_id, sequence_number)
	         WHERE run = '$name' AND (payload ->> 'added')::int = r.added"),
		$commands, "$name: each number belongs to the command that got it");
	# the state that was returned is the sum up to that number
	is( sql("SELECT count(*) FROM (SELECT *, sum(added) OVER (PARTITION BY aggregate_id
	         ORDER BY sequence_number) AS folded FROM returned WHERE run = '$name') AS f WHERE sum <> folded"),
		'0', "$name: each returned state is the fold of the events up to its number");
}

my $one = id(1);
run('one', '-M prepared -t 60', <<SQL);
\\set n random(1, 1000)
INSERT INTO returned SELECT 'one', aggregate_id, sequence_number, (state ->> 'sum')::int, :n
FROM esrs_try_command('counter', $one, jsonb_build_object('add', :n::int));
SQL
check('one', 480);

run('few', '-M extended -t 100', <<'SQL');
\set n random(1, 1000)
\set i random(2, 4)
INSERT INTO returned SELECT 'few', aggregate_id, sequence_number, (state ->> 'sum')::int, :n
FROM esrs_try_command('counter', lpad(:i::text, 32, '0')::uuid, jsonb_build_object('add', :n::int));
SQL
check('few', 800);

# several commands a transaction, savepoints, rejections and rollbacks among them;
# instances in ascending order, so nobody deadlocks
run('mixed', '-M simple -t 40', <<'SQL');
\set n random(1, 1000)
\set i random(5, 6)
\set end random(1, 4)
BEGIN;
INSERT INTO returned SELECT 'mixed', aggregate_id, sequence_number, (state ->> 'sum')::int, :n
FROM esrs_try_command('counter', lpad(:i::text, 32, '0')::uuid, jsonb_build_object('add', :n));
SAVEPOINT s;
SELECT esrs_handle_command('counter', lpad(:i::text, 32, '0')::uuid, jsonb_build_object('add', 1));
ROLLBACK TO SAVEPOINT s;
SELECT ok FROM esrs_try_command('counter', lpad(:i::text, 32, '0')::uuid, '{"other": 1}');
INSERT INTO returned SELECT 'mixed', aggregate_id, sequence_number, (state ->> 'sum')::int, :n
FROM esrs_try_command('counter', '00000000-0000-0000-0000-000000000007', jsonb_build_object('add', :n));
\if :end = 1
ROLLBACK;
\else
COMMIT;
\endif
SQL
check('mixed', sql("SELECT count(*) FROM returned WHERE run = 'mixed'"));

# the same command, sent by all clients again and again, happens once
run('once', '-t 20', <<'SQL');
SELECT esrs_handle_command('counter', '00000000-0000-0000-0000-000000000008', '{"add": 1}',
    command_id => '00000000-0000-0000-0000-000000000001');
SQL
is(sql("SELECT count(*) FROM counter_events WHERE aggregate_id = '00000000-0000-0000-0000-000000000008'"),
	'1', 'once: one event');

# all instances
is( sql('SELECT count(*) FROM (SELECT aggregate_id FROM counter_events GROUP BY 1
         HAVING min(sequence_number) <> 1 OR max(sequence_number) <> count(*)) AS x'),
	'0', 'numbers are 1 to n in every instance');
is( sql("SELECT count(*) FROM (SELECT aggregate_id, sum((payload ->> 'added')::int) AS sum, count(*) AS events
         FROM counter_events GROUP BY 1) AS e JOIN model AS m USING (aggregate_id, sum, events)"),
	sql('SELECT count(DISTINCT aggregate_id) FROM counter_events'),
	'the read model is what the events say');
is( sql("SELECT count(*) FROM (SELECT aggregate_id, sum((payload ->> 'added')::int) AS sum
         FROM counter_events GROUP BY 1) AS e, esrs_load('counter', e.aggregate_id) AS l
         WHERE (l.state ->> 'sum')::int <> e.sum"),
	'0', 'every state is the fold of its events');
is( sql("SELECT count(*) FROM counter_events AS a JOIN counter_events AS b USING (aggregate_id)
         WHERE a.sequence_number < b.sequence_number AND (a.position >= b.position OR a.occurred_on > b.occurred_on)"),
	'0', 'positions and times follow the numbers');
is(sql("SELECT count(*) FROM esrs_feed(ARRAY['counter'], max => 100000)"),
	sql('SELECT count(*) FROM counter_events'), 'the feed has all of them');
is(sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), '0', 'no lock is left');

$node->stop;
done_testing();
