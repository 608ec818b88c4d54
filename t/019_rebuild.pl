# Rebuilds of many events while four clients command: kill -9 in the middle of each strategy,
# cancel, resume, progress, throttle; and memory that stays flat.
#
# Catches: an event that is lost or applied twice by a rebuild under load; a rebuild that a
# crash leaves half done; one that begins anew where it could go on; one that cannot be
# cancelled; a view that shows what is over, or wrong totals; memory that grows with the events;
# notifications of what is replayed.
#
# 20,000 events and more; with ESRS_LONG=1 there are 1,000,000.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $events = $ENV{ESRS_LONG} ? 1_000_000 : 20_000;
my $instances = $events / 10;

my $node = new_node('rebuild', conf => <<'CONF');
shared_buffers = 64MB
fsync = off
esrs.max_workers = 1
restart_after_crash = on
CONF

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql('CREATE EXTENSION esrs');
sql('SET client_min_messages = warning; ' . counter_sql('now') . counter_sql('late'));
sql(<<SQL);
SET client_min_messages = warning;
CREATE TABLE now_model (id uuid PRIMARY KEY, sum bigint, events bigint);
CREATE TABLE late_model (id uuid PRIMARY KEY, sum bigint, events bigint);
CREATE FUNCTION on_now(e esrs_event) RETURNS void BEGIN ATOMIC
    INSERT INTO now_model VALUES (e.aggregate_id, (e.payload ->> 'added')::int, 1)
    ON CONFLICT (id) DO UPDATE SET sum = now_model.sum + excluded.sum, events = now_model.events + 1;
END;
CREATE FUNCTION now_deleted(aggregate_id uuid) RETURNS void BEGIN ATOMIC DELETE FROM now_model WHERE id = aggregate_id; END;
CREATE FUNCTION on_late(e esrs_event) RETURNS void BEGIN ATOMIC
    INSERT INTO late_model VALUES (e.aggregate_id, (e.payload ->> 'added')::int, 1)
    ON CONFLICT (id) DO UPDATE SET sum = late_model.sum + excluded.sum, events = late_model.events + 1;
END;
CREATE FUNCTION late_deleted(aggregate_id uuid) RETURNS void BEGIN ATOMIC DELETE FROM late_model WHERE id = aggregate_id; END;
SELECT esrs_register_handler('now', ARRAY['now'], 'on_now(esrs_event)', delete_handler => 'now_deleted(uuid)');
SELECT esrs_register_handler('late', ARRAY['late'], 'on_late(esrs_event)', mode => 'async', partitions => 2,
    start_at => 'beginning', delete_handler => 'late_deleted(uuid)');
INSERT INTO now_events (id, aggregate_id, payload, sequence_number)
    SELECT gen_random_uuid(), ('00000000-0000-4000-8000-' || lpad((n % $instances)::text, 12, '0'))::uuid,
           jsonb_build_object('added', n % 7), n / $instances + 1 FROM generate_series(0, $events - 1) AS n;
INSERT INTO late_events (id, aggregate_id, payload, sequence_number)
    SELECT id, aggregate_id, payload, sequence_number FROM now_events;
VACUUM ANALYZE now_events, late_events;
SQL

# the read model and the events: what one has and the other has not
sub differs
{
	my ($name) = @_;

	return "(SELECT count(*) FROM (SELECT coalesce(m.id, e.id) FROM ${name}_model AS m FULL JOIN
	           (SELECT aggregate_id AS id, sum((payload ->> 'added')::int), count(*) FROM ${name}_events GROUP BY 1) AS e
	         ON e.id = m.id AND e.sum = m.sum AND e.count = m.events WHERE m.id IS NULL OR e.id IS NULL) AS d)";
}

sub background
{
	my ($statement, $stdout, $stderr) = @_;

	return IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $statement ], '>', $stdout, '2>', $stderr);
}

# a rebuild that is as slow as is asked for, and seen by others
sub slow_rebuild
{
	my ($call, $stderr) = @_;
	my $stdout = '';
	my $run = background($call, \$stdout, $stderr);

	ok(wait_until($node, 'postgres', "SELECT count(*) = 1 FROM esrs_progress_rebuild WHERE phase = 'replaying' AND events_done > 0"),
		'it is in progress');
	return $run;
}

# ---------------------------------------------------------------------------
# under load
# ---------------------------------------------------------------------------

# the first build, of rows that no handler has seen
sql("CALL esrs_rebuild('now')");
is(sql('SELECT ' . differs('now')), '0', 'a new read model');
ok(wait_until($node, 'postgres', differs('late') . ' = 0', 180), 'and the worker has built the other one');

my $script = "$PostgreSQL::Test::Utils::tmp_check/load.sql";
append_to_file($script, <<SQL);
\\set n random(0, $instances + 20)
\\set action random(1, 50)
\\if :action = 1
SELECT esrs_delete('now', ('00000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid);
SELECT esrs_delete('late', ('00000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid);
\\else
SELECT ok FROM esrs_try_command('now', ('00000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid, jsonb_build_object('add', :n));
SELECT ok FROM esrs_try_command('late', ('00000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid, jsonb_build_object('add', :n));
\\endif
SQL
for my $call (
	"CALL esrs_rebuild('now')",
	"CALL esrs_rebuild('now', truncate => '{now_model}')",
	"CALL esrs_rebuild('now', strategy => 'per_aggregate')",
	"CALL esrs_rebuild('now', strategy => 'per_aggregate', workers => 2)",
	"CALL esrs_rebuild('now', strategy => 'swap', tables => '{now_model}')",
	"CALL esrs_rebuild('late')",
	"CALL esrs_rebuild('late', truncate => '{late_model}')",
	"CALL esrs_rebuild('late', strategy => 'per_aggregate')",
	"CALL esrs_rebuild('late', strategy => 'swap', tables => '{late_model}')")
{
	my ($out, $err) = ('', '');
	my $before = sql('SELECT last_value FROM esrs.position_seq');
	my $load = IPC::Run::start([ 'pgbench', '-n', '-c', '4', '-j', '2', '-T', '3', '-f', $script,
			'-d', $node->connstr('postgres') ], '>', \$out, '2>', \$err);

	# when the clients are at work
	wait_until($node, 'postgres', "(SELECT last_value > $before + 50 FROM esrs.position_seq)");
	my ($rc, undef, $stderr) = $node->psql('postgres', $call);
	is($rc, 0, $call) || diag($stderr);
	$load->finish;
	is($load->result(0), 0, 'the clients had no error') || diag($err);
	ok(wait_until($node, 'postgres', "(SELECT bool_and(events_behind = 0) FROM esrs_lag) AND " . differs('now') . ' + ' . differs('late') . ' = 0', 60),
		'both read models are what the events say');
}

# ---------------------------------------------------------------------------
# progress, throttle, cancel
# ---------------------------------------------------------------------------
sub spoil { sql("UPDATE now_model SET sum = -1; UPDATE late_model SET sum = -1") }

my $now_events = sql('SELECT count(*) FROM now_events');
my ($stderr, $run) = ('');
spoil();
$run = slow_rebuild("CALL esrs_rebuild('now', max_rate => 1000)", \$stderr);
is(sql('SELECT count(*) FROM now_model WHERE sum <> -1'), '0', 'others see the old read model');
ok(wait_until($node, 'postgres', "SELECT events_done > 6000 FROM esrs_progress_rebuild"), 'it goes on');
like(sql('SELECT handlers, strategy, phase, events_total, events_done <= events_total, started_at < now(), events_per_second BETWEEN 1 AND 2000,
                 estimated_rest > \'0\' FROM esrs_progress_rebuild'),
	qr/^"now"\|in_place\|replaying\|$now_events\|t\|t\|t\|t$/, 'how far it is');
is(sql("SELECT pg_cancel_backend(pid) FROM esrs_progress_rebuild"), 't', 'it is cancelled');
$run->finish;
like($stderr, qr/NOTICE:  rebuild of "now": \d+ of $now_events events so far, \d+ per second/, 'it has told how far it was');
like($stderr, qr/ERROR:  canceling statement/, 'it has ended');
is(sql('SELECT count(*) FROM now_model WHERE sum <> -1'), '0', 'the old read model is untouched');
is(sql('SELECT count(*) FROM esrs_progress_rebuild'), '0', 'nothing is in progress');

$stderr = '';
$run = slow_rebuild("CALL esrs_rebuild('now', strategy => 'per_aggregate', max_rate => 2000)", \$stderr);
ok(wait_until($node, 'postgres', "SELECT instances_done > 100 FROM esrs_progress_rebuild"), 'some instances are done');
sql("SELECT pg_cancel_backend(pid) FROM esrs_progress_rebuild");
$run->finish;
my $done = sql('SELECT instances FROM esrs.rebuilds');
cmp_ok($done, '>', 100, 'they are noted');
is(sql('SELECT count(*) FROM now_model WHERE sum <> -1') >= $done * 0.9 ? 'yes' : 'no', 'yes', 'and done');
(undef, undef, $stderr) = $node->psql('postgres', "CALL esrs_rebuild('now', strategy => 'per_aggregate')");
like($stderr, qr/goes on\nDETAIL: .* and $done instances are done/, 'the next call goes on');
is(sql('SELECT ' . differs('now')), '0', 'and the read model is right');

# ---------------------------------------------------------------------------
# by several processes, which end with the call
# ---------------------------------------------------------------------------
my $workers = "FROM pg_stat_activity WHERE backend_type = 'esrs rebuild worker'";
my $instances_done = 'SELECT sum(instances) FROM esrs.rebuilds';

for my $case (
	[ 'the caller is cancelled', "SELECT pg_cancel_backend(pid) FROM esrs_progress_rebuild", qr/ERROR:  canceling statement/ ],
	[ 'the caller is terminated', "SELECT pg_terminate_backend(pid) FROM esrs_progress_rebuild", qr/FATAL:  terminating connection/ ],
	[ 'a worker is terminated', "SELECT pg_terminate_backend(max(pid)) $workers", qr/ERROR:  canceling statement/ ],
	[ 'a worker crashes', undef, qr/server closed the connection|crash of another server process/ ])
{
	my ($what, $statement, $expected) = @$case;

	spoil();
	$stderr = '';
	$run = slow_rebuild("CALL esrs_rebuild('now', strategy => 'per_aggregate', workers => 2, max_rate => 2000)", \$stderr);
	ok(wait_until($node, 'postgres', "SELECT instances_done > 100 FROM esrs_progress_rebuild"), "$what: some instances are done");
	is(sql("SELECT count(*) $workers"), '2', 'by two processes');
	is(sql('SELECT count(*) FROM esrs_progress_rebuild'), '1', 'which are seen as one');
	$statement ? sql($statement) : kill('KILL', sql("SELECT max(pid) $workers"));
	$run->finish;
	like($stderr, $expected, 'the caller is told');
	ok(wait_until($node, 'postgres', "SELECT count(*) = 0 $workers"), 'all of them end');
	$done = sql($instances_done);
	cmp_ok($done, '>', 100, 'what they have done is noted');
	(undef, undef, $stderr) = $node->psql('postgres', "CALL esrs_rebuild('now', strategy => 'per_aggregate', workers => 2)");
	like($stderr, qr/goes on\nDETAIL: .* and $done instances are done/, 'the next call goes on');
	is(sql('SELECT ' . differs('now')), '0', 'and the read model is right');
}

# ---------------------------------------------------------------------------
# beside the live tables: nobody sees it, not even a dump
# ---------------------------------------------------------------------------
my $shadows = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'esrs_shadow%'";

spoil();
$stderr = '';
$run = slow_rebuild("CALL esrs_rebuild('now', strategy => 'swap', tables => '{now_model}', max_rate => 2000)", \$stderr);
my $dump = "$PostgreSQL::Test::Utils::tmp_check/meanwhile.sql";
command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'a dump meanwhile');
is(sql('SELECT count(*) FROM esrs_progress_rebuild'), '1', 'it was one');
unlike(slurp_file($dump), qr/esrs_shadow/, 'has nothing of it');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
command_ok([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $dump ], 'and can be restored');
is($node->safe_psql('restored', 'SELECT count(*) > 0 AND bool_and(sum = -1) FROM now_model'), 't', 'with the old read model');
is(sql($shadows), '0', 'others see no schema of it');
is(sql('SELECT count(*) FROM now_model WHERE sum <> -1'), '0', 'and the old read model');
sql("SELECT pg_cancel_backend(pid) FROM esrs_progress_rebuild");
$run->finish;
like($stderr, qr/ERROR:  canceling statement/, 'it is cancelled');
is(sql("SELECT count(*) FROM pg_class WHERE relname = 'now_model'"), '1', 'nothing is left');
is(sql('SELECT count(*) FROM now_model WHERE sum <> -1'), '0', 'the old read model is untouched');

# ---------------------------------------------------------------------------
# kill -9
# ---------------------------------------------------------------------------
for my $handler ('now', 'late')
{
	for my $strategy ('in_place', 'per_aggregate', 'swap')
	{
		my $tables = $strategy eq 'swap' ? ", tables => '{${handler}_model}'" : '';

		spoil();
		sql("SELECT esrs_stop_workers()");
		$stderr = '';
		$run = slow_rebuild("CALL esrs_rebuild('$handler', strategy => '$strategy', max_rate => 3000$tables)", \$stderr);
		my $pid = sql('SELECT pid FROM esrs_progress_rebuild');

		kill 'KILL', $pid;
		$run->finish;
		ok(wait_until($node, 'postgres', 'true'), "$handler, $strategy: the server is back");
		is(sql('SELECT count(*) FROM esrs_progress_rebuild'), '0', 'nothing is in progress');
		if ($strategy ne 'per_aggregate')
		{
			is(sql("SELECT count(*) FROM ${handler}_model WHERE sum <> -1"), '0', 'the old read model is untouched');
		}
		else
		{
			is(sql('SELECT count(*) FROM esrs.rebuilds'), '1', 'it is known how far it was');
		}
		sql("CALL esrs_rebuild('$handler', strategy => '$strategy'$tables)");
		ok(wait_until($node, 'postgres', differs($handler) . ' = 0'), 'and once more it is right');
		is(sql('SELECT count(*) FROM esrs.rebuilds'), '0', 'nothing is left of it');
	}
}

# ---------------------------------------------------------------------------
# memory, and silence
# ---------------------------------------------------------------------------
sql(<<SQL);
CREATE TABLE memory (n bigint GENERATED ALWAYS AS IDENTITY, kb bigint);
CREATE FUNCTION on_memory(e esrs_event) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
    IF random() < 40.0 / $events THEN
        INSERT INTO public.memory (kb) SELECT sum(total_bytes) / 1024 FROM pg_backend_memory_contexts;
    END IF;
END \$\$;
CREATE FUNCTION memory_deleted(aggregate_id uuid) RETURNS void LANGUAGE plpgsql AS \$\$BEGIN END\$\$;
SELECT esrs_register_handler('memory', ARRAY['now'], 'on_memory(esrs_event)', delete_handler => 'memory_deleted(uuid)');
SQL
for my $strategy ('in_place', 'per_aggregate')
{
	my ($rc, $stdout, $notices) = $node->psql('postgres',
		"TRUNCATE memory; LISTEN now_events; CALL esrs_rebuild('memory', strategy => '$strategy'); SELECT 1;");

	is($rc, 0, "$strategy: rebuilt") || diag($notices);
	unlike($stdout, qr/Asynchronous notification/, 'nobody was notified');
	cmp_ok(sql('SELECT coalesce(max(kb) FILTER (WHERE 2 * n > m) - max(kb) FILTER (WHERE 2 * n <= m), 0)
	              FROM memory, (SELECT max(n) + min(n) AS m FROM memory) AS x'),
		'<', 300, 'memory does not grow');
}

done_testing();
